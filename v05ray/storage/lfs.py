"""Git LFS pointers: what a clone without git-lfs leaves in place of a large file."""

from pathlib import Path

from v05ray.errors import ConfigError

_POINTER = b"version https://git-lfs.github.com/spec/"


def check_no_pointer(file: Path) -> None:
    """Raises `ConfigError` for a pointer, a few lines of text, and for a file that cannot be opened."""
    try:
        with file.open("rb") as content:
            start = content.read(len(_POINTER))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if start == _POINTER:
        raise ConfigError(f"{file} is a Git LFS pointer, not the data itself; fetch it with `git lfs pull`")
