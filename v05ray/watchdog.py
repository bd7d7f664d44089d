"""Says what a run waits for when nothing happens for a while, and ends a wait that would have no end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from v05ray.ports import RoleLost

_NAMED = 3
"""Prompts that a message names."""


class Stalled(RoleLost):
    """A stage made no progress within its bound; names stage, step and what was waited for."""


class Watchdog:
    """Watches one stage at a time; every sign of progress starts its clock anew."""

    def __init__(self, *, note_s: float, limit_s: float, note: Callable[[str], None]) -> None:
        """After each `note_s` seconds without progress `note` gets a line, after `limit_s` the stage is ended."""
        self._note_s, self._limit_s, self._note = note_s, limit_s, note
        self._since = 0.0
        self._timeout: asyncio.Timeout | None = None

    def progressed(self) -> None:
        """Something came."""
        self._since = asyncio.get_running_loop().time()
        if self._timeout is not None:
            self._timeout.reschedule(self._since + self._limit_s)

    @contextlib.asynccontextmanager
    async def stage(self, name: str, step: int, waits_for: Callable[[], str]) -> AsyncIterator[None]:
        """Watches the block, which does `name` of step `step`; `waits_for` names what has not come yet.

        Raises:
            Stalled: nothing came for `limit_s` seconds.
        """
        self._since = asyncio.get_running_loop().time()
        watching = asyncio.create_task(self._watch(name, step, waits_for))
        try:
            async with asyncio.timeout(self._limit_s) as self._timeout:
                yield
        except TimeoutError as error:
            if self._timeout is None or not self._timeout.expired():
                raise
            raise Stalled(
                f"step {step}, {name}: no progress for {self._limit_s:g} s, waiting for {waits_for()}; raise "
                "run.stall_s if the work is that long"
            ) from error
        finally:
            self._timeout = None
            watching.cancel()

    async def _watch(self, name: str, step: int, waits_for: Callable[[], str]) -> None:
        told = self._since
        while True:
            await asyncio.sleep(max(0.0, max(told, self._since) + self._note_s - asyncio.get_running_loop().time()))
            now = asyncio.get_running_loop().time()
            if now - max(told, self._since) >= self._note_s:
                told = now
                self._note(f"step {step}, {name}: nothing for {now - self._since:.0f} s, waiting for {waits_for()}")


def some(prompt_ids: Sequence[str]) -> str:
    """`prompts 'a', 'b', 'c' and 9 more`."""
    named = ", ".join(repr(name) for name in prompt_ids[:_NAMED])
    more = f" and {len(prompt_ids) - _NAMED} more" if len(prompt_ids) > _NAMED else ""
    return f"prompt{'s' if len(prompt_ids) > 1 else ''} {named}{more}"
