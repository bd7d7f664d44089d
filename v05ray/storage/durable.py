"""Files that survive `kill -9`: written under a hidden name, flushed to disk, then renamed into place.

A rename within one folder is atomic on every POSIX file system, so a reader sees the old file, the new one or none,
and never half of one. Names that start with `HIDDEN` are work in progress or leftovers of a killed process: readers
ignore them and `sweep` removes them.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

HIDDEN = ".tmp-"


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk: without it, a rename may be undone by a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder under `folder`, itself included; used before a whole folder is renamed."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = os.path.join(parent, name)
            if not os.path.islink(path):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        sync_folder(Path(parent))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a hidden neighbour of `path`, flush it, and rename it to `path`.

    Raises what `write` raises, and `OSError` when the disk is full or not writable; `path` is then as it was.
    """
    hidden = path.with_name(f"{HIDDEN}{os.getpid()}-{path.name}")
    try:
        write(hidden)
        descriptor = os.open(hidden, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(hidden, path)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def replace_text(path: Path, text: str) -> None:
    """`replace_file` for UTF-8 text."""
    replace_file(path, lambda hidden: hidden.write_text(text, encoding="utf-8"))


def remove_folder(folder: Path) -> None:
    """Delete a folder so that it is never seen half deleted: it loses its name first."""
    hidden = folder.with_name(f"{HIDDEN}{os.getpid()}-gone-{folder.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    os.replace(folder, hidden)
    shutil.rmtree(hidden)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in `folder`. Only its owner may call this: it also removes work in progress."""
    for path in folder.glob(f"{HIDDEN}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def permit_by_umask(folder: Path) -> None:
    """Gives all files under `folder` the permissions that a new file gets here.

    Libraries that write to a temporary file and rename it leave 0600, which other users cannot read.
    """
    umask = os.umask(0o077)  # it can only be read by setting it
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o666 & ~umask)
