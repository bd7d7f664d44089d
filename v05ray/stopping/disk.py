"""Disks that hang: work on them that can be given up, and an end of the process that does not wait for them.

A thread in a system call cannot be cancelled. So all work that may wait for a disk runs in a daemon thread of its own,
which is never joined: the run can report what it waits for, give up, and end. What such a thread still does is
harmless, for every file appears whole or not at all (`durable`).
"""

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from v05ray.errors import RunError
from v05ray.ports import PendingCall
from v05ray.stopping.exit_codes import ExitCode
from v05ray.stopping.outstanding import Outstanding

T = TypeVar("T")

PROBE_S = 5.0
"""A disk that does not take a few bytes within PROBE_S seconds hangs."""
LEAVE_S = 60.0
"""Seconds that the end of a run may take after a disk has hung."""
LAST_WORDS_S = 5.0
"""Seconds at most that a process which leaves without its disk takes to flush stdout and stderr."""
NAME = "the disk"


class DiskStalled(RunError):
    """A disk neither takes nor refuses data; names the path and how to continue."""


class Disk:
    """Implements `outstanding.Waits`: what the run has given its disks to do."""

    def __init__(self) -> None:
        self._given = Outstanding()

    async def do(self, path: Path, work: Callable[..., T], *arguments: Any) -> T:
        """What `work(*arguments)` returns or raises; `path` names what it works on."""
        with self._given(NAME, f"work at {path}"):
            return await in_daemon_thread(work, *arguments)

    async def waiting(self) -> Sequence[PendingCall]:
        """Calls of the disk that have not returned."""
        return self._given.pending()

    async def responds(self, folder: Path, *, within_s: float = PROBE_S) -> bool:
        """Whether the folder's disk takes a few bytes, or refuses them, in time."""
        try:
            await asyncio.wait_for(in_daemon_thread(_probe, folder), within_s)
        except TimeoutError:
            return False
        except OSError:
            return True
        return True


def _probe(folder: Path) -> None:
    path = folder / f".probe-{uuid4().hex[:8]}"
    try:
        with path.open("wb") as file:
            file.write(b"v05ray")
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)


async def in_daemon_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Like `asyncio.to_thread`, but given up when cancelled: neither the loop's end nor the process's waits for it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_exception(error) if error is not None else future.set_result(result)

    def run() -> None:
        try:
            outcome = work(*arguments), None
        except BaseException as error:  # raised again where it is awaited
            outcome = None, error
        with contextlib.suppress(RuntimeError):  # the loop is closed: the result is not awaited any more
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, daemon=True, name="v05ray-disk").start()
    return await future


class LastResort:
    """Ends the process if the block is not left in time after a disk has hung: its end may wait for the same disk."""

    def __init__(self, *, after_s: float = LEAVE_S) -> None:
        self._after_s = after_s
        self._timer: threading.Timer | None = None

    def __enter__(self) -> "LastResort":
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @contextlib.contextmanager
    def after_a_hang(self, note: Callable[[str], None]) -> Iterator[None]:
        """Reports a `DiskStalled` of this block at once; the outer block then has `after_s` seconds to end.

        Then the process ends as it is, with exit code 1.
        """
        try:
            yield
        except DiskStalled as error:
            note(str(error))
            self._timer = threading.Timer(self._after_s, self._leave)
            self._timer.daemon = True
            self._timer.start()
            raise

    def _leave(self) -> None:
        # Python's own buffers are lost by `os._exit`; what they are written to may be a file on the disk that hangs.
        saying = threading.Thread(target=_last_words, daemon=True)
        saying.start()
        saying.join(timeout=LAST_WORDS_S)
        os._exit(ExitCode.FAILED)


def _last_words() -> None:
    print("v05ray: the end of the run waits for the disk too; leaving without it", file=sys.stderr, flush=True)
    sys.stdout.flush()
