"""The process that programs come from: forks one for each response, which forks a child for each test.

    host --> session, one a response --> the program, one a test

The host has all that takes time to import and knows no program; it ends when its parent does. A session kills a child
at its limits, and ends with all its children when its connection is closed. Started by `sandbox.Host`, which sends one
JSON object and then two descriptors for each session: its requests, and where its answers go. There, a line each:

    <- {"program": TEXT, "lifetime_s": N, "scratch": FOLDER | null}
    <- {"op": "layers"}                                     -> {"files": WHY | null, "calls": WHY | null}
    <- {"op": "run", "input": TEXT, "wall_s": S}            -> {"why": TEXT, "output": TEXT}
    <- {"op": "call", "function": F, "args": WIRED, ...}    -> {"why": TEXT, "reply": TEXT}
    <- {"op": "load", "wall_s": S}                          -> {"why": TEXT}
    <- {"op": "judge", "tests": {...}, "wall_s": S}         -> {"why": TEXT, "lines": TEXT}

or `{"failed": WHY}` where the sandbox is at fault. `why` is empty where the child ended well. `load` starts the program
before the session gets its tests: a fork holds all that its parent had read.
"""

import builtins
import io
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

from v05ray.rewards.code.inside import asserts, kernel, program

_STDERR_KEPT = 4096
_ENVIRONMENT = {
    "HOME": "/",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
}


def main(connection_fd: int) -> None:
    """Hosts sessions until the parent hangs up."""
    connection = socket.socket(fileno=connection_fd)
    settings = json.loads(connection.recv(65536))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.environ.clear()
    os.environ.update(_ENVIRONMENT)
    sys.path[:] = [*sys.path[1:], *settings["site_packages"]]  # without the place where this package was found
    sys.argv[:] = ["solution.py"]
    builtins.exit = builtins.quit = sys.exit  # which `site` would have made
    common = Common(settings)
    connection.send(json.dumps({"namespaces": common.namespaces}).encode())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # sessions are waited for by their connections
    while True:
        message, fds, _, _ = socket.recv_fds(connection, 16, 2)
        if not message:
            return
        host = os.getpid()
        if os.fork() == 0:
            try:
                connection.close()
                kernel.die_with_parent()
                if os.getppid() == host:
                    _serve(common, *fds)
            finally:
                os._exit(1)
        for fd in fds:
            os.close(fd)


class Common:
    """What all sessions share: limits, paths, and the layers of the sandbox."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.limits: Mapping[str, int] = settings["limits"]
        self.readable: list[str] = settings["readable"]
        self.hides_files: bool = settings["files"]
        self.forbids_calls: bool = settings["calls"]
        self.usual: dict[str, Any] = {}
        """Names that each program finds."""
        if settings["usual_imports"]:
            exec(program.USUAL_IMPORTS, self.usual)
            self.usual.pop("__builtins__")
        self.namespaces = True
        try:
            kernel.leave_network()
        except OSError:  # many containers forbid it, and all of it is forbidden by seccomp as well
            self.namespaces = False
        self.bound_threads = self.namespaces and kernel.has_threads_of_its_own()


def _serve(common: Common, control_fd: int, report_fd: int) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control = os.fdopen(control_fd, "rb")
    hello = control.readline()
    if not hello:
        os._exit(0)
    session = Session(common, control, report_fd, json.loads(hello))
    for line in control:
        try:
            answer = session.serve(json.loads(line))
        except OSError as error:  # no fault of the program's
            answer = {"failed": str(error)}
        session.report(answer)
    session.end()
    os._exit(0)


class Captured:
    """What a child writes into one of its pipes, up to `most` bytes: beyond, its end is kept, or the child killed."""

    def __init__(self, most: int, *, drop: bool = False) -> None:
        self.most, self.drop = most, drop
        self.data = bytearray()

    def add(self, chunk: bytes) -> bool:
        """Keeps the chunk; whether the process may write more."""
        self.data += chunk
        if len(self.data) <= self.most:
            return True
        if self.drop:
            del self.data[: -self.most]
        return self.drop

    @property
    def text(self) -> str:
        """What was captured, as UTF-8 text; broken bytes are replaced."""
        return self.data.decode(errors="replace")


class Child(NamedTuple):
    """A forked process, and this side's ends of its pipes."""

    pid: int
    output: int
    errors: int
    trouble: int
    """Why it could not be shut in; closed before it runs a program."""


class Session:
    """Answers one request after the other about one program."""

    def __init__(self, common: Common, control: BinaryIO, report_fd: int, hello: Mapping[str, Any]) -> None:
        self._common, self._control, self._report_fd = common, control, report_fd
        self._source: str = hello["program"]
        self._limits, self._usual = common.limits, common.usual
        signal.alarm(hello["lifetime_s"])
        scratch: str | None = hello["scratch"]
        os.chdir(scratch or "/")
        if scratch:
            os.environ["TMPDIR"] = scratch
        writable = ["/dev/null", *([scratch] if scratch else [])]
        self._rules = kernel.file_rules(common.readable, writable) if common.hides_files else None
        self._program: int | None = None
        self._pipes: tuple[int, int] | None = None

    def report(self, message: Mapping[str, Any]) -> None:
        """Sends one line to the parent."""
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            data = data[os.write(self._report_fd, data) :]

    def serve(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answers one request of the parent."""
        return {
            "layers": self._layers,
            "run": self._run,
            "call": self._call,
            "load": self._load,
            "judge": self._judge,
        }[request["op"]](request)

    def end(self) -> None:
        """Kills what still runs."""
        if self._program is not None:
            os.kill(self._program, signal.SIGKILL)
            os.waitpid(self._program, 0)
            self._program = None

    def _layers(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """Which layers this kernel gives, tried in a child that is bound by nothing else."""

        def try_layers() -> int:
            kernel.drop_privileges()
            said: dict[str, str | None] = {"files": None, "calls": None}
            for layer, apply in (
                ("files", lambda: kernel.hide_files(kernel.file_rules(self._common.readable, []))),
                ("calls", kernel.forbid_calls),
            ):
                try:
                    apply()
                except OSError as error:
                    said[layer] = error.strerror
            os.write(1, json.dumps(said).encode())
            return 0

        said = self._watched(self._fork(try_layers, bound=False), 10.0, output=Captured(4096))
        return json.loads(said["output"])

    def _run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        given = os.memfd_create("stdin")
        with os.fdopen(os.dup(given), "wb") as file:
            file.write(request["input"].encode(errors="surrogatepass"))
        os.lseek(given, 0, os.SEEK_SET)
        child = self._fork(lambda: program.run(self._source, self._usual), stdin=given)
        os.close(given)
        return self._watched(child, request["wall_s"], output=Captured(self._limits["output_mib"] * 2**20))

    def _call(self, request: Mapping[str, Any]) -> dict[str, Any]:
        reads, writes = os.pipe()

        def work() -> int:
            return program.call(self._source, self._usual, request["function"], request["args"], writes)

        child = self._fork(work, keep=(writes,))
        os.close(writes)
        reply = Captured(self._limits["output_mib"] * 2**20)
        said = self._watched(child, request["wall_s"], output=Captured(1, drop=True), more=(reads, reply))
        return {"why": said["why"], "reply": reply.text}

    def _load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        (asked, asking), (answered, answering), (loaded, loading) = os.pipe(), os.pipe(), os.pipe()

        def work() -> int:
            return program.serve(self._source, self._usual, asked, answering, loading)

        child = self._fork(work, keep=(asked, answering, loading))
        for fd in (asked, answering, loading):
            os.close(fd)
        done = Captured(1, drop=True)
        said = self._watched(
            child, request["wall_s"], output=Captured(1, drop=True), more=(loaded, done), until=lambda: bool(done.data)
        )
        self._pipes = (asking, answered)
        if said["why"]:
            self._hang_up()
        elif not done.data:
            said["why"] = "the program ended before it was tested"
        return {"why": said["why"]}

    def _hang_up(self) -> None:
        for fd in self._pipes or ():
            os.close(fd)
        self._pipes = None

    def _judge(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._pipes is not None
        asking, answered = self._pipes
        results, writes = os.pipe()

        def work() -> int:
            return asserts.judge(request["tests"], self._usual, asking, answered, writes)

        child = self._fork(work, keep=(asking, answered, writes))
        os.close(writes)
        self._hang_up()
        lines = Captured(2**22)
        said = self._watched(child, request["wall_s"], output=Captured(1, drop=True), more=(results, lines))
        why = said["why"] or (self._ended_by_itself() or "")
        self.end()
        return {"why": why, "lines": lines.text}

    def _ended_by_itself(self) -> str | None:
        """Why the tested program is no more; None where it still serves, or ended when its tests did."""
        if self._program is None:
            return None
        ended, status, usage = os.wait4(self._program, os.WNOHANG)
        if not ended:
            return None
        self._program = None
        return self._why(status, usage.ru_utime + usage.ru_stime, "")

    def _fork(
        self, work: Callable[[], int], *, stdin: int | None = None, keep: tuple[int, ...] = (), bound: bool = True
    ) -> "Child":
        """A child that does `work` within all limits."""
        (output, out), (errors, err), (trouble, in_trouble) = os.pipe(), os.pipe(), os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            for fd in (out, err, in_trouble):
                os.close(fd)
            return Child(pid, output, errors, trouble)
        status = 70
        try:
            kernel.die_with_parent()
            if os.getppid() != parent:
                os._exit(status)
            signal.alarm(0)
            _take_streams(os.open(os.devnull, os.O_RDONLY) if stdin is None else stdin, out, err)
            _close_all_but({*keep, in_trouble, *([self._rules] if self._rules is not None else [])})
            if bound and not self._restrict(in_trouble):
                os._exit(status)
            os.close(in_trouble)
            status = work()
        finally:
            os._exit(status)

    def _restrict(self, in_trouble: int) -> bool:
        """Whether all of it holds; no program runs where it does not."""
        try:
            kernel.drop_privileges()
            kernel.limit(self._limits, bound_threads=self._common.bound_threads)
            if self._rules is not None:
                kernel.hide_files(self._rules)
                os.close(self._rules)
            if self._common.forbids_calls:
                kernel.forbid_calls()
        except (OSError, ValueError) as error:
            os.write(in_trouble, str(error).encode())
            return False
        return True

    def _watched(
        self,
        child: "Child",
        wall_s: float,
        *,
        output: Captured,
        more: tuple[int, Captured] | None = None,
        until: Callable[[], bool] | None = None,
    ) -> dict[str, Any]:
        """Reads the child's pipes until it ends, or is ended; with `until`, it may also continue as `_program`."""
        errors = Captured(_STDERR_KEPT, drop=True)
        captured = {child.output: output, child.errors: errors, **(dict([more]) if more else {})}
        ended = os.pidfd_open(child.pid)
        poll = select.poll()
        for fd in (ended, *captured):
            poll.register(fd, select.POLLIN)
        poll.register(self._control.fileno(), 0)
        deadline, killed = time.monotonic() + wall_s, ""
        try:
            while not killed:
                left = deadline - time.monotonic()
                if left <= 0:
                    killed = f"no end within {wall_s:.3g} s"
                    break
                events = dict(poll.poll(left * 1000))
                if events.get(self._control.fileno(), 0) & select.POLLHUP:
                    os.kill(child.pid, signal.SIGKILL)
                    self.end()
                    os._exit(0)
                for fd in events.keys() & captured.keys():
                    chunk = os.read(fd, 65536)
                    if not chunk:
                        poll.unregister(fd)
                    elif not captured[fd].add(chunk):
                        killed = f"more than {captured[fd].most >> 20} MiB of output"
                if until is not None and until():
                    self._program = child.pid
                    return {"why": "", "output": ""}
                if ended in events and not events.keys() & captured.keys():
                    break  # and all that it wrote has been read
            if killed:
                os.kill(child.pid, signal.SIGKILL)
            _, status, usage = os.wait4(child.pid, 0)
            if trouble := os.read(child.trouble, 4096):
                raise OSError(f"the sandbox could not be closed: {trouble.decode(errors='replace')}")
            why = killed or self._why(status, usage.ru_utime + usage.ru_stime, errors.text)
            return {"why": why, "output": output.text}
        finally:
            for fd in (ended, child.trouble, *captured):
                os.close(fd)

    def _why(self, status: int, cpu_s: float, errors: str) -> str:
        """Why a child ended badly, in words; empty where it did not."""
        if status == 0:
            return ""
        limits, last = self._limits, (errors.strip().splitlines() or [""])[-1][:300]
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number == signal.SIGXCPU or (number == signal.SIGKILL and cpu_s >= limits["cpu_seconds"]):
                return f"more than {limits['cpu_seconds']} s of CPU time"
            return f"ended by {signal.Signals(number).name}"
        if last.startswith("MemoryError"):
            return f"MemoryError: more than {limits['memory_mib']} MiB of memory"
        return last or f"exit status {os.WEXITSTATUS(status)}"


def _take_streams(stdin: int, stdout: int, stderr: int) -> None:
    for target, fd in enumerate((stdin, stdout, stderr)):
        os.dup2(fd, target)
    sys.stdin = sys.__stdin__ = _text(io.BufferedReader(io.FileIO(0, closefd=False)))
    sys.stdout = sys.__stdout__ = _text(io.BufferedWriter(io.FileIO(1, "w", closefd=False)))
    sys.stderr = sys.__stderr__ = _text(io.BufferedWriter(io.FileIO(2, "w", closefd=False)), write_through=True)


def _text(raw: Any, *, write_through: bool = False) -> io.TextIOWrapper:
    return io.TextIOWrapper(raw, encoding="utf-8", errors="surrogateescape", write_through=write_through)


def _close_all_but(kept: set[int]) -> None:
    start = 3
    for fd in sorted(kept):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, 4096)
