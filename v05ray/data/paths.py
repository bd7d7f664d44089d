"""Which files a source's `path` means: a file, a pattern, a folder of one kind of file, or a list of these."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from v05ray.config.section import expand_path
from v05ray.data.files import PACKED_SUFFIXES
from v05ray.errors import ConfigError

_SPLIT = re.compile(
    r"(?:^|[^a-z])(train|training|test|testing|eval|valid|validation|val|dev|holdout)(?=$|[^a-z])", re.I
)
_SHARD = re.compile(r"^(?P<before>.*?)(?P<index>\d{3,})-of-(?P<total>\d{3,})(?P<after>.*)$")
_PATTERN = re.compile(r"[*?\[]")


def local_path(path: str) -> Path:
    """`path` with `~` and variables of the environment; raises `ConfigError` for what is none."""
    try:
        return Path(expand_path(path))
    except ValueError as error:
        raise ConfigError(f"path {path!r:.200}: {error}") from error


def data_files(path: str | Sequence[str], suffixes: Sequence[str]) -> tuple[Path, ...]:
    """The files that `path` names, those of a pattern or folder by name; each is checked to be there.

    Of a folder, the files with one of the suffixes (packed or not) are taken, hidden ones not. Raises `ConfigError`
    where there are none, where their names say that they are several splits, and where a shard is missing.
    """
    paths = [path] if isinstance(path, str) else path
    if not paths:
        raise ConfigError("`path` is an empty list; name at least one file")
    return tuple(file for one in paths for file in _expanded(local_path(one), suffixes))


def _expanded(path: Path, suffixes: Sequence[str]) -> list[Path]:
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            return _of_folder(path, suffixes)
    except OSError as error:
        raise ConfigError(f"path {str(path)!r:.200} cannot be read: {error.strerror or error}") from error
    if _PATTERN.search(str(path)):
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        if not found:
            raise ConfigError(f"no file matches {path} (looked from {Path.cwd()}); check `path`")
        check_shards(found)
        return found
    raise ConfigError(f"{path} is not a file (looked from {Path.cwd()}); check `path`")


def _of_folder(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    found = sorted(file for file in folder.iterdir() if _has_suffix(file, suffixes) and file.is_file())
    if not found:
        raise ConfigError(
            f"{folder} is a folder without {' or '.join(suffixes)} files; give the files, or read it with "
            "`name: huggingface`"
        )
    splits = {match[1].casefold() for file in found if (match := _SPLIT.search(file.name))}
    if len(splits) > 1:
        raise ConfigError(
            f"{folder} holds several splits ({', '.join(sorted(splits))}); give a pattern such as "
            f"{folder}/{min(splits)}*, or read it with `name: huggingface` and `split`"
        )
    check_shards(found)
    return found


def _has_suffix(file: Path, suffixes: Sequence[str]) -> bool:
    name = file.stem if file.suffix.casefold() in PACKED_SUFFIXES else file.name
    return not file.name.startswith(".") and name.casefold().endswith(tuple(suffixes))


def check_shards(files: Sequence[Path]) -> None:
    """Raises `ConfigError` where files are named `...-00000-of-00003...` and not all of them are there."""
    found: dict[tuple[Path, str, str, str], set[int]] = {}
    for file in files:
        if match := _SHARD.match(file.name):
            key = (file.parent, match["before"], match["total"], match["after"])
            found.setdefault(key, set()).add(int(match["index"]))
    for (folder, before, total, after), indices in found.items():
        count = int(total)
        if indices not in (set(range(count)), set(range(1, count + 1))):
            raise ConfigError(
                f"{folder} holds {len(indices)} of the {count} files {before}*-of-{total}{after}; fetch the others, or "
                "name the files to read in `path`"
            )
