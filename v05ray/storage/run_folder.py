"""The run's folder: where everything a run leaves behind lies, and which folder a run gets."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from v05ray.config.section import given_path
from v05ray.errors import ConfigError


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
        """The run's final figures, as JSON."""
        return self.path / "summary.json"


def _numbered(parent: Path, name: str) -> dict[int, Path]:
    """The runs of this name: `parent/name` by 1, `name-2` by 2, ..., oldest first.

    `pre-2` may be the second run of `pre` or the first of a run named `pre-2`: its recorded config says which.
    """
    found: dict[int, Path] = {}
    for path in parent.glob(f"{name}*"):
        suffix = path.name.removeprefix(name)
        if suffix == "":
            found[1] = path
        elif suffix[0] == "-" and suffix[1:].isdigit() and _recorded_name(path) in (name, None):
            found[int(suffix[1:])] = path
    return dict(sorted(found.items()))


def _recorded_name(folder: Path) -> str | None:
    """`run.name` of the run that made the folder; None where that cannot be read."""
    try:
        written = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    run = written.get("run") if isinstance(written, dict) else None
    name = run.get("name") if isinstance(run, dict) else None
    return None if name is None else str(name)


def new_folder(parent: Path, name: str) -> RunFolder:
    """A folder that did not exist: `name`, or `name-N` after earlier runs of that name.

    Raises:
        ConfigError: it cannot be made.
    """
    check_output_dir(parent)
    number = 1 + max(_numbered(parent, name), default=0)
    while True:
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:  # another name's, or a run that starts at this moment
            number += 1
        except OSError as error:
            raise _unusable(parent, error.strerror or str(error)) from error
        else:
            return RunFolder(path.resolve())


def check_output_dir(parent: Path) -> None:
    """Raises `ConfigError` where `parent` cannot be made or written to. Makes nothing."""
    try:
        existing = next(folder for folder in (parent.absolute(), *parent.absolute().parents) if folder.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise _unusable(parent, error.strerror or str(error)) from error


def _unusable(parent: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"run.output_dir {str(parent)!r} cannot be made or written to ({reason}); give a folder that can, such as "
        "run.output_dir=runs"
    )


def folder_to_resume(parent: Path, name: str, asked: str) -> RunFolder | None:
    """The folder `--resume` means: a path, or with `auto` the newest run of this name; None where there is none yet.

    So a command with `--resume auto` can be given again and again, as restarted jobs do: it starts the run, resumes
    it, or finds it done.

    Raises:
        ConfigError: the path is no folder.
    """
    if asked != "auto":
        path = given_path(Path(asked), "--resume")
        if not path.is_dir():
            raise ConfigError(f"--resume {asked}: no such run folder; give a run's folder, or `auto`")
        return RunFolder(path.resolve())
    earlier = _numbered(parent, name)
    return RunFolder(earlier[max(earlier)].resolve()) if earlier else None


@contextlib.contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """No other process works in the folder meanwhile; the hold ends with the process, however it ends.

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
