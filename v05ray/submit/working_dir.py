"""A job's working directory: this package, the job file, and what was asked for by name. Nothing else travels.

Ray would upload a whole folder (a virtual environment, models, past runs with it), so the files are listed here,
weighed before anything is copied, and named in the error when they are too large.
"""

import fnmatch
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import v05ray
from v05ray.errors import ConfigError

LIMIT_MIB = 50
"""Most a working directory may weigh; the head keeps it in memory, and every node fetches it."""

LEFT_OUT = (".git", ".venv", "venv", "__pycache__", "*.pyc", "runs", "mlruns", "*.egg-info", "node_modules")
"""Names that are left out of included folders: environments, histories, caches and past runs."""

PRIVATE = (".env", ".env.*", ".netrc", "*.pem", "*.key", "id_rsa*", "id_ed25519*", "credentials", "credentials.json")
"""Names that usually mean a secret: never sent, and refused where one is named outright."""


@dataclass(frozen=True)
class Shipment:
    """The files of one working directory."""

    files: Mapping[str, Path]
    """Path inside the working directory (with `/`) -> the file here."""
    num_bytes: int
    """Sum of the files' sizes."""

    def digest(self) -> str:
        """SHA-256 over names and contents, in hexadecimal: equal for equal working directories."""
        summed = hashlib.sha256()
        for name in sorted(self.files):
            content = hashlib.sha256(self.files[name].read_bytes()).hexdigest()
            summed.update(f"{name}\0{content}\n".encode())
        return summed.hexdigest()

    def write(self, folder: Path) -> None:
        """Copies the files into `folder`."""
        for name, file in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def collect(
    job: Path, included: Sequence[Path] = (), *, base: Path | None = None, limit_mib: float = LIMIT_MIB
) -> tuple[Shipment, str]:
    """The shipment of a job, and the job file's name in it.

    Args:
        job: the job file.
        included: further files and folders below `base`, which keep their places relative to it.
        base: what relative paths start from; None means the current folder.
        limit_mib: refuse a larger shipment, in MiB.

    Raises:
        ConfigError: something is missing, lies outside `base`, looks like a secret, or is too large.
    """
    base = (base or Path.cwd()).resolve()
    package = Path(v05ray.__file__).parent
    files = {f"v05ray/{name}": file for name, file in _walk(package)}
    inside = job.resolve().is_relative_to(base)
    job_name = job.resolve().relative_to(base).as_posix() if inside else f"jobs/{job.name}"
    files[job_name] = job
    for path in included:
        files.update(_include(path, base))
    num_bytes = sum(file.stat().st_size for file in files.values())
    if num_bytes > limit_mib * 2**20:
        raise ConfigError(_too_large(files, num_bytes, limit_mib))
    return Shipment(files, num_bytes), job_name


def _include(path: Path, base: Path) -> Iterator[tuple[str, Path]]:
    whole = (base / path).resolve()
    if not whole.exists():
        raise ConfigError(f"--include {str(path)!r} does not exist; paths are relative to {str(base)!r}")
    if not whole.is_relative_to(base) or whole == base:
        raise ConfigError(
            f"--include {str(path)!r} does not lie below {str(base)!r}, so it has no place in the job's working "
            "directory; submit from the folder that holds it"
        )
    if _matches(whole.name, PRIVATE):
        raise ConfigError(
            f"--include {str(path)!r} looks like a secret, and Ray keeps working directories; "
            "put it on the cluster's nodes instead"
        )
    start = whole.relative_to(base).as_posix()
    if whole.is_file():
        yield start, whole
    else:
        for name, file in _walk(whole):
            yield str(PurePosixPath(start) / name), file


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _matches(name, LEFT_OUT + PRIVATE))
        for name in sorted(names):
            file = Path(parent) / name
            if file.is_file() and not _matches(name, LEFT_OUT + PRIVATE):
                yield file.relative_to(folder).as_posix(), file


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _too_large(files: Mapping[str, Path], num_bytes: int, limit_mib: float) -> str:
    sizes = sorted(((file.stat().st_size, name) for name, file in files.items()), reverse=True)
    largest = ", ".join(f"{name} ({size / 2**20:.1f} MiB)" for size, name in sizes[:5])
    return (
        f"the working directory would weigh {num_bytes / 2**20:.1f} MiB, more than --limit-mib {limit_mib:g}; largest: "
        f"{largest}; put large files on storage that every node sees and name them by absolute path"
    )
