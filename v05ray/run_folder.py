"""The run's folder: where everything a run leaves behind lies, and which folder a run gets."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from v05ray.registry import ConfigError


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def ledger(self) -> Path:
        """Every rollout and decision, as Parquet."""
        return self.path / "ledger"

    @property
    def logs(self) -> Path:
        """What Ray, vLLM and DeepSpeed printed."""
        return self.path / "logs"

    @property
    def model(self) -> Path:
        """The trained policy, as a Hugging Face folder."""
        return self.path / "model"

    @property
    def curve(self) -> Path:
        """Held-out accuracy over the steps, as a figure."""
        return self.path / "curve.svg"

    @property
    def samples(self) -> Path:
        """Folder of some rollouts of each checkpointed step, to read."""
        return self.path / "samples"

    @property
    def summary(self) -> Path:
        """What the run came to, as JSON."""
        return self.path / "summary.json"


def _numbered(parent: Path, name: str) -> list[Path]:
    """`parent/name` and `parent/name-2`, `name-3`, ... that exist, oldest first."""
    found: list[tuple[int, Path]] = []
    for path in parent.glob(f"{name}*"):
        suffix = path.name.removeprefix(name)
        if suffix == "":
            found.append((1, path))
        elif suffix[0] == "-" and suffix[1:].isdigit():
            found.append((int(suffix[1:]), path))
    return [path for _, path in sorted(found)]


def new_folder(parent: Path, name: str) -> RunFolder:
    """A folder that did not exist: `name`, or `name-N` after earlier runs of that name."""
    earlier = _numbered(parent, name)
    number = 1 + max((int(p.name.removeprefix(name)[1:] or 1) for p in earlier), default=0)
    path = parent / (name if number == 1 else f"{name}-{number}")
    path.mkdir(parents=True)
    return RunFolder(path.resolve())


def folder_to_resume(parent: Path, name: str, asked: str) -> RunFolder | None:
    """The folder `--resume` means: a path, or with `auto` the newest run of this name; None where there is none yet.

    So a command with `--resume auto` can be given again and again, as restarted jobs do: it starts the run, goes on
    with it, or finds it done.

    Raises:
        ConfigError: the path is no folder.
    """
    if asked != "auto":
        path = Path(asked)
        if not path.is_dir():
            raise ConfigError(f"--resume {asked}: no such run folder; give a run's folder, or `auto`")
        return RunFolder(path.resolve())
    earlier = _numbered(parent, name)
    return RunFolder(earlier[-1].resolve()) if earlier else None


@contextlib.contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """Nobody else works in the folder meanwhile; the hold ends with the process, however it ends.

    Raises:
        ConfigError: another process holds it.
    """
    with (folder.path / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ConfigError(
                f"{folder.path} is in use by process {lock.read().strip() or '?'}: wait for its end, or stop it"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
