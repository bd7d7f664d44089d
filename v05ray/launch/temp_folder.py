"""The private cluster's folder of sockets and logs, outside of the run's folder, and what becomes of it.

Ray's sockets need a short path, so they lie in `/tmp/v05ray-XXXXXXXX/ray`, with the logs; `RUN/logs` is a link to those
while the run lasts. At its end the logs are moved into the run's folder and the rest is deleted. A driver that is
killed gets to neither: the next driver does it instead.

Ownership is detected with flock on the file `owner`: the kernel releases the lock with the process, however that ends.
A process number would be reused, and means nothing in another container. The file says where the logs belong.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)
PREFIX = "v05ray-"
OWNER = "owner"


@contextlib.contextmanager
def owned(logs: Path, parent: Path | None = None) -> Iterator[Path]:
    """A fresh folder for Ray, in one of ours in `parent` (default: the system's temporary folder); put away at the end.

    Args:
        logs: the link that the caller makes to the logs in the folder; at the end a real folder.
        parent: its short path; what dead owners left in there is put away first.
    """
    parent = parent or Path(tempfile.gettempdir())
    sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    # Locked before it has its name, so that no process ever sees an unlocked `owner`.
    with (folder / f".{OWNER}").open("x") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        owner.write(str(logs.absolute()))
        owner.flush()
        (folder / f".{OWNER}").rename(folder / OWNER)
        (folder / "ray").mkdir()  # Ray opens its permissions to all users; the folder around it stays private
        try:
            yield folder / "ray"
        finally:
            put_away(folder, logs)


def sweep(parent: Path, *, uid: int | None = None) -> list[Path]:
    """Puts away the folders of this user (or `uid`) whose owners are dead; returns them. Leaves all others alone."""
    uid = os.getuid() if uid is None else uid
    gone = []
    for folder in sorted(parent.glob(f"{PREFIX}*")):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):  # another one was quicker; its owner lives
            found = folder.lstat()  # of a link, its own: its target is none of our folders
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid:
                continue
            with (folder / OWNER).open() as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if put_away(folder, Path(owner.read())):
                    gone.append(folder)
    return gone


def put_away(folder: Path, logs: Path) -> bool:
    """Moves the logs to where they belong and deletes the folder; False where the disk refused the logs."""
    if logs.is_symlink() and logs.readlink().is_relative_to(folder) and not keep_logs(logs):
        return False
    for entry in folder.iterdir():
        if entry.name == OWNER:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    # Ray's last processes may still write into it. Without `owner` no driver would recognise it, so that goes last.
    if len(list(folder.iterdir())) == 1:
        shutil.rmtree(folder)
    return True


def keep_logs(link: Path) -> bool:
    """Puts a copy of the folder in the place of the link to it; False, with a warning, where the disk refuses."""
    source = link.readlink()
    copy = link.with_name(f"{link.name}.copying")
    shutil.rmtree(copy, ignore_errors=True)
    try:
        if source.is_dir():
            shutil.copytree(source, copy, ignore_dangling_symlinks=True)
        else:
            copy.mkdir()
        copy.chmod(link.parent.stat().st_mode & 0o777)  # Ray's is open to all users
        link.unlink()
        copy.rename(link)
    except OSError as error:  # shutil.Error too: a full disk must not hide why the run ended
        shutil.rmtree(copy, ignore_errors=True)
        log.warning("the logs stay in %s: %s is not writable (%s)", source, link, type(error).__name__)
        return False
    return True
