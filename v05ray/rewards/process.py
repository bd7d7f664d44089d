"""The parent's side of one worker process: start it, ask it, end it. No Ray, no threads."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from v05ray.config import RewardsConfig
from v05ray.errors import ConfigError

START_TIMEOUT_S = 120.0
"""Importing a verifier's libraries takes a second or two; on a machine that is short of everything, much longer."""


class WorkerDied(RuntimeError):
    """The process ended without a reply."""


class WorkerProcess:
    """A started worker: `greet` it, then `send` requests and `receive` one reply for each, in order.

    Belongs to the event loop in which it is made; nothing is awaited before it exists, so it cannot get lost half-made.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = threading.Lock()
        self._hung_up = False
        # The kernel ends the worker when the lifeline's write end is closed, which also happens if this process dies.
        self._process, self._lifeline, self._requests, self._replies = _launch()
        self._unsent = bytearray()
        self._received = asyncio.StreamReader()
        self.at: str | None = None
        """Label of the verifier that has begun last, where there are several; None between two verdicts."""
        self._loop.add_reader(self._replies, self._read)

    @property
    def pid(self) -> int:
        """Of the process, which leads a group of the same number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can still answer."""
        return self._exit() is None and not self._received.at_eof()

    async def greet(self, config: RewardsConfig) -> None:
        """Waits until the verifier is built. Raises `ConfigError` if it cannot be, `WorkerDied`, or `TimeoutError`."""
        verifier = config.verifier.model_dump(mode="json")
        self.send(encode({"verifier": verifier, "truncated": config.truncated, "memory_mib": config.memory_mib}))
        reply = await self.receive(START_TIMEOUT_S)
        if "failed" in reply:
            raise ConfigError(f"rewards.verifier: {reply['failed']}")

    def send(self, request: bytes) -> None:
        """An `encode`d request; never waits, for what the worker does not read yet is kept here."""
        if not self._unsent:
            self._loop.add_writer(self._requests, self._write)
        self._unsent += request

    def _write(self) -> None:
        try:
            del self._unsent[: os.write(self._requests, self._unsent)]
        except BlockingIOError:
            return
        except BrokenPipeError:  # the worker has gone, as its replies will say
            self._unsent.clear()
        if not self._unsent:
            self._loop.remove_writer(self._requests)

    def _read(self) -> None:
        try:
            data = os.read(self._replies, 65536)
        except BlockingIOError:
            return
        if data:
            self._received.feed_data(data)
        else:
            self._loop.remove_reader(self._replies)
            self._received.feed_eof()

    async def receive(self, timeout_s: float) -> dict[str, Any]:
        """The next reply, within `timeout_s`. Raises `TimeoutError`, or `WorkerDied` if the process ended.

        Both leave in `at` which of several verifiers was at work.
        """
        self.at, end = None, time.monotonic() + timeout_s
        while True:
            try:
                reply = await self._line(max(0.0, end - time.monotonic()))
            except TimeoutError:
                raise TimeoutError(f"no verdict within {timeout_s:g} s") from None
            if "at" not in reply:
                return reply
            self.at = reply["at"]

    async def _line(self, timeout_s: float) -> dict[str, Any]:
        reading = asyncio.ensure_future(self._received.readline())
        try:
            # Not `wait_for`: a reply that came in time, while the event loop was busy elsewhere, still counts.
            await asyncio.wait({reading}, timeout=timeout_s)
            if not reading.done():
                raise TimeoutError
        finally:
            reading.cancel()
        try:
            line = reading.result()
            if line:
                return json.loads(line)
        except ValueError as error:  # a verifier that writes to descriptors not its own
            raise WorkerDied(f"the worker's reply is garbled: {error}") from error
        raise WorkerDied(f"the worker ended without a verdict ({self._exit_words()})")

    def kill(self) -> None:
        """Ends the process and its group, and waits for it; may be called twice, and from any thread."""
        with self._ending:
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
                os.close(self._lifeline)

    def hang_up(self) -> None:
        """Closes this side of the connection; belongs to the event loop's thread, or comes after the loop's end."""
        if self._hung_up:
            return
        self._hung_up = True
        if not self._loop.is_closed():
            self._loop.remove_writer(self._requests)
            self._loop.remove_reader(self._replies)
        os.close(self._requests)
        os.close(self._replies)

    def _exit(self) -> tuple[int, int] | None:
        """(si_code, si_status) once it has ended. Looks without reaping: the group's number stays ours until `kill`."""
        try:
            info = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # reaped: by `kill`, or by a parent that ignores SIGCHLD
            return os.CLD_EXITED, self._process.returncode or 0
        return (info.si_code, info.si_status) if info else None

    def _exit_words(self) -> str:
        exited = self._exit()
        for _ in range(50):  # the connection closes a moment before the process is gone
            if exited is not None:
                break
            time.sleep(0.002)
            exited = self._exit()
        if exited is None:
            return "it closed its connection"
        code, status = exited
        return f"exit status {status}" if code == os.CLD_EXITED else signal.Signals(status).name


def encode(request: Mapping[str, Any]) -> bytes:
    """One line of JSON; raises `TypeError` for what JSON does not know."""
    return json.dumps(request).encode() + b"\n"


def _launch() -> tuple[subprocess.Popen[bytes], int, int, int]:
    """The process, and our ends of its pipes: lifeline, requests, replies.

    Pipes and not a socket: a socket that breaks with requests unread also drops the replies that were already written.
    """
    (lifeline_read, lifeline), (requests_read, requests), (replies, replies_write) = os.pipe(), os.pipe(), os.pipe()
    theirs = (requests_read, replies_write, lifeline_read)
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "v05ray.rewards.worker", *map(str, theirs)],
            stdin=subprocess.DEVNULL,
            stdout=sys.__stderr__.fileno() if sys.__stderr__ else subprocess.DEVNULL,
            pass_fds=theirs,
            env=_environment(),
            start_new_session=True,  # one group to kill, whatever the verifier starts; and Ctrl-C is not for it
        )
    except OSError:
        for fd in (lifeline, requests, replies):
            os.close(fd)
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    os.set_blocking(requests, False)
    os.set_blocking(replies, False)
    return process, lifeline, requests, replies


def _environment() -> dict[str, str]:
    """The parent's, with its `sys.path` (where users' verifiers are), and one thread each (there are many workers)."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
