"""From rows to the token ids that the policy is given: chat template, texts around the question, control tokens.

A template is other people's code: whatever it raises becomes a bad row with the file, the row and what to change.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta

from v05ray.config import DataConfig
from v05ray.data.files import one_line
from v05ray.data.messages import parsed
from v05ray.data.rows import BadRow, Row
from v05ray.errors import ConfigError

Message = dict[str, str]

_OURS = frozenset({"conversation", "messages", "chat_template", "tokenize", "add_generation_prompt", "tokenizer"})
"""Arguments of templating that are not the user's to set."""
_SHORTEST_CONTROL_TOKEN = 3
"""Characters; some tokenizers declare `!` or the like special, which every text holds."""

_RAISED_BY_TEMPLATES = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
)
"""Of `raise_exception`, and of Python expressions in a template over messages that it was not written for."""


def templating(data: DataConfig, tokenizer: Any) -> Callable[[Sequence[Row]], list[tuple[int, ...] | BadRow]]:
    """A function from rows to token ids, or the reason against a row.

    Raises `ConfigError` for what cannot work for any row.
    """
    render = _Renderer(data, tokenizer)

    def tokenize(rows: Sequence[Row]) -> list[tuple[int, ...] | BadRow]:
        rendered = [render(row) for row in rows]
        texts = [text for text in rendered if isinstance(text, str)]
        # A chat template writes its own special tokens; a raw text gets those of the tokenizer.
        encoded = tokenizer(texts, add_special_tokens=not data.chat_template)["input_ids"] if texts else []
        if not data.chat_template and data.prefix:
            _check_one_start(encoded, tokenizer)
        ids = iter(encoded)
        return [text if isinstance(text, BadRow) else tuple(next(ids)) for text in rendered]

    return tokenize


def _check_one_start(encoded: Sequence[Sequence[int]], tokenizer: Any) -> None:
    """Refuses a prefix with the token that the tokenizer begins every raw text with: the policy would get it twice."""
    start = getattr(tokenizer, "bos_token_id", None)
    if start is not None and any(list(ids[:2]) == [start, start] for ids in encoded):
        raise ConfigError(
            f"data.prefix begins with {tokenizer.bos_token!r}, which the tokenizer puts before each question itself; "
            "take it out"
        )


class _Renderer:
    """The text that a row's prompt is made of, as the policy's tokenizer gets it."""

    def __init__(self, data: DataConfig, tokenizer: Any) -> None:
        self._data, self._tokenizer = data, tokenizer
        self._control = _control_tokens(tokenizer)
        self._options: dict[str, Any] = {}
        _check_no_place(data)
        if data.chat_template:
            self._options = _template_options(data, tokenizer)
        else:
            _check_raw(data)

    def __call__(self, row: Row) -> str | BadRow:
        data = self._data
        for _, content in row.messages:
            if self._control is not None and (found := self._control.search(content)):
                return BadRow(
                    row.where,
                    f"the question holds {found[0]!r}, which the tokenizer reads as a control token, not as text; "
                    "take it out, or write it in another way",
                )
        messages = [{"role": role, "content": content} for role, content in row.messages]
        messages[-1]["content"] = data.prefix + messages[-1]["content"] + data.suffix
        if not data.chat_template:
            if len(messages) > 1:
                return BadRow(row.where, "a conversation of several messages needs data.chat_template: true")
            return messages[0]["content"]
        if data.system_prompt is not None:
            if messages[0]["role"] == "system":
                return BadRow(row.where, "the row has a system message of its own; set data.system_prompt: null")
            messages.insert(0, {"role": "system", "content": data.system_prompt})
        return self._templated(messages, row.where)

    def _templated(self, messages: list[Message], where: str) -> str | BadRow:
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self._options
            )
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                f"{_named(self._data)} is no valid template: {one_line(error)} (line {error.lineno}); correct it, or "
                "set data.chat_template_file to another"
            ) from error
        except _RAISED_BY_TEMPLATES as error:
            return BadRow(where, self._refused(messages, one_line(error)))
        for message in messages:
            # Of earlier answers, templates of models that think leave out the thinking, and are right to.
            if message["role"] != "assistant" and message["content"].strip() not in text:
                return BadRow(
                    where, self._refused(messages, f"it leaves out or changes the {message['role']}'s message")
                )
        prefix = self._data.assistant_prefix
        if prefix.strip() and text.rstrip().endswith(prefix.strip()):
            raise ConfigError(
                f"{_named(self._data)} begins the response with {prefix.strip()!r} already, and data.assistant_prefix "
                "would repeat it; leave data.assistant_prefix out"
            )
        return text + prefix

    def _refused(self, messages: Sequence[Message], reason: str) -> str:
        roles = [message["role"] for message in messages]
        fixes = []
        if self._data.system_prompt is not None:
            fixes.append("set data.system_prompt: null and put its text into data.prefix")
        elif "system" in roles:
            fixes.append("put the row's system message into its question")
        if len(roles) > 1 + ("system" in roles):
            fixes.append("let the row's user and assistant messages take turns, the user's first and last")
        fixes.append("set data.chat_template_file to a template that takes them")
        return f"{_named(self._data)} refuses the messages ({', '.join(roles)}): {reason}; {', or '.join(fixes)}"


def _named(data: DataConfig) -> str:
    file = data.chat_template_file
    return "the tokenizer's chat template" if file is None else f"the chat template {file}"


_PLACE = re.compile(r"(?<![\\A-Za-z])\{\{?\s*(?:question|problem|prompt|query|instruction)\s*\}\}?", re.IGNORECASE)
"""Where other programs' prompt templates put the question; `\\text{problem}` is LaTeX."""


def _check_no_place(data: DataConfig) -> None:
    """Refuses a place for the question in a text that is put beside it: it would stay there as it is written."""
    for name in ("system_prompt", "prefix", "suffix", "assistant_prefix"):
        if found := _PLACE.search(getattr(data, name) or ""):
            raise ConfigError(
                f"data.{name} holds {found[0]!r}, which is put to the policy as it is; the question is between "
                "data.prefix and data.suffix: put the text before it into the one and the text behind it into the other"
            )


def _check_raw(data: DataConfig) -> None:
    """Refuses what only a chat template can use."""
    if data.system_prompt is not None:
        raise ConfigError("data.system_prompt needs data.chat_template: true; a raw question has no system message")
    if data.assistant_prefix:
        raise ConfigError("data.assistant_prefix needs data.chat_template: true; put its text into data.suffix")
    for name in ("chat_template_kwargs", "chat_template_file"):
        if getattr(data, name):
            raise ConfigError(f"data.{name} needs data.chat_template: true; set that, or leave it out")


def _template_options(data: DataConfig, tokenizer: Any) -> dict[str, Any]:
    """What `apply_chat_template` is given beside the messages."""
    options = dict(data.chat_template_kwargs)
    if data.chat_template_file is None:
        template = getattr(tokenizer, "chat_template", None)
        if not template:
            raise ConfigError(
                "the tokenizer has no chat template; set data.chat_template: false to give questions as they are, or "
                "data.chat_template_file"
            )
        if isinstance(template, Mapping):
            template = "\n".join(map(str, template.values()))
    else:
        template = _read(data.chat_template_file)
        options["chat_template"] = template
    taken = _variables(str(template))
    for name, value in data.chat_template_kwargs.items():
        if name in _OURS or name.startswith(("return_", "truncat", "padding", "max_length", "continue_final")):
            raise ConfigError(f"data.chat_template_kwargs must not set {name!r}, which loading sets itself; remove it")
        if name not in taken:
            raise ConfigError(
                f"data.chat_template_kwargs sets {name!r}, which {_named(data)} does not use; correct the name, or "
                "remove it"
            )
        if isinstance(value, str) and value.strip().casefold() in ("true", "false"):
            raise ConfigError(
                f"data.chat_template_kwargs sets {name!r} to the text {value!r}, which counts as true in a template; "
                "write it without quotes"
            )
    return options


_GENERATION = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")
"""transformers' own tag, which marks what the assistant says."""


def _variables(template: str) -> set[str]:
    """The names that a template takes from outside; all words of one that cannot be parsed, which rendering refuses."""
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        return jinja2.meta.find_undeclared_variables(environment.parse(_GENERATION.sub("", template)))
    except jinja2.TemplateError:
        return set(re.findall(r"\w+", template))


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig")  # a byte order mark would begin every prompt
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"data.chat_template_file {file} cannot be read: {one_line(error)}") from error
    if _holds_template(text):
        raise ConfigError(
            f"data.chat_template_file {file} is JSON with a template in it; write the value of its 'chat_template' "
            "into a file of its own"
        )
    if not text.strip():
        raise ConfigError(f"data.chat_template_file {file} is empty; give a file with a Jinja template")
    return text


def _holds_template(text: str) -> bool:
    """Whether it is a `chat_template.json` or `tokenizer_config.json`."""
    value = parsed(text)
    return isinstance(value, dict) and "chat_template" in value


def _control_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    """Matches what the tokenizer reads as one of its special tokens wherever it occurs in a text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    texts = {str(token.content) for token in added.values() if token.special}
    texts = {text for text in texts if len(text) >= _SHORTEST_CONTROL_TOKEN}
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True)))) if texts else None
