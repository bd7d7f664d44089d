"""SIGINT, SIGTERM and SIGHUP: what each means while a run starts, takes steps, and ends.

    starting        ends at once: nothing could be saved
    Ray starts      the same, once Ray's processes are up and can be ended in order
    steps           ends after the step, with a checkpoint; SIGTERM and SIGHUP have `run.grace_s` for it
    ending          nothing: the run is ending already
    a second one    ends at once, whenever it comes

A signal may arrive several times: `timeout` signals its child and then the whole process group, systemd may add SIGHUP
to SIGTERM. What follows a signal within `ONE_REQUEST_S` is the same request.
"""

import asyncio
import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Literal, Protocol

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ONE_REQUEST_S = 0.5
Mode = Literal["raise", "hold", "deliver", "ignore"]


class StopSignals:
    """Use as a context manager in the main thread: inside, the signals are handled as described above."""

    def __init__(self) -> None:
        self._mode: Mode = "raise"
        self._deliver: Callable[[signal.Signals], object] = lambda number: None
        self._num_requests = 0
        self._last = -ONE_REQUEST_S
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        # `nohup` asks for SIGHUP to be ignored.
        ours = [n for n in SIGNALS if n is not signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
        self._before = {number: signal.getsignal(number) for number in ours}
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Sets the handlers, again after a library has set its own."""
        for number in self._before:
            signal.signal(number, self._received)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, the first signal waits; it raises `KeyboardInterrupt` on leaving."""
        before, self._mode, asked = self._mode, "hold", self._num_requests
        try:
            yield
        finally:
            self._mode = before
        if self._num_requests > asked:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def delivered(self, request: Callable[[signal.Signals], object]) -> Iterator[None]:
        """Inside, `request(signal)` is called in the running event loop, for every request."""
        loop = asyncio.get_running_loop()
        before = self._mode
        self._mode, self._deliver = "deliver", lambda number: loop.call_soon_threadsafe(request, number)
        try:
            yield
        finally:
            self._mode = before

    def ending(self) -> None:
        """From here on the run ends by itself: only a signal that is not the first one has an effect."""
        self._mode = "ignore"

    def _received(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            leave_dead_terminals()
        now = time.monotonic()
        repeated, self._last = now - self._last < ONE_REQUEST_S, now
        if repeated:
            return
        self._num_requests += 1
        if self._mode == "deliver":
            self._deliver(signal.Signals(number))
        elif self._mode == "raise" or self._num_requests > 1:
            raise KeyboardInterrupt


def leave_dead_terminals() -> None:
    """Points stdout and stderr to nothing where their terminal is gone: writing there would end the run with EIO."""
    for descriptor in (1, 2):
        try:
            os.ttyname(descriptor)
        except OSError as error:
            if error.errno == errno.EIO:  # a terminal that was hung up; a file or a pipe gives ENOTTY
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, descriptor)
                os.close(nothing)


@contextlib.contextmanager
def outliving_the_terminal() -> Iterator[None]:
    """For what is printed inside: a terminal may go before the SIGHUP that says so has come."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        leave_dead_terminals()


class Stoppable(Protocol):
    """What has steps to finish: `training.driver.Trainer`."""

    def leave_by(self, deadline: float) -> None:
        """Gives up what will not be done by then (of the event loop's clock)."""
        ...


class Stop:
    """One run's answer to the signals; made in the task that does the work, which an end at once cancels."""

    def __init__(self, note: Callable[[str], None]) -> None:
        """`note` shows a line to the user."""
        self._note = note
        self._task = asyncio.current_task()
        self._trainer: Stoppable | None = None
        self._grace_s = 0.0
        self._asked = self._ending = False

    def is_set(self) -> bool:
        """Whether a first signal came, so that the run stops after this step."""
        return self._asked

    def request(self, number: signal.Signals) -> None:
        """Handles one signal, as the module's table says."""
        if self._asked or (self._trainer is None and not self._ending):
            if self._task is not None:
                self._task.cancel()
            return
        self._asked = True
        if self._trainer is None:
            self._note("the run is ending already; once more to stop at once")
            return
        within = ""
        if number != signal.SIGINT:  # a person can wait for the step, or press Ctrl-C again
            self._trainer.leave_by(asyncio.get_running_loop().time() + self._grace_s)
            within = f", within {self._grace_s:g} s"
        self._note(f"stopping after this step, with a checkpoint{within}; once more to stop at once")

    @contextlib.contextmanager
    def waits_for_the_step(self, trainer: Stoppable, grace_s: float) -> Iterator[None]:
        """Inside, `trainer` has steps to finish; after it, the run only has to end."""
        self._trainer, self._grace_s = trainer, grace_s
        try:
            yield
            self._ending = True
        finally:
            self._trainer = None
