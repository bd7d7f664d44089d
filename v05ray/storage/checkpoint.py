"""Run state on disk: written whole or not at all, and refused when it belongs to another run.

    RUN/checkpoints/step-000010/manifest.json    format, step, policy version, config, every file with its size
    RUN/checkpoints/step-000010/state.json       stream cursor, support buffer, estimator, totals: JSON values
    RUN/checkpoints/step-000010/learner/         what the learners wrote: model, optimiser, schedule, random state

A checkpoint is filled under a hidden name, flushed, and renamed, so `step-000010` exists whole or not. Damage that
comes later (a truncated copy, a lost file) is found by the manifest's sizes and hashes, and `latest` goes back to the
newest whole one and says what it skipped.
"""

import contextlib
import fnmatch
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v05ray.config.dotted import flatten
from v05ray.config.redaction import redact_tree
from v05ray.errors import ConfigError, RunError
from v05ray.stopping.disk import Disk
from v05ray.storage import durable

FORMAT_VERSION = 1
HASHED_BYTES = 16 * 2**20
"""Files up to this size are hashed; of larger ones (weights) the size is checked, as hashing them takes minutes."""
MAY_CHANGE = (
    "run.num_steps",
    "run.output_dir",
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.max_restarts",
    "run.grace_s",
    "run.silence_s",
    "run.stall_s",
    "generators.*",
    "weights.*",
    "value.pool_size",
    "value.max_pool_size",
    "value.target_backlog_s",
    "value.sustain_s",
    "value.hold_s",
    "value.cooldown_s",
    "value.num_cpus",
    "value.num_threads",
    "rewards.num_workers",
    "rewards.max_workers",
    "rewards.num_cpus",
    "learner.num_cpus",
    "learner.num_threads",
    "learner.timeout_s",
    "learner.max_skipped_updates",
    "learner.stream_tokens",
    "evaluation.*",
    "tracking.*",
    "cluster.*",
)
"""Dotted keys (shell patterns) that a resume may change: where and how long a run runs, never what it learns."""
_NAME = re.compile(r"step-(\d{6,})(\.old)?")


class CheckpointError(RunError):
    """A checkpoint cannot be written or read; the message names the file and the fix."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint, verified against its manifest."""

    folder: Path
    step: int
    policy_version: int
    config: Mapping[str, Any]
    """The resolved config of the run that wrote it, without its secrets."""
    state: Mapping[str, Any]
    """What `save` got; tuples came back as lists."""

    @property
    def learner_folder(self) -> Path:
        """The folder that the learners wrote their state to."""
        return self.folder / "learner"


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest whole checkpoint, which a resume starts from."""

    folder: Path
    step: int
    """Optimiser steps done when it was written."""
    skipped: tuple[str, ...]
    """Newer checkpoints that are damaged, each with its reason."""


class Checkpoints:
    """One run's checkpoints: saves, loads, finds the newest whole one, removes old ones."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any], *, keep: int = 2) -> None:
        """`config` is the resolved config as JSON values (`Config.model_dump(mode="json")`); `keep` >= 1."""
        if keep < 1:
            raise ConfigError(f"run.keep_checkpoints must be at least 1, got {keep}")
        self.folder = run_dir.absolute() / "checkpoints"  # absolute, for learners in processes of their own
        self._config: dict[str, Any] = redact_tree(json.loads(json.dumps(config)))
        self._keep = keep

    async def save(
        self,
        step: int,
        state: Mapping[str, Any],
        write_learner: Callable[[Path], Awaitable[None]],
        *,
        policy_version: int | None = None,
        disk: Disk | None = None,
    ) -> Path:
        """Write the checkpoint of `step` and delete those it outdates; returns its folder.

        Outdated are those beyond the newest `keep`, and those of later steps: they are of a trajectory that a resume
        from an earlier one has left.

        Args:
            step: optimiser steps done.
            state: JSON values with string keys; anything else is refused by its dotted place.
            write_learner: fills the (existing, empty) folder it is given.
            policy_version: of the weights written; by default `step`.
            disk: gets all work on the disk but the learners', for the watchdog.

        Raises:
            TypeError: `state` holds what JSON would not give back.
            CheckpointError: the disk refuses; checkpoints that existed before still do.
        """
        _require_json(state, "state")
        final = self.folder / f"step-{step:06d}"
        hidden = self.folder / f"{durable.HIDDEN}{final.name}"
        disk = disk or Disk()
        try:
            await disk.do(hidden, self._begin, hidden, json.dumps(state))
            await write_learner(hidden / "learner")
            version = step if policy_version is None else policy_version
            await disk.do(final, self._finish, hidden, final, step, version)
        except (OSError, RuntimeError) as error:
            reason = _refusal(error)
            if reason is None:
                raise
            raise CheckpointError(
                f"cannot write the checkpoint of step {step} at {final}: {reason}; free some space or lower "
                "run.keep_checkpoints, then resume from the one before with --resume"
            ) from error
        return final

    def latest(self) -> Latest | None:
        """The newest whole checkpoint; None where there is none yet.

        Raises `CheckpointError` where all are damaged: starting over unasked would lose the run.
        """
        skipped: list[str] = []
        for folder in _folders(self.folder):
            try:
                manifest = _verify(folder)
            except CheckpointError as error:
                skipped.append(str(error))
            else:
                return Latest(folder, manifest["step"], tuple(skipped))
        if skipped:
            raise CheckpointError("no checkpoint can be used:\n" + "\n".join(f"  {reason}" for reason in skipped))
        return None

    def newest_step(self) -> int | None:
        """Step of the newest checkpoint whose files are all there in their sizes; None without one. Reads no hashes."""
        for folder in _folders(self.folder):
            with contextlib.suppress(CheckpointError):
                return _verify(folder, hashes=False)["step"]
        return None

    def load(self, folder: Path) -> Checkpoint:
        """Read and verify one checkpoint of this config.

        Raises `CheckpointError` naming a missing or damaged file, `ConfigError` naming the keys that differ.
        """
        manifest = _verify(folder)
        check_config(manifest["config"], self._config, where=str(folder))
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return Checkpoint(folder, manifest["step"], manifest["policy_version"], manifest["config"], state)

    def prune(self) -> tuple[Path, ...]:
        """Delete all that are older than the newest `keep` whole ones; returns what was deleted."""
        whole = 0
        gone = []
        for folder in _folders(self.folder):
            if whole >= self._keep:
                durable.remove_folder(folder)
                gone.append(folder)
                continue
            try:
                _verify(folder, hashes=False)
                whole += 1
            except CheckpointError:  # left for a person to look at; it is not counted as one to fall back on
                continue
        return tuple(gone)

    def _begin(self, hidden: Path, state: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        durable.sweep(self.folder)
        (hidden / "learner").mkdir(parents=True)
        (hidden / "state.json").write_text(state, encoding="utf-8")

    def _finish(self, hidden: Path, final: Path, step: int, policy_version: int) -> None:
        manifest = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "policy_version": policy_version,
            "config": self._config,
            "files": {str(path.relative_to(hidden)): _fingerprint(path) for path in _files(hidden)},
        }
        (hidden / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        durable.sync_tree(hidden)
        old = final.with_name(f"{final.name}.old")
        if final.exists():  # the same step again, after a resume: the old one counts until the new one has the name
            if old.exists():
                durable.remove_folder(old)
            final.rename(old)
        hidden.rename(final)
        durable.sync_folder(self.folder)
        if old.exists():
            durable.remove_folder(old)
        for folder in _folders(self.folder):
            if folder.name > final.name:
                durable.remove_folder(folder)
        self.prune()


def check_config(saved: Mapping[str, Any], wanted: Mapping[str, Any], *, where: str) -> None:
    """Raises `ConfigError` naming every dotted key that differs and may not (`MAY_CHANGE` lists those that may)."""
    before, now = flatten(saved), flatten(wanted)
    lines = [
        f"  {key}: {before.get(key, 'unset')!r} in the checkpoint, {now.get(key, 'unset')!r} now"
        for key in sorted({*before, *now})
        if before.get(key, _UNSET) != now.get(key, _UNSET)
        and not any(fnmatch.fnmatchcase(key, pattern) for pattern in MAY_CHANGE)
    ]
    if lines:
        raise ConfigError(
            f"{where} belongs to another config:\n" + "\n".join(lines) + "\nset them back, or start a run of another "
            f"name (run.name); a resume may change {', '.join(MAY_CHANGE)}"
        )


_UNSET = object()


def _refusal(error: OSError | RuntimeError) -> str | None:
    """Why the disk refused; None where it did not. torch's writer says so in a RuntimeError without a number."""
    cause = getattr(error, "cause", None) or error  # of an error that came from an actor
    if isinstance(cause, OSError):
        return cause.strerror or str(cause)
    if isinstance(cause, RuntimeError) and any(sign in str(cause) for sign in _TORCH_WRITER):
        return f"the disk takes no more ({str(cause).splitlines()[0]})"
    return None


_TORCH_WRITER = ("inline_container.cc", "PytorchStreamWriter")
"""What torch names when a file cannot be written to its end."""


def _require_json(value: Any, place: str) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):  # json.dumps would turn 1 into "1" and never back
                raise TypeError(f"{place} has the key {key!r}; a checkpoint's keys are strings")
            _require_json(inner, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _require_json(inner, f"{place}[{index}]")
    elif value is not None and not isinstance(value, str | int | float):
        raise TypeError(f"{place} is a {type(value).__name__}; a checkpoint's state holds JSON values only")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _fingerprint(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > HASHED_BYTES:
        return {"bytes": size}
    return {"bytes": size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _folders(parent: Path) -> list[Path]:
    """Newest first; of one step, the last written first."""
    if not parent.is_dir():
        return []
    named = [(int(m[1]), m[2] is None, path) for path in parent.iterdir() if (m := _NAME.fullmatch(path.name))]
    return [path for _, _, path in sorted(named, reverse=True)]


def _verify(folder: Path, *, hashes: bool = True) -> dict[str, Any]:
    """The manifest, once every file it lists is there in its size (and hash)."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version, files = manifest["format_version"], manifest["files"]
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is no checkpoint: it has no manifest.json") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has checkpoint format {version}, this v05ray reads up to {FORMAT_VERSION}; "
            "install a newer v05ray"
        )
    for name, expected in files.items():
        _verify_file(folder / name, expected, hashes=hashes)
    return manifest


def _verify_file(path: Path, expected: Mapping[str, Any], *, hashes: bool) -> None:
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(f"{path} is damaged: {size} bytes, {expected['bytes']} were written")
        if hashes and "sha256" in expected and _fingerprint(path)["sha256"] != expected["sha256"]:
            raise CheckpointError(f"{path} is damaged: its content is not what was written")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
