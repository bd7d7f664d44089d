"""Reads a ledger: as tables, as groups, and whether every draw was scored exactly once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from v05ray.ledger.columns import SCHEMAS, recorded_group
from v05ray.ledger.folder import LedgerError, read_marker, step_markers, superseded_folders
from v05ray.ledger.recorded import Conservation, RecordedGroup, group_problems, num_given_up


class LedgerReader:
    """Reads a ledger, also while a run is writing it: a step is seen whole or not yet."""

    def __init__(self, folder: Path) -> None:
        """Raises `LedgerError` when there is no ledger at `folder`."""
        self.folder = folder
        step_markers(folder)

    @property
    def steps(self) -> tuple[int, ...]:
        """The recorded steps, in order."""
        return tuple(step_markers(self.folder))

    @property
    def superseded(self) -> tuple["LedgerReader", ...]:
        """What was recorded and set aside, oldest first: a ledger for each resume and for each step given up."""
        return tuple(LedgerReader(folder) for folder in superseded_folders(self.folder).values())

    def meta(self, step: int) -> dict[str, Any]:
        """The settings that `append_step` got for this step."""
        return read_marker(self._marker(step))["meta"]

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
        return [
            recorded_group(step, decided.get(order, []), drawn.get(order, [])) for order in sorted({*decided, *drawn})
        ]

    def _marker(self, step: int) -> Path:
        markers = step_markers(self.folder)
        if step not in markers:
            have = f"steps {min(markers)} to {max(markers)}" if markers else "no step yet"
            raise LedgerError(f"the ledger at {self.folder} has no step {step}; it has {have}")
        return markers[step]

    def _read(self, kind: str, step: int | None, columns: Sequence[str] | None) -> pa.Table:
        for may_retry in (True, False):
            markers = [self._marker(step)] if step is not None else list(step_markers(self.folder).values())
            try:
                # Reading the markers counts too: a resumed run may remove a step between listing and reading it.
                files = [self.folder / read_marker(path)["files"][kind]["name"] for path in markers]
                if not files:
                    return SCHEMAS[kind].empty_table()
                dataset = pads.dataset([str(path) for path in files], schema=SCHEMAS[kind], format="parquet")
                return dataset.to_table(columns=None if columns is None else list(columns))
            except FileNotFoundError as error:
                if not may_retry:
                    raise LedgerError(f"{self.folder}: a file of the ledger is gone: {error}") from error
            except (pa.ArrowInvalid, OSError) as error:
                raise LedgerError(f"{self.folder}: a file of the ledger is damaged: {error}") from error
        raise AssertionError("unreachable: the second try returns or raises")
