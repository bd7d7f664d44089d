"""Giving up what would not be done in time: a stop with a grace period, as spot nodes and clusters give it."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class Grace:
    """The work in progress, whether it may be given up, and when it has to be."""

    def __init__(self) -> None:
        self.abandoned = False
        """Whether `leave_by` has given up what was being done."""
        self.checkpoint_s: float | None = None
        """How long the last checkpoint took."""
        self._work: asyncio.Task[Any] | None = None
        """What may be given up: a step before its update, an evaluation."""
        self._running: asyncio.Task[Any] | None = None
        self._timers: list[asyncio.TimerHandle] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Around all that has to be over by the deadline, if there is to be one; in the task that does it."""
        self._running = asyncio.current_task()
        try:
            yield
        finally:
            for timer in self._timers:
                timer.cancel()

    def leave_by(self, deadline: float) -> None:
        """Whatever is not done in time for a checkpoint by `deadline` (of the event loop's clock) is given up.

        What is still `running` at the deadline is cancelled: then the newest checkpoint on disk is what remains.
        """
        loop = asyncio.get_running_loop()
        grace_s = deadline - loop.time()
        reserve_s = min(grace_s / 2, 2 * self.checkpoint_s + 2 if self.checkpoint_s is not None else grace_s)
        self._timers = [loop.call_at(deadline - reserve_s, self._abandon)]
        if self._running is not None:
            self._timers.append(loop.call_at(deadline, self._running.cancel))

    def carry_through(self) -> None:
        """From here on, what is being done is not given up any more."""
        self._work = None

    async def unless_abandoned(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What `work` returns; None where it was given up."""
        task = self._work = asyncio.ensure_future(work)
        try:
            return await task
        except asyncio.CancelledError:
            waiting = asyncio.current_task()
            if not self.abandoned or (waiting is not None and waiting.cancelling()):
                raise
            return None
        finally:
            self._work = None

    def _abandon(self) -> None:
        if self._work is not None:
            self.abandoned = True
            self._work.cancel()
