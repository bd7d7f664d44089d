"""Reports what a run waits for when nothing happens for a while, and ends a wait that would have no end.

Each role of the stage reports its calls that have not returned: prompt, actor, stage and seconds are named. A role that
does not reply in time is named itself.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path

from v05ray.ports import PendingCall, RoleLost
from v05ray.stopping.disk import NAME as DISK
from v05ray.stopping.disk import Disk, DiskStalled
from v05ray.stopping.outstanding import REPLY_S, Waits, describe, pending_calls


class Stalled(RoleLost):
    """A stage made no progress within its bound; names step, stage, actor and prompts."""


class Watchdog:
    """Watches one stage at a time; every sign of progress resets its clock."""

    def __init__(
        self,
        *,
        note_s: float,
        limit_s: float,
        disk_limit_s: float,
        note: Callable[[str], None],
        disk: Disk,
        reply_s: float = REPLY_S,
    ) -> None:
        """After each `note_s` seconds without progress `note` gets a line, after `limit_s` the stage is ended.

        `disk_limit_s` is the limit of stages that wait for a disk alone. Roles have `reply_s` seconds to report their
        pending calls, on top of the limit.
        """
        self._note_s, self._limit_s, self._disk_limit_s = note_s, limit_s, disk_limit_s
        self._note, self._disk, self._reply_s = note, disk, reply_s
        self._since = 0.0

    def progressed(self) -> None:
        """Reset the inactivity timer."""
        self._since = asyncio.get_running_loop().time()

    @contextlib.asynccontextmanager
    async def stage(
        self,
        name: str,
        step: int,
        roles: Mapping[str, Waits] | None = None,
        *,
        prompts: Collection[str] = (),
        writes: Path | None = None,
    ) -> AsyncIterator[None]:
        """Watches the block, which does `name` of step `step`.

        Args:
            name: of the stage.
            step: of the run.
            roles: by name, those that do the block's work; each reports its pending calls.
            prompts: those that are not done; read when something is to be reported.
            writes: the folder that the block writes to or reads from.

        Raises:
            Stalled: no progress for the limit.
            DiskStalled: the same, because of the disk; also in place of the loss of a role that waits for the disk.
        """
        watch = _Watch(self, f"step {step}, {name}", roles or {}, prompts, writes)
        self.progressed()
        watching = asyncio.create_task(watch.run())
        try:
            async with watch.timeout:
                yield
        except TimeoutError as error:
            if not watch.timeout.expired():
                raise
            raise watch.verdict from error
        except RoleLost as error:
            if writes is None or await self._disk.responds(writes):
                raise
            raise DiskStalled(_hangs(f"step {step}, {name}: {error}", writes)) from error
        finally:
            watching.cancel()


class _Watch:
    """The watch over one stage."""

    def __init__(
        self, dog: Watchdog, title: str, roles: Mapping[str, Waits], prompts: Collection[str], writes: Path | None
    ) -> None:
        self._dog, self._title, self._prompts, self._writes = dog, title, prompts, writes
        self._roles = {**roles, DISK: dog._disk} if writes else roles
        self._limit_s = dog._limit_s if roles else dog._disk_limit_s
        self.timeout = asyncio.timeout(None)
        self.verdict: Exception = Stalled(title)

    async def run(self) -> None:
        """Until the stage is over, or ended by this."""
        try:
            self.verdict = await self._expired()
        except Exception as error:  # raised again by the stage, which would no longer be watched
            self.verdict = error
        self.timeout.reschedule(asyncio.get_running_loop().time())

    async def _expired(self) -> Exception:
        """Returns what to raise, once there was no progress for the limit."""
        dog, loop = self._dog, asyncio.get_running_loop()
        noted = dog._since
        while True:
            due = min(max(noted, dog._since) + dog._note_s, dog._since + self._limit_s)
            if (wait_s := due - loop.time()) > 0:
                await asyncio.sleep(wait_s)
                continue
            since = dog._since
            calls = await pending_calls(self._roles, within_s=dog._reply_s)
            if since != dog._since:  # there was progress meanwhile
                continue
            if loop.time() >= since + self._limit_s:
                return await self._error(calls)
            noted = loop.time()
            dog._note(f"{self._title}: nothing for {noted - since:.0f} s, waiting for {describe(calls, self._prompts)}")

    async def _error(self, calls: list[PendingCall]) -> Exception:
        text = f"{self._title}: no progress for {self._limit_s:g} s, waiting for {describe(calls, self._prompts)}"
        if self._writes and (_by_disk(calls) or not await self._dog._disk.responds(self._writes)):
            return DiskStalled(_hangs(text, self._writes))
        return Stalled(f"{text}; raise run.stall_s if the work is that long")


def _by_disk(calls: list[PendingCall]) -> bool:
    return any(one.actor == DISK for one in calls)


def _hangs(text: str, folder: Path) -> str:
    return (
        f"{text}; the disk of {folder} hangs: fresh actors would only wait for it too. Repair the disk, then resume "
        "from the newest checkpoint with --resume"
    )
