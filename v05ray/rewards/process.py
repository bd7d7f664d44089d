"""The parent's side of one worker process: start it, ask it, end it. No Ray, no threads."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from v05ray.config import RewardsConfig
from v05ray.registry import ConfigError

START_TIMEOUT_S = 120.0
"""Importing a verifier's libraries takes a second or two; on a machine that is short of everything, much longer."""


class WorkerDied(RuntimeError):
    """The process ended without a reply."""


@dataclass(eq=False)
class WorkerProcess:
    """A started worker. `send` requests, then `receive` one reply for each, in order."""

    _process: subprocess.Popen[bytes]
    _lifeline: int
    """Write end of a pipe; the kernel ends the worker when it is closed, which also happens if this process dies."""
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    def __post_init__(self) -> None:
        self._ending = threading.Lock()

    @classmethod
    async def spawn(cls) -> "WorkerProcess":
        """A process that has not been greeted yet; `greet` it before use."""
        process, lifeline, channel = _launch()
        reader, writer = await asyncio.open_connection(sock=channel)
        return cls(process, lifeline, reader, writer)

    @property
    def pid(self) -> int:
        """Of the process, which leads a group of the same number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can still answer."""
        return self._exit() is None and not self._reader.at_eof()

    async def greet(self, config: RewardsConfig) -> None:
        """Waits until the verifier is built. Raises `ConfigError` if it cannot be, `WorkerDied`, or `TimeoutError`."""
        spec = config.verifier
        self.send(encode({"verifier": spec.name, "options": spec.options, "memory_mib": config.memory_mib}))
        reply = await self.receive(START_TIMEOUT_S)
        if "failed" in reply:
            raise ConfigError(f"rewards.verifier: {reply['failed']}")

    def send(self, request: bytes) -> None:
        """An `encode`d request; never waits, for what the worker does not read yet is kept here."""
        self._writer.write(request)

    async def receive(self, timeout_s: float) -> dict[str, Any]:
        """The next reply. Raises `TimeoutError`, or `WorkerDied` if the process ended."""
        reading = asyncio.ensure_future(self._reader.readline())
        try:
            # Not `wait_for`: a reply that came in time, while the event loop was busy with something else, still counts.
            await asyncio.wait({reading}, timeout=timeout_s)
            if not reading.done():
                raise TimeoutError(f"no verdict within {timeout_s:g} s")
        finally:
            reading.cancel()
        try:
            line = reading.result()
            if not line:
                raise WorkerDied(f"the worker ended without a verdict ({self._exit_words()})")
            return json.loads(line)
        except (ConnectionError, ValueError) as error:  # a verifier that closes or writes to descriptors not its own
            raise WorkerDied(f"the worker's connection broke: {error}") from error

    def kill(self) -> None:
        """Ends the process and its group, and waits for it; may be called twice, and from any thread."""
        with self._ending:
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
                os.close(self._lifeline)

    def hang_up(self) -> None:
        """Closes this side of the connection; belongs to the event loop's thread."""
        self._writer.close()

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


def _launch() -> tuple[subprocess.Popen[bytes], int, socket.socket]:
    """The process, the lifeline's write end, and our end of the connection."""
    ours, theirs = socket.socketpair()
    lifeline_read, lifeline_write = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "v05ray.rewards.worker", str(theirs.fileno()), str(lifeline_read)],
            stdin=subprocess.DEVNULL,
            stdout=sys.__stderr__.fileno() if sys.__stderr__ else subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), lifeline_read),
            env=_environment(),
            start_new_session=True,  # one group to kill, whatever the verifier starts; and Ctrl-C is not for it
        )
    except OSError:
        ours.close()
        os.close(lifeline_write)
        raise
    finally:
        theirs.close()
        os.close(lifeline_read)
    return process, lifeline_write, ours


def _environment() -> dict[str, str]:
    """The parent's, with its `sys.path` (where users' verifiers are), and one thread each (there are many workers)."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
