"""The run's append-only record: every rollout and every decision, one pair of Parquet files per step.

    RUN/ledger/rollouts-000012.parquet    a row per rollout: prompt, response, reward, tokens, advantage, ...
    RUN/ledger/decisions-000012.parquet   a row per decision of the budget machine, with the evidence it rests on
    RUN/ledger/step-000012.json           names the two, with their row counts and the step's settings

A step exists once its JSON file does; it is written last and renamed into place, so a process killed at any moment
leaves whole steps and files that no step names, which are never read. A step written again (after a resume from an
earlier checkpoint) gets files of a new name and switches over in the same rename.

What a resume repeats is not thrown away: its steps move to `superseded/001/`, `superseded/002/`, ..., each a ledger of
the same form, and so do the finished prompts of a step that was given up. No reader of the run's ledger looks there.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from v05ray import durable
from v05ray.recorded import Conservation, RecordedGroup, RecordedRollout, group_problems, num_given_up
from v05ray.registry import RunError
from v05ray.types import Decision, Draw, Prior, RolloutGroup, Stop

GREEDY_INDEX = -1
FORMAT_VERSION = 1
"""Raised when a column changes its meaning; columns that are only added keep it (old steps read them as null)."""

ROLLOUT_SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("position", pa.int32()),  # of the prompt in the batch, from 0
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("source", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("sample_index", pa.int32()),  # GREEDY_INDEX for the temperature-0 rollout that some estimators need
        ("response", pa.string()),
        ("reward", pa.float64()),
        ("verdict", pa.string()),
        ("num_tokens", pa.int32()),
        ("logprob_sum", pa.float64()),  # nats, of the whole response under the sampling distribution
        ("finish_reason", pa.string()),
        ("policy_version", pa.int64()),
        ("generator_id", pa.string()),
        ("seconds", pa.float64()),
        ("advantage", pa.float64()),  # null where the group gave no training samples
    ],
    metadata={"v05ray.ledger.version": str(FORMAT_VERSION)},
)
DECISION_SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("position", pa.int32()),
        ("prompt_id", pa.string()),
        ("sequence", pa.int32()),  # of the prompt's decisions, from 0
        ("action", pa.string()),  # draw | stop
        ("num_rollouts", pa.int32()),  # of a draw
        ("reason", pa.string()),  # of a stop
        ("num_scored", pa.int32()),
        ("mean", pa.float64()),
        ("prior", pa.float64()),  # as the rule used it
        ("bias_squared", pa.float64()),
        ("target", pa.int32()),
        ("open_prompts", pa.int32()),
        ("group_prior", pa.float64()),  # the value model's, whether or not the rule used it
        ("prior_origin", pa.string()),
        ("prior_version", pa.int64()),
    ],
    metadata={"v05ray.ledger.version": str(FORMAT_VERSION)},
)
SUPERSEDED = "superseded"
"""Folder, inside the ledger, of what was recorded and does not count: one numbered ledger per resume."""
_SCHEMAS = {"rollouts": ROLLOUT_SCHEMA, "decisions": DECISION_SCHEMA}
_MARKER = re.compile(r"step-(\d{6,})\.json")
_NUMBER = re.compile(r"\d{3,}")
_DATA = re.compile(r"(?:rollouts|decisions)-\d{6,}(?:\.r\d+)?\.parquet")


class LedgerError(RunError):
    """The ledger cannot be written or read; the message names the path, the step and the way out."""


def _rollout_rows(
    step: int, groups: Sequence[RolloutGroup], advantages: Mapping[str, Sequence[float]]
) -> Iterable[dict[str, Any]]:
    for order, group in enumerate(groups):
        prompt = group.prompt
        values = advantages.get(prompt.prompt_id)
        if values is not None and len(values) != len(group.scored):
            raise ValueError(
                f"step {step}, prompt {prompt.prompt_id!r}: {len(values)} advantages for {len(group.scored)} rollouts"
            )
        for index, scored in enumerate((*group.scored, *((group.greedy,) if group.greedy else ()))):
            rollout = scored.rollout
            in_group = index < len(group.scored)
            yield {
                "step": step,
                "position": order,
                "prompt_id": prompt.prompt_id,
                "prompt": prompt.text,
                "answer": prompt.answer,
                "source": prompt.source,
                "prompt_tokens": len(prompt.token_ids),
                "sample_index": rollout.sample_index if in_group else GREEDY_INDEX,
                "response": rollout.text,
                "reward": scored.reward,
                "verdict": scored.verdict,
                "num_tokens": len(rollout.token_ids),
                "logprob_sum": sum(rollout.logprobs),
                "finish_reason": rollout.finish_reason,
                "policy_version": rollout.policy_version,
                "generator_id": rollout.generator_id,
                "seconds": rollout.seconds,
                "advantage": values[index] if in_group and values is not None else None,
            }


def _decision_rows(step: int, groups: Sequence[RolloutGroup]) -> Iterable[dict[str, Any]]:
    for order, group in enumerate(groups):
        prior = group.prior
        for sequence, decision in enumerate(group.decisions):
            action = decision.action
            yield {
                "step": step,
                "position": order,
                "prompt_id": group.prompt.prompt_id,
                "sequence": sequence,
                "action": "draw" if isinstance(action, Draw) else "stop",
                "num_rollouts": action.num_rollouts if isinstance(action, Draw) else None,
                "reason": action.reason if isinstance(action, Stop) else None,
                "num_scored": decision.num_scored,
                "mean": decision.mean,
                "prior": decision.prior,
                "bias_squared": decision.bias_squared,
                "target": decision.target,
                "open_prompts": decision.open_prompts,
                "group_prior": None if prior is None else prior.value,
                "prior_origin": None if prior is None else prior.origin,
                "prior_version": None if prior is None else prior.policy_version,
            }


def _markers(folder: Path) -> dict[int, Path]:
    """Step to the file that makes it exist, in order of steps."""
    try:
        found = {int(m[1]): p for p in folder.iterdir() if (m := _MARKER.fullmatch(p.name))}
    except FileNotFoundError:
        raise LedgerError(f"there is no ledger at {folder}; give the folder of a run that has made a step") from None
    return dict(sorted(found.items()))


def _read_marker(path: Path) -> dict[str, Any]:
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
        version = marker["format_version"]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{path} is not readable as a step of a ledger ({error}); restore it or delete it") from error
    if version > FORMAT_VERSION:
        raise LedgerError(
            f"{path} has ledger format {version}, this v05ray reads up to {FORMAT_VERSION}; install a newer v05ray"
        )
    return marker


def _superseded(folder: Path) -> dict[int, Path]:
    """Number to folder of what was set aside, in order."""
    parent = folder / SUPERSEDED
    if not parent.is_dir():
        return {}
    return {int(path.name): path for path in sorted(parent.iterdir()) if _NUMBER.fullmatch(path.name)}


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, or a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
        with target.open("rb") as copied:
            os.fsync(copied.fileno())


class LedgerWriter:
    """Writes steps, each whole or not at all. One writer per folder at a time."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder and removes what a killed writer left; raises `LedgerError` when that cannot be done."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            durable.sweep(folder)
            self._remove_unnamed()
        except OSError as error:
            raise LedgerError(f"cannot write a ledger at {folder}: {error.strerror or error}") from error

    def append_step(
        self,
        step: int,
        groups: Sequence[RolloutGroup],
        advantages: Mapping[str, Sequence[float]],
        meta: Mapping[str, Any],
    ) -> None:
        """Record one step: its groups in batch order (which replay needs).

        `advantages[prompt_id][K]` follows the group's sample order; a prompt without an entry gave no samples. `meta`
        holds what a replay needs, JSON values only: `rule` (name and options), `halt_fraction`, `mode`, `on_halt`, ...
        A step that exists is replaced, and later ones are set aside. Raises `LedgerError` when the disk refuses,
        `ValueError` for advantages that do not fit their group or a prompt that occurs twice.
        """
        identifiers = [group.prompt.prompt_id for group in groups]
        if len(set(identifiers)) != len(identifiers):
            twice = sorted({name for name in identifiers if identifiers.count(name) > 1})
            raise ValueError(f"step {step} has more than one group of prompt {twice[0]!r}")
        tables = {
            "rollouts": pa.Table.from_pylist(list(_rollout_rows(step, groups, advantages)), schema=ROLLOUT_SCHEMA),
            "decisions": pa.Table.from_pylist(list(_decision_rows(step, groups)), schema=DECISION_SCHEMA),
        }
        meta_text = json.dumps(dict(meta), allow_nan=False)
        try:
            # Before the switch: between the two, the old trajectory is shorter but still one trajectory.
            removed = self._truncate(step)
            files = {kind: self._write_table(kind, step, table) for kind, table in tables.items()}
            marker = {"format_version": FORMAT_VERSION, "step": step, "files": files, "meta": json.loads(meta_text)}
            durable.replace_text(self.folder / f"step-{step:06d}.json", json.dumps(marker, indent=1))
            self._remove_unnamed(None if removed else step)
        except OSError as error:
            raise LedgerError(
                f"cannot write step {step} of the ledger at {self.folder}: {error.strerror or error}; "
                "the steps before it are safe, free some space and resume"
            ) from error

    def truncate_after(self, step: int) -> tuple[int, ...]:
        """Set the steps after `step` aside (a resume from its checkpoint repeats them); returns them."""
        try:
            removed = self._truncate(step)
            self._remove_unnamed()
        except OSError as error:
            raise LedgerError(
                f"cannot set the steps after {step} aside at {self.folder}: {error.strerror or error}"
            ) from error
        return removed

    def set_aside(
        self,
        step: int,
        groups: Sequence[RolloutGroup],
        advantages: Mapping[str, Sequence[float]],
        meta: Mapping[str, Any],
    ) -> Path | None:
        """Record the finished prompts of a step that was given up, beside the ledger: they never count as a step.

        Arguments as for `append_step`; returns the folder that holds them, None where there were none.
        """
        if not groups:
            return None
        aside = LedgerWriter(self._new_superseded())
        aside.append_step(step, groups, advantages, meta)
        return aside.folder

    def _new_superseded(self) -> Path:
        return self.folder / SUPERSEDED / f"{1 + max(_superseded(self.folder), default=0):03d}"

    def _truncate(self, step: int) -> tuple[int, ...]:
        """Moves later steps aside, so that at every moment each is a step of one of the two ledgers and not of both."""
        later = {s: path for s, path in _markers(self.folder).items() if s > step}
        if not later:
            return ()
        aside = self._new_superseded()
        aside.mkdir(parents=True)
        for marker in reversed(later.values()):  # from the end: being killed leaves a shorter record without a hole
            for file in _read_marker(marker)["files"].values():
                _link(self.folder / file["name"], aside / file["name"])
            durable.sync_folder(aside)
            marker.rename(aside / marker.name)
        durable.sync_folder(aside)
        durable.sync_folder(self.folder)
        return tuple(later)

    def _write_table(self, kind: str, step: int, table: pa.Table) -> dict[str, Any]:
        path = self.folder / f"{kind}-{step:06d}.parquet"
        attempt = 0
        while path.exists():  # a step that is being replaced keeps its files until the new ones are named
            attempt += 1
            path = self.folder / f"{kind}-{step:06d}.r{attempt}.parquet"
        durable.replace_file(path, lambda hidden: pq.write_table(table, hidden, compression="zstd"))
        return {"name": path.name, "rows": table.num_rows}

    def _remove_unnamed(self, step: int | None = None) -> None:
        """Delete data files that no step names: of one step, or all of them."""
        markers = _markers(self.folder)
        chosen = markers if step is None else {step: markers[step]}
        named = {file["name"] for path in chosen.values() for file in _read_marker(path)["files"].values()}
        pattern = "*.parquet" if step is None else f"*-{step:06d}*.parquet"
        for path in self.folder.glob(pattern):
            if _DATA.fullmatch(path.name) and path.name not in named:
                path.unlink()


class LedgerReader:
    """Reads a ledger, also while a run is writing it: a step is seen whole or not yet."""

    def __init__(self, folder: Path) -> None:
        """Raises `LedgerError` when there is no ledger at `folder`."""
        self.folder = folder
        _markers(folder)

    @property
    def steps(self) -> tuple[int, ...]:
        """The recorded steps, in order."""
        return tuple(_markers(self.folder))

    @property
    def superseded(self) -> tuple["LedgerReader", ...]:
        """What was recorded and set aside, oldest first: a ledger for each resume and for each step given up."""
        return tuple(LedgerReader(folder) for folder in _superseded(self.folder).values())

    def meta(self, step: int) -> dict[str, Any]:
        """The settings that `append_step` got for this step."""
        return _read_marker(self._marker(step))["meta"]

    def rollouts(self, step: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of `ROLLOUT_SCHEMA`, of one step or of all, ordered by step, position and sample."""
        return self._read("rollouts", step, columns)

    def decisions(self, step: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of `DECISION_SCHEMA`, of one step or of all, ordered by step, position and sequence."""
        return self._read("decisions", step, columns)

    def check_conservation(self) -> Conservation:
        """Is every draw scored exactly once? See `Conservation`."""
        problems: list[str] = []
        num_prompts = num_drawn = num_scored = num_aborted = 0
        steps = self.steps
        for step in steps:
            meta = self.meta(step)
            for group in self.groups(step):
                num_prompts += 1
                num_drawn += group.num_drawn
                num_scored += len(group.rollouts)
                num_aborted += num_given_up(group, meta)
                place = f"step {step}, prompt {group.prompt_id!r}"
                problems += [f"{place}: {problem}" for problem in group_problems(group, meta)]
        return Conservation(len(steps), num_prompts, num_drawn, num_scored, num_aborted, tuple(problems))

    def groups(self, step: int) -> list[RecordedGroup]:
        """The step's groups in batch order."""
        decided: dict[int, list[dict[str, Any]]] = {}
        for row in self.decisions(step).to_pylist():
            decided.setdefault(row["position"], []).append(row)
        drawn: dict[int, list[dict[str, Any]]] = {}
        for row in self.rollouts(step).to_pylist():
            drawn.setdefault(row["position"], []).append(row)
        return [_group(step, decided.get(order, []), drawn.get(order, [])) for order in sorted({*decided, *drawn})]

    def _marker(self, step: int) -> Path:
        markers = _markers(self.folder)
        if step not in markers:
            have = f"steps {min(markers)} to {max(markers)}" if markers else "no step yet"
            raise LedgerError(f"the ledger at {self.folder} has no step {step}; it has {have}")
        return markers[step]

    def _read(self, kind: str, step: int | None, columns: Sequence[str] | None) -> pa.Table:
        for may_retry in (True, False):
            markers = [self._marker(step)] if step is not None else list(_markers(self.folder).values())
            try:
                # Reading the markers counts too: a resumed run may remove a step between listing and reading it.
                files = [self.folder / _read_marker(path)["files"][kind]["name"] for path in markers]
                if not files:
                    return _SCHEMAS[kind].empty_table()
                dataset = pads.dataset([str(path) for path in files], schema=_SCHEMAS[kind], format="parquet")
                return dataset.to_table(columns=None if columns is None else list(columns))
            except FileNotFoundError as error:
                if not may_retry:
                    raise LedgerError(f"{self.folder}: a file of the ledger is gone: {error}") from error
            except (pa.ArrowInvalid, OSError) as error:
                raise LedgerError(f"{self.folder}: a file of the ledger is damaged: {error}") from error
        raise AssertionError("unreachable: the second try returns or raises")


def _group(step: int, decided: list[dict[str, Any]], drawn: list[dict[str, Any]]) -> RecordedGroup:
    head = (decided or drawn)[0]
    prompt_id = head["prompt_id"]
    prior = None
    if decided and decided[0]["group_prior"] is not None:
        prior = Prior(prompt_id, decided[0]["group_prior"], decided[0]["prior_version"], decided[0]["prior_origin"])
    rollouts = tuple(
        RecordedRollout(**{name: row[name] for name in RecordedRollout.__slots__})
        for row in sorted(drawn, key=lambda row: row["sample_index"])
    )
    greedy = rollouts[0] if rollouts and rollouts[0].sample_index == GREEDY_INDEX else None
    decisions = tuple(_decision(row) for row in sorted(decided, key=lambda row: row["sequence"]))
    first = drawn[0] if drawn else {"prompt": "", "answer": "", "source": "", "prompt_tokens": 0}
    return RecordedGroup(
        step,
        prompt_id,
        first["prompt"],
        first["answer"],
        first["source"],
        first["prompt_tokens"],
        prior,
        rollouts if greedy is None else rollouts[1:],
        decisions,
        greedy,
    )


def _decision(row: Mapping[str, Any]) -> Decision:
    if row["action"] == "draw":
        action: Draw | Stop = Draw(row["prompt_id"], row["num_rollouts"])
    else:
        action = Stop(row["prompt_id"], row["reason"])
    names = ("num_scored", "mean", "prior", "bias_squared", "target", "open_prompts")
    return Decision(action, **{name: row[name] for name in names})
