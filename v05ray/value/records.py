"""What is known of how policies did: records of (prompt, score, policy), from V0's JSONL and from runs' own ledgers."""

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from v05ray.errors import ConfigError
from v05ray.types import Draw

LEDGER_WINDOW_PAIRS = 384
"""Groups of a ledger that make up one task pool: its policies change little within so few steps."""


class Policy(NamedTuple):
    """Support and queries of one task share it."""

    dataset: str
    model: str
    step: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.model}@{self.step}"


@dataclass(frozen=True, slots=True)
class ValueRecord:
    """One prompt's mean score under one policy."""

    text: str
    score: float
    """In [-1, 1]."""
    policy: Policy

    @property
    def rate(self) -> float:
        """Success rate (score + 1) / 2 in [0, 1]."""
        return (self.score + 1) / 2


def read_prompts(path: Path) -> dict[str, str]:
    """V0's prompt dictionary `{"DATASET_ID": text}`; raises `ConfigError` for anything else."""
    try:
        prompts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"prompt dictionary {path} cannot be read: {error}") from error
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ConfigError(f'prompt dictionary {path} must map "DATASET_ID" to the prompt\'s text')
    return prompts


def _record(row: Any, prompts: Mapping[str, str], where: str) -> ValueRecord:
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: expected an object, got {type(row).__name__}")
    missing = [name for name in ("id", "score", "model", "step", "dataset") if name not in row]
    if missing:
        raise ConfigError(f"{where}: no {', '.join(missing)}; a row is {{id, score, model, step, dataset}}")
    key = f"{row['dataset']}_{row['id']}"
    if key not in prompts:
        raise ConfigError(f"{where}: the prompt dictionary has no {key!r}")
    score = row["score"]
    if isinstance(score, bool) or not isinstance(score, int | float) or not -1 <= score <= 1:
        raise ConfigError(f"{where}: score {score!r} of {key!r} is not a number in [-1, 1]; a rate p is score 2 p - 1")
    if isinstance(row["step"], bool) or not isinstance(row["step"], int):
        raise ConfigError(f"{where}: step {row['step']!r} of {key!r} is not a whole number")
    if not prompts[key].strip():
        raise ConfigError(f"{where}: the prompt of {key!r} is empty")
    return ValueRecord(prompts[key], float(score), Policy(str(row["dataset"]), str(row["model"]), row["step"]))


def read_jsonl(path: Path, prompts: Mapping[str, str]) -> list[ValueRecord]:
    """V0's format, a row `{id, score, model, step, dataset}` per line; `ConfigError` says file, line and reason."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"value data {path} cannot be read: {error}") from error
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{where}: not JSON ({error})") from error
        records.append(_record(row, prompts, where))
    if not records:
        raise ConfigError(f"value data {path} has no rows")
    return records


def ledger_folder(path: Path) -> Path | None:
    """The ledger in or at `path`: a run's folder, or the ledger's own; None where there is none."""
    for folder in (path / "ledger", path):
        if folder.is_dir() and any(folder.glob("step-*.json")):
            return folder
    return None


def read_ledger(path: Path, *, window_pairs: int = LEDGER_WINDOW_PAIRS) -> list[ValueRecord]:
    """Every group of a run: its prompt and the mean of its cold-start rollouts.

    Later rollouts are left out, for they were drawn because of what the first showed. Consecutive steps are pooled
    until they hold `window_pairs` groups (the last window may hold up to twice that); the policy's step is the
    window's last step. Raises `ConfigError` where `path` has no ledger or the ledger no group.
    """
    from v05ray.ledger import LedgerReader

    folder = ledger_folder(path)
    if folder is None:
        raise ConfigError(f"{path} holds no ledger; give a run's folder, or a JSONL file of V0's format")
    run = folder.parent.name if folder.name == "ledger" else folder.name
    reader = LedgerReader(folder)
    by_step: list[tuple[int, list[tuple[str, str, float]]]] = []
    for step in reader.steps:
        rows = []
        for group in reader.groups(step):
            first = group.decisions[0].action if group.decisions else None
            count = first.num_rollouts if isinstance(first, Draw) else len(group.rewards)
            rewards = group.rewards[:count]
            if rewards and group.text.strip():
                rows.append((group.source, group.text, sum(rewards) / len(rewards)))
        by_step.append((step, rows))
    windows: list[list[tuple[int, list[tuple[str, str, float]]]]] = [[]]
    for entry in by_step:
        if sum(len(rows) for _, rows in windows[-1]) >= window_pairs:
            windows.append([])
        windows[-1].append(entry)
    if len(windows) > 1 and sum(len(rows) for _, rows in windows[-1]) < window_pairs:
        tail = windows.pop()
        windows[-1].extend(tail)
    records = []
    for window in windows:
        # A prompt that comes twice counts with its last score.
        latest: dict[str, float] = {}
        for _, rows in window:
            for _, text, score in rows:
                latest[text] = score
        last_step = window[-1][0] if window else 0
        records += [ValueRecord(text, score, Policy("ledger", run, last_step)) for text, score in latest.items()]
    if not records:
        raise ConfigError(f"the ledger at {folder} has no scored group yet")
    return records


def read_any(paths: Sequence[Path], prompts: Mapping[str, str] | None) -> list[ValueRecord]:
    """JSONL files, ledgers, or folders of either; raises `ConfigError` for a path that is none of them."""
    records: list[ValueRecord] = []
    for path in paths:
        if path.is_dir() and ledger_folder(path) is not None:
            records += read_ledger(path)
            continue
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise ConfigError(f"{path} is neither a JSONL file nor a folder with JSONL files or a ledger")
        if prompts is None:
            raise ConfigError(f"{path} is in V0's format, which names prompts by id; give --prompts FILE as well")
        for file in files:
            records += read_jsonl(file, prompts)
    return merge_duplicates(records)


def merge_duplicates(records: Iterable[ValueRecord]) -> list[ValueRecord]:
    """One record per (policy, text), with the mean score; the first one's place is kept."""
    scores: dict[tuple[Policy, str], list[float]] = defaultdict(list)
    for record in records:
        scores[record.policy, record.text].append(record.score)
    return [ValueRecord(text, sum(s) / len(s), policy) for (policy, text), s in scores.items()]


def held_out_texts(all_texts: Iterable[str], share: float, seed: int) -> frozenset[str]:
    """A seeded `share` of the distinct texts: a prompt is held out under every policy or under none."""
    if not 0 < share < 1:
        raise ConfigError(f"the share of held-out prompts must lie between 0 and 1, got {share}")
    texts = sorted(set(all_texts))
    count = round(share * len(texts))
    if not 0 < count < len(texts):
        raise ConfigError(f"{len(texts)} prompts are too few to hold {share:.0%} of them out")
    return frozenset(random.Random(seed).sample(texts, count))
