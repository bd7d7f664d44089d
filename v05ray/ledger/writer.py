"""Writes a ledger: a step whole or not at all, and what a resume repeats set aside."""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from v05ray.ledger.columns import DECISION_SCHEMA, FORMAT_VERSION, decision_rows, rollout_rows, rollout_table
from v05ray.ledger.folder import SUPERSEDED, LedgerError, read_marker, step_markers, superseded_folders
from v05ray.storage import durable
from v05ray.types import RolloutGroup

_DATA = re.compile(r"(?:rollouts|decisions)-\d{6,}(?:\.r\d+)?\.parquet")


def link(source: Path, target: Path) -> None:
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
            "rollouts": rollout_table(list(rollout_rows(step, groups, advantages))),
            "decisions": pa.Table.from_pylist(list(decision_rows(step, groups)), schema=DECISION_SCHEMA),
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
        return self.folder / SUPERSEDED / f"{1 + max(superseded_folders(self.folder), default=0):03d}"

    def _truncate(self, step: int) -> tuple[int, ...]:
        """Moves later steps aside, so that at every moment each is a step of one of the two ledgers and not of both."""
        later = {s: path for s, path in step_markers(self.folder).items() if s > step}
        if not later:
            return ()
        aside = self._new_superseded()
        aside.mkdir(parents=True)
        for marker in reversed(later.values()):  # from the end: being killed leaves a shorter record without a hole
            for file in read_marker(marker)["files"].values():
                link(self.folder / file["name"], aside / file["name"])
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
        markers = step_markers(self.folder)
        chosen = markers if step is None else {step: markers[step]}
        named = {file["name"] for path in chosen.values() for file in read_marker(path)["files"].values()}
        pattern = "*.parquet" if step is None else f"*-{step:06d}*.parquet"
        for path in self.folder.glob(pattern):
            if _DATA.fullmatch(path.name) and path.name not in named:
                path.unlink()
