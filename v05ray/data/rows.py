"""One record of a data source, read into the one shape that the rest of `data` knows, or refused with a reason.

Shapes that need no options (the first field present is taken):
    {"question": "...", "answer": "42"}         plain; GSM8K's with `answer_after: "####"`
    {"problem": "...", "answer": "42"}          MATH, DeepMath, AIME
    {"prompt": "...", "answer": "42"}           V0
    {"prompt": [{"role": "user", "content": "..."}], "reward_model": {"ground_truth": "42"},
     "data_source": "gsm8k", "extra_info": {}}  verl
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

QUESTION_FIELDS = ("question", "problem", "prompt")
"""Tried in order where no `question_field` is given."""
ANSWER_FIELDS = ("answer", "reward_model.ground_truth", "ground_truth", "solution")
"""Tried in order where no `answer_field` is given."""
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Row:
    """A usable record."""

    messages: tuple[tuple[str, str], ...]
    """(role, content) pairs; the last is the user's question."""
    answer: str
    source: str
    where: str
    """File and row, for error messages."""
    row_id: str | None = None
    """The record's own id; None where the source has none."""
    metadata: Mapping[str, object] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The last user message, as a person wrote it."""
        return self.messages[-1][1]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that cannot be used."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Fields:
    """Where to look in a record; names may be dotted paths such as `reward_model.ground_truth`."""

    question: str | None = None
    answer: str | None = None
    row_id: str | None = None
    answer_after: str | None = None
    """Keep only what follows the last such mark of the answer, such as GSM8K's `####`."""
    require_answer: bool = True
    """Whether a record without an answer is refused; a verifier that reads the metadata may need none."""
    source: str = "data"
    """The source's name where the record has no `data_source`."""


class _Refused(ValueError):
    """Why a record cannot be used; becomes a `BadRow`."""


def read_record(record: object, fields: Fields, where: str) -> Row | BadRow:
    """Reads one record; never raises for what stands in it."""
    try:
        if not isinstance(record, Mapping):
            raise _Refused(f"the row is a {type(record).__name__}, not a mapping of fields")
        return Row(
            messages=_messages(record, fields),
            answer=_answer(record, fields),
            source=str(record.get("data_source") or fields.source),
            where=where,
            row_id=_row_id(record, fields),
            metadata=_metadata(record),
        )
    except _Refused as refused:
        return BadRow(where, str(refused))


def _look_up(record: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, or None; a field whose own name has dots comes first."""
    if path in record:
        return record[path]
    value: Any = record
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def _find(record: Mapping[str, Any], named: str | None, usual: Sequence[str], what: str) -> Any:
    paths = (named,) if named else usual
    for path in paths:
        value = _look_up(record, path)
        if value is not None:
            return value
    have = ", ".join(map(str, record)) or "none"
    raise _Refused(f"no {what}: looked for {', '.join(paths)}; fields of the row: {have}")


def _messages(record: Mapping[str, Any], fields: Fields) -> tuple[tuple[str, str], ...]:
    value = _find(record, fields.question, QUESTION_FIELDS, "question")
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, Sequence) or not value:
        raise _Refused(f"the question is neither text nor a list of messages but {value!r:.80}")
    messages = tuple(_message(one) for one in value)
    role, content = messages[-1]
    if role != "user":
        raise _Refused(f"the last message is the {role}'s, not the user's")
    if not content.strip():
        raise _Refused("the question is empty")
    return messages


def _message(value: object) -> tuple[str, str]:
    if not isinstance(value, Mapping) or not isinstance(value.get("content"), str) or value.get("role") not in ROLES:
        raise _Refused(f"a message needs a role ({', '.join(ROLES)}) and a text content, got {value!r:.80}")
    return value["role"], value["content"]


def _answer(record: Mapping[str, Any], fields: Fields) -> str:
    try:
        value = _find(record, fields.answer, ANSWER_FIELDS, "answer")
    except _Refused:
        if fields.require_answer:
            raise
        return ""
    # Code tasks keep lists or mappings of test cases here: their verifier reads them back as JSON.
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if fields.answer_after is not None:
        if fields.answer_after not in text:
            raise _Refused(f"the answer has no {fields.answer_after!r}, which `answer_after` asks for")
        text = text.rsplit(fields.answer_after, 1)[1]
    if fields.require_answer and not text.strip():
        raise _Refused("the answer is empty")
    return text.strip()


def _row_id(record: Mapping[str, Any], fields: Fields) -> str | None:
    if fields.row_id is None:
        return None
    value = _look_up(record, fields.row_id)
    if value is None or not str(value).strip():
        raise _Refused(f"no id in field {fields.row_id!r}")
    return str(value)


def _metadata(record: Mapping[str, Any]) -> dict[str, object]:
    """`metadata` and verl's `extra_info`, as JSON values (numbers of numpy, dates and the like become text)."""
    merged: dict[str, object] = {}
    for name in ("metadata", "extra_info"):
        value = record.get(name)
        if isinstance(value, Mapping):
            merged.update(json.loads(json.dumps(value, default=str)))
    return merged
