"""Files that `v05ray value predict` takes: prompts to ask about, and what a policy did."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from v05ray.errors import ConfigError
from v05ray.registry import suggest
from v05ray.types import SupportExample
from v05ray.value.records import read_jsonl


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{path}, line {number}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{path}, line {number}: expected an object, got {type(row).__name__}")
    return row


def read_questions(path: Path) -> dict[str, str]:
    """Prompts by id, from `.json` ({"id": text}), `.jsonl` ({"id"?, "text"}) or any other file (a prompt per line).

    Lines without an id are named by their number. Raises `ConfigError` for an empty file, an empty prompt, or an id
    that comes twice.
    """
    if path.suffix == ".json":
        from v05ray.value.records import read_prompts

        questions = read_prompts(path)
    else:
        questions = {}
        for number, line in _lines(path):
            identifier, text = str(number), line.strip()
            if path.suffix == ".jsonl":
                row = _row(path, number, line)
                if not isinstance(row.get("text"), str):
                    raise ConfigError(f'{path}, line {number}: a row is {{"id"?, "text"}}, got {sorted(row)}')
                identifier, text = str(row.get("id", number)), row["text"]
            if identifier in questions:
                raise ConfigError(f"{path}, line {number}: the id {identifier!r} comes twice")
            questions[identifier] = text
    if not questions:
        raise ConfigError(f"{path} has no prompts")
    for identifier, text in questions.items():
        if not text.strip():
            raise ConfigError(f"{path}: the prompt {identifier!r} is empty")
    return questions


def read_context(path: Path, questions: Mapping[str, str], policy: str | None) -> list[SupportExample]:
    """Support pairs: rows `{"text", "score"}`, or V0's `{id, score, model, step, dataset}` with texts from `questions`.

    V0's rows may hold several policies: `policy` names one as DATASET/MODEL@STEP. Raises `ConfigError` for scores
    outside [-1, 1], several policies and none named, or an unknown one.
    """
    lines = _lines(path)
    if not lines:
        raise ConfigError(f"{path} has no rows")
    if "text" not in _row(path, *lines[0]):
        records = read_jsonl(path, questions)
        policies = sorted({str(record.policy) for record in records})
        if policy is None and len(policies) > 1:
            raise ConfigError(f"{path} holds {len(policies)} policies; choose one with --policy: {', '.join(policies)}")
        if policy is not None and policy not in policies:
            raise ConfigError(f"{path} has no policy {policy!r}{suggest(policy, policies)}")
        chosen = [record for record in records if policy in (None, str(record.policy))]
        return [SupportExample(str(i), record.text, record.score, 0) for i, record in enumerate(chosen)]
    support = []
    for number, line in lines:
        row = _row(path, number, line)
        score = row.get("score")
        if not isinstance(row.get("text"), str) or not row["text"].strip():
            raise ConfigError(f'{path}, line {number}: no text; a row is {{"text", "score"}}')
        if isinstance(score, bool) or not isinstance(score, int | float) or not -1 <= score <= 1:
            raise ConfigError(f"{path}, line {number}: score {score!r} is not a number in [-1, 1]")
        support.append(SupportExample(str(number), row["text"], float(score), 0))
    return support
