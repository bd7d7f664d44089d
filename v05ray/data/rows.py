"""One record of a data source, read into the one shape that the rest of `data` knows, or refused with a reason.

Shapes that need no options (see docs/data.md for the whole table):
    {"question": "...", "answer": "42"}         plain; GSM8K's, whose answers end in a line `#### 42`
    {"problem": "...", "answer": "42"}          MATH, DeepMath, AIME (also with capitals)
    {"prompt": "...", "answer": "42"}           V0, TRL
    {"prompt": [{"role": "user", "content": "..."}], "reward_model": {"ground_truth": "42"},
     "data_source": "gsm8k", "extra_info": {}}  verl, SkyRL, DAPO-Math-17k
    {"input": "...", "label": "42"}             OpenRLHF; slime with `prompt`
    {"messages": [...], "answer": "42"}         AReaL; its older files have `solutions`
    {"question": "...", "final_answer": ["42"], "error": "0.1"}   OlympiadBench

A row whose fields name two different questions or answers is refused with the names: `question_field` and
`answer_field` choose.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

from v05ray.data.messages import Refused, check_text, decoded, from_text, parsed, read_messages

QUESTION_FIELDS = ("question", "problem", "prompt", "input", "instruction", "query")
"""Where a question may be when no `question_field` is given; two that differ are refused."""
CONVERSATION_FIELDS = ("messages", "conversations", "context_messages", "responses_create_params.input")
"""Where a conversation that ends with the question may be, if none of the above is there."""
ANSWER_FIELDS = (
    "answer",
    "reward_model.ground_truth",
    "ground_truth",
    "final_answer",
    "reward_spec.ground_truth",
    "verification_info.ground_truth",
    "expected_answer",
    "reference_answer",
    "label",
)
"""Where a final answer may be when no `answer_field` is given; two that differ are refused."""
SOLUTION_FIELDS = ("solution", "solutions", "output")
"""Where an answer may be, alone or at the end of a solution, if none of the above is there."""


@dataclass(frozen=True, slots=True)
class Row:
    """A record with everything a prompt needs."""

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
    """A record that cannot be used, with its place and the reason."""

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


def read_record(record: object, fields: Fields, where: str) -> Row | BadRow:
    """Reads one record; never raises for its content."""
    try:
        if not isinstance(record, Mapping):
            raise Refused(f"the row is a {type(record).__name__}, not a mapping of fields")
        row = Row(
            messages=_messages(record, fields),
            answer=_answer(record, fields),
            source=_source(record, fields),
            where=where,
            row_id=_row_id(record, fields),
            metadata=_metadata(record),
        )
        _check_whole(record, row, fields)
        return row
    except Refused as refused:
        return BadRow(where, str(refused).encode(errors="backslashreplace").decode())
    except RecursionError:
        return BadRow(where, "its values are nested too deep")


def _look_up(record: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, or None; a field whose own name has dots comes first."""
    if path in record:
        return record[path]
    value: Any = record
    for key in path.split("."):
        value = _as_mapping(value)
        if value is None or key not in value:
            return None
        value = value[key]
    return value


def _as_mapping(value: object) -> Mapping[str, Any] | None:
    """A mapping, also one that is stored as JSON text; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = parsed(value)
    if isinstance(value, list) and value and all(isinstance(one, tuple) and len(one) == 2 for one in value):
        value = dict(value)  # what Arrow calls a map
    return value if isinstance(value, Mapping) else None


def _find(record: Mapping[str, Any], named: str | None, usual: Sequence[Sequence[str]], what: str) -> tuple[str, Any]:
    """(path, value) of the one named, or of the first group of usual ones that holds any; refuses two that differ."""
    if named is not None:
        value = _look_up(record, named)
        if _is_missing(value):
            raise Refused(_not_found(record, what, (named,)))
        return named, value
    for group in usual:
        found = _present(record, group)
        if found:
            return _only(found, what)
    raise Refused(_not_found(record, what, [path for group in usual for path in group]))


def _present(record: Mapping[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """The values at some paths, each under the record's own spelling, such as `Answer`."""
    values = {path: _look_up(record, path) for path in (_spelling(record, path) for path in paths)}
    return {path: value for path, value in values.items() if not _is_missing(value)}


def _spelling(record: Mapping[str, Any], path: str) -> str:
    return path if path in record else _spellings(tuple(record)).get(path, path)


@lru_cache(maxsize=64)
def _spellings(names: tuple[object, ...]) -> dict[str, str]:
    """The names of a row's fields by their lower case; rows of a file mostly have the same ones."""
    return {str(name).casefold(): str(name) for name in reversed(names)}


def _only(found: Mapping[str, Any], what: str) -> tuple[str, Any]:
    (path, value), *others = found.items()
    differing = [name for name, other in others if _key(other) != _key(value)]
    if differing:
        shown = ", ".join(f"{name}: {found[name]!r:.40}" for name in (path, *differing))
        option = f"{what}_field"
        raise Refused(f"several fields may be the {what} ({shown}); name the right one with `{option}`")
    return path, value


def _key(value: Any) -> str:
    """Equal for values that say the same: `42`, `"42"` and `["42"]`, and messages with the same text."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        return _key(value[0])
    if isinstance(value, Mapping) and isinstance(value.get("content"), str):
        return _key(value["content"])
    if isinstance(value, str):
        return " ".join(_after_hashes(value).split())
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column with gaps makes floats of whole numbers
    return json.dumps(value, default=str)


def _not_found(record: Mapping[str, Any], what: str, paths: Sequence[str]) -> str:
    have = ", ".join(map(str, record)) or "none"
    return f"no {what}: looked for {', '.join(paths)}; fields of the row: {have}"


def _is_missing(value: object) -> bool:
    """Null, and what tables have in its place: NaN, the empty text."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or value == ""


def _messages(record: Mapping[str, Any], fields: Fields) -> tuple[tuple[str, str], ...]:
    # verl's rows and their like say which field is the prompt; beside it, the bare question is often there as well.
    usual = (QUESTION_FIELDS, CONVERSATION_FIELDS)
    if any(_as_mapping(record.get(name)) for name in ("reward_model", "reward_spec")):
        usual = (("prompt",), *usual)
    if _as_mapping(record.get("responses_create_params")):
        usual = (("responses_create_params.input",), *usual)
    _, value = _find(record, fields.question, usual, "question")
    value = decoded(value, "question")
    stored = from_text(value) if isinstance(value, str) else value
    if isinstance(stored, str):
        stored = [{"role": "user", "content": _with_context(record, stored)}]
    return read_messages(stored)


def _with_context(record: Mapping[str, Any], question: str) -> str:
    """OlympiadBench keeps what several questions have in common in a field of its own, which goes before them."""
    context = record.get("context")
    if "final_answer" in record and isinstance(context, str) and context.strip():
        return f"{context.strip()}\n{question}"
    return question


_MEDIA = ("images", "image", "videos", "video", "audios", "audio")
_PLACEHOLDER = re.compile(r"<image_?\d+>")
_CHOICES = ("choices", "options")


def _check_whole(record: Mapping[str, Any], row: Row, fields: Fields) -> None:
    """Refuses a row of which something that the question needs is in another field, and would be left out."""
    question = row.messages[-1][1]
    shown = [f"field {name!r}" for name in (_spelling(record, name) for name in _MEDIA) if record.get(name)]
    if shown := [*shown, *_PLACEHOLDER.findall(question)]:
        raise Refused(f"the question goes with what is no text ({shown[0]}); only text can be put to the policy")
    if fields.question is not None or fields.answer is not None:
        return
    for name in (_spelling(record, name) for name in _CHOICES):
        choices = _choices(record.get(name))
        if len(choices) > 1 and _is_choice(row.answer, len(choices)) and not any(one in question for one in choices):
            raise Refused(
                f"the answer {row.answer!r} chooses from field {name!r}, which is no part of the question; write the "
                "choices into the question, or name `question_field` to leave them out"
            )


def _choices(value: object) -> list[str]:
    if isinstance(value, Mapping):  # {"text": [...], "label": [...]}, or {"A": ..., "B": ...}
        value = value["text"] if isinstance(value.get("text"), list) else list(value.values())
    return [str(one).strip() for one in value if str(one).strip()] if isinstance(value, list) else []


def _is_choice(answer: str, count: int) -> bool:
    """Whether an answer is the number or the letter of one of that many choices."""
    if answer.isascii() and answer.isdigit():
        return int(answer) <= count
    return len(answer.strip("() .")) == 1 and answer.strip("() .").isalpha()


def _answer(record: Mapping[str, Any], fields: Fields) -> str:
    try:
        path, value = _find_answer(record, fields)
    except Refused:
        if fields.require_answer:
            raise
        return ""
    text = _answer_text(path, value)
    if fields.answer_after:
        if fields.answer_after not in text:
            raise Refused(f"the answer has no {fields.answer_after!r}, which `answer_after` asks for")
        text = text.rsplit(fields.answer_after, 1)[1]
    else:
        text = _after_hashes(text)
    if fields.require_answer and not text.strip():
        raise Refused("the answer is empty")
    check_text(text, "answer")
    return text.strip()


def _find_answer(record: Mapping[str, Any], fields: Fields) -> tuple[str, Any]:
    if fields.answer is not None:
        return _find(record, fields.answer, (), "answer")
    found = _present(record, ANSWER_FIELDS)
    if found:
        return _only(found, "answer")
    for name in (_spelling(record, path) for path in ANSWER_FIELDS):
        if name in record:  # the row says that it has no answer: its solution is not taken for one
            raise Refused(
                f"the answer is empty: field {name!r} is {record[name]!r}; drop the row, or name another `answer_field`"
            )
    path, value = _find(record, None, (ANSWER_FIELDS, SOLUTION_FIELDS), "answer")
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    if listed and any(len(str(item).split()) > _MOST_WORDS for item in value):
        raise Refused(f"field {path!r} is a list of worked solutions, not an answer; name one with `answer_field`")
    return path, value


_MOST_WORDS = 25
"""An item of a list has fewer words than this where it is an answer."""


def _answer_text(path: str, value: Any) -> str:
    """An answer as text: scalars as JSON writes them, a list's as JSON text of its items."""
    value = decoded(value, "answer")
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and not value:
        return ""
    if isinstance(value, Sequence) and all(_is_scalar(item) for item in value):
        items = [_scalar_text(item) for item in value]
        # OlympiadBench's lists mostly hold one item. Alternatives are items in quotes, `[3, 4]` would be an interval.
        if len(items) == 1 and path.casefold().endswith("final_answer"):
            return items[0]
        return json.dumps(items, ensure_ascii=False)
    if _is_scalar(value):
        return _scalar_text(value)
    if isinstance(value, date | time | timedelta):
        return str(value)
    # Code tasks keep test cases here: their verifier reads them back as JSON.
    try:
        return json.dumps(value, default=str, allow_nan=False)
    except ValueError as error:
        raise Refused(f"the answer holds NaN or infinity: {value!r:.80}") from error


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | bool | int | float | Decimal)


def _scalar_text(value: object) -> str:
    if value is None or (isinstance(value, float | Decimal) and not math.isfinite(value)):
        raise Refused(f"the answer is {value}, which is no answer")
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


_HASHES = re.compile(r"(?:^|\n)[ \t]*####[ \t]*(?P<answer>[^\n]+?)\s*\Z")


def _after_hashes(text: str) -> str:
    """What the last line says after GSM8K's mark, or the whole text."""
    match = _HASHES.search(text)
    return match["answer"] if match else text


def _row_id(record: Mapping[str, Any], fields: Fields) -> str | None:
    if fields.row_id is None:
        return None
    value = _look_up(record, fields.row_id)
    if value is None or not str(value).strip():
        raise Refused(f"no id in field {fields.row_id!r}")
    check_text(str(value), "id")
    return str(value)


def _source(record: Mapping[str, Any], fields: Fields) -> str:
    value = record.get("data_source")
    if _is_missing(value) or not value:
        return fields.source
    check_text(str(value), "data_source")
    return str(value)


_BESIDE_TESTS = ("entry_point", "fn_name", "test_setup_code", "test_imports")
"""Fields of HumanEval, TACO and MBPP that belong to a row's tests; see `rewards.code.references`."""


def _metadata(record: Mapping[str, Any]) -> dict[str, object]:
    """`metadata` and verl's `extra_info`, as JSON values, OlympiadBench's `error` as the number `tolerance`, and what
    code tasks have beside their tests."""
    merged: dict[str, object] = {}
    for name in ("metadata", "extra_info"):
        value = _as_mapping(record.get(name))
        if value is not None:
            merged.update(json.loads(json.dumps(_plain(value), default=str)))
    for name in _BESIDE_TESTS:
        if not _is_missing(record.get(name)):
            merged.setdefault(name, json.loads(json.dumps(_plain(record[name]), default=str)))
    tolerance = _tolerance(record.get("error")) if "final_answer" in record else None
    if tolerance is not None:
        merged.setdefault("tolerance", tolerance)
    return merged


def _plain(value: Any) -> Any:
    """Values that JSON and files can hold: NaN and infinity are null, lone surrogates are question marks."""
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _tolerance(value: object) -> float | None:
    """The absolute error that the row allows; the smallest where it gives one for each part of the answer."""
    parts = value.split(",") if isinstance(value, str) else [value]
    found = []
    for part in parts:
        try:
            found.append(float(part))  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError):
            return None
    smallest = min(found)
    return smallest if math.isfinite(smallest) and smallest > 0 else None
