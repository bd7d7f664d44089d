"""Messages of a record: a question, or a conversation that ends with one, in the forms that people store them in."""

import ast
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

ROLES = ("system", "user", "assistant")


class Refused(ValueError):
    """Why a record cannot be used; becomes a `BadRow`."""


def read_messages(value: Any) -> tuple[tuple[str, str], ...]:
    """(role, text) of each message of a list, or of one alone; raises `Refused` unless the last one is a question."""
    if isinstance(value, Mapping):
        columns = [value.get(name) for name in ("role", "content")]
        if all(isinstance(column, list) for column in columns):  # `datasets` keeps a list of messages so
            value = [{"role": role, "content": content} for role, content in zip(*columns, strict=False)]
        else:
            value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise Refused(f"the question is neither text nor a list of messages but {value!r:.80}")
    messages = tuple(_message(one) for one in value)
    role, content = messages[-1]
    if role != "user":
        raise Refused(f"the last message is the {role}'s, not the user's; cut it off, or name another `question_field`")
    if not _is_visible(content):
        raise Refused("the question is empty")
    for _, text in messages:
        check_text(text, "question")
    return messages


_STORED = re.compile(r"""\s*(?:array\(\s*)?(?P<list>\[\s*)?\{\s*['"](?:role|content|from|value)['"]\s*:""")
"""How messages begin that are stored as text: JSON's, or what Python prints of them."""


def from_text(text: str) -> Any:
    """Messages that are stored as text; any other text as it is. Raises `Refused` for what cannot be read back."""
    looks = _STORED.match(text)
    if looks is None:
        return text
    value = parsed(text)
    if value is None:
        try:
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError) as error:
            raise Refused(
                f"the question holds messages as text that cannot be read back: {text!r:.80}; store them as JSON"
            ) from error
    if isinstance(value, list if looks["list"] else Mapping):
        return value
    raise Refused(f"the question is neither text nor a list of messages but {value!r:.80}")


def decoded(value: Any, what: str) -> Any:
    """Text for bytes, as some tables hold it."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise Refused(f"the {what} is bytes that are not UTF-8: {error}") from error


def _is_visible(text: str) -> bool:
    """Whether anything of it can be seen: spaces, controls and marks of width zero cannot."""
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)


_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
"""ShareGPT's names of roles: `{"from": "human", "value": "..."}`."""


def _message(value: object) -> tuple[str, str]:
    if isinstance(value, Mapping) and "from" in value and "role" not in value:
        value = {"role": _SPEAKERS.get(str(value["from"]).casefold(), value["from"]), "content": value.get("value")}
    if isinstance(value, list) and all(isinstance(one, tuple) and len(one) == 2 for one in value):
        value = dict(value)
    role = str(value.get("role")).casefold() if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or role not in ROLES:
        raise Refused(f"a message needs a role ({', '.join(ROLES)}) and a text content, got {value!r:.80}")
    content = decoded(value.get("content"), "message")
    if isinstance(content, Sequence) and not isinstance(content, str) and content:
        content = "".join(map(_part, content))
    if not isinstance(content, str):
        raise Refused(f"a message needs a role ({', '.join(ROLES)}) and a text content, got {value!r:.80}")
    return role, content


def _part(value: object) -> str:
    """The text of one part of a message's content."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and value.get("type", "text") in ("text", "input_text"):
        text = value.get("text")
        if isinstance(text, str):
            return text
    kind = value.get("type") if isinstance(value, Mapping) else type(value).__name__
    raise Refused(f"a part of a message is no text but {kind!r}: {value!r:.80}; only text can be put to the policy")


def check_text(text: str, what: str) -> None:
    """Refuses half of a UTF-16 pair standing alone, which JSON can write (`\\ud83d`) and no text can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Refused(f"the {what} holds a lone surrogate {text[error.start]!a}, which is no character") from error


def parsed(text: str) -> Any:
    """The value of a JSON text; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
