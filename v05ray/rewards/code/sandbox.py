"""The parent's side of the sandboxes, and what the kernel of this machine forbids programs.

    Host --> a process that forks sessions; Sandbox --> a session --> a child for each test, which is the program

All of them end when this process closes their connections, dies, or is killed.
"""

import json
import os
import select
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from v05ray.errors import ConfigError

Files = Literal["none", "scratch"]
Packages = Literal["none", "installed"]

_ROOT = Path(__file__).parents[3]
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from v05ray.rewards.code.inside.serve import main; main(int(sys.argv[2]))"
)
_SYSTEM = (
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/urandom",
    "/dev/zero",
)
"""What programs may read besides Python: libraries, time zones."""
_GRACE_S = 5.0
"""What a session may take beyond the time of a test before it counts as broken."""
_START_S = 30.0


class SandboxError(RuntimeError):
    """The sandbox itself does not work: no fault of the program's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one process of a program."""

    cpu_seconds: int = 4
    memory_mib: int = 1024
    output_mib: int = 4
    files: Files = "none"
    packages: Packages = "installed"
    usual_imports: bool = True

    @property
    def numbers(self) -> dict[str, int]:
        """Those that the kernel and the serving process keep to."""
        return {
            "cpu_seconds": self.cpu_seconds,
            "memory_mib": self.memory_mib,
            "output_mib": self.output_mib,
            "file_mib": 8 if self.files == "scratch" else 0,
        }


@dataclass(frozen=True, slots=True)
class Isolation:
    """Which layers a machine's kernel gives; the texts say why one is missing, None where it is there."""

    no_files: str | None
    no_calls: str | None
    namespaces: bool

    @property
    def complete(self) -> bool:
        """Whether files are hidden, and sockets, processes and signals forbidden."""
        return self.no_files is None and self.no_calls is None

    def __str__(self) -> str:
        calls = "no network, no other processes (seccomp" + (", namespaces)" if self.namespaces else ")")
        if self.no_calls is not None:
            network = "no network (namespaces)" if self.namespaces else "NETWORK OPEN"
            calls = f"{network}, PROCESSES NOT CONTAINED ({self.no_calls})"
        files = "no files (Landlock)" if self.no_files is None else f"FILES OF THE USER OPEN ({self.no_files})"
        return f"{calls}, {files}, limits of time and memory"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test's process ended, and what it gave."""

    why: str
    """Why it ended badly; empty where it ended well."""
    output: str = ""


class Host:
    """Starts sandboxes, each in a few milliseconds. `close` it at the end; it ends with this process as well."""

    def __init__(self, limits: Limits, isolation: Isolation) -> None:
        self.limits, self.isolation = limits, isolation
        self.namespaces = False
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def sandbox(self, program: str, *, lifetime_s: float) -> "Sandbox":
        """A sandbox for one program, of `lifetime_s` seconds at most; raises `SandboxError` where it cannot be made."""
        try:
            return self._session(program, lifetime_s)
        except OSError:  # the process that forks them is not there yet, or has been killed
            self.close()
            self._start()
        try:
            return self._session(program, lifetime_s)
        except OSError as error:
            raise SandboxError(f"no sandbox could be made: {error}") from error

    def close(self) -> None:
        """Ends the process; sandboxes that are still open end too."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _START, str(_ROOT), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=_environment(),
                start_new_session=True,  # it ends by itself, when its sessions have
            )
        except OSError as error:
            raise SandboxError(f"the sandbox's process could not be started: {error}") from error
        finally:
            theirs.close()
        settings = {
            "limits": self.limits.numbers,
            "readable": _readable(),
            "site_packages": _site_packages() if self.limits.packages == "installed" else [],
            "usual_imports": self.limits.usual_imports,
            "files": self.isolation.no_files is None,
            "calls": self.isolation.no_calls is None,
        }
        self._connection.settimeout(_START_S)
        try:
            self._connection.send(json.dumps(settings).encode())
            answer = self._connection.recv(4096)
        except OSError as error:
            raise SandboxError(f"the sandbox's process does not start: {error}") from error
        if not answer:
            raise SandboxError(f"the sandbox's process ended as it started: exit status {self._process.wait()}")
        self.namespaces = json.loads(answer)["namespaces"]

    def _session(self, program: str, lifetime_s: float) -> "Sandbox":
        if self._connection is None:
            raise ConnectionError("not started")
        (theirs, control), (report, reporting) = os.pipe(), os.pipe()
        try:
            socket.send_fds(self._connection, [b"session"], [theirs, reporting])
        except OSError:
            os.close(control)
            os.close(report)
            raise
        finally:
            os.close(theirs)
            os.close(reporting)
        return Sandbox(self, program, control, report, lifetime_s)


class Sandbox:
    """One program, ready to be run; `close` it, or use it as a context.

    Raises `SandboxError` wherever the fault is not the program's.
    """

    def __init__(self, host: Host, program: str, control: int, report: int, lifetime_s: float) -> None:
        self._host, self._control, self._report = host, control, report
        self._closed = False
        self._scratch = tempfile.TemporaryDirectory(prefix="v05ray-code-") if host.limits.files == "scratch" else None
        os.set_blocking(control, False)
        os.set_blocking(report, False)
        self._unread = bytearray()
        hello = {
            "program": program,
            "scratch": self._scratch.name if self._scratch else None,
            "lifetime_s": int(lifetime_s + 2 * _GRACE_S) + 1,
        }
        self._unsent = bytearray(json.dumps(hello).encode() + b"\n")

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the program, waits for that, and removes its folder."""
        if self._closed:
            return
        self._closed = True
        os.close(self._control)
        poll = select.poll()
        poll.register(self._report, select.POLLIN)
        deadline = time.monotonic() + _GRACE_S
        while left := max(0.0, deadline - time.monotonic()):
            if poll.poll(left * 1000) and not os.read(self._report, 1 << 16):
                break  # its process has gone
        else:
            self._host.close()
        os.close(self._report)
        if self._scratch is not None:
            self._scratch.cleanup()

    def run(self, text: str, wall_s: float) -> Outcome:
        """The whole program with `text` as its standard input."""
        said = self._ask({"op": "run", "input": text, "wall_s": wall_s}, wall_s)
        return Outcome(said["why"], said["output"])

    def call(self, function: str, args: Any, wall_s: float) -> Outcome:
        """One call of a function with wired arguments; the output is the wired result as JSON text."""
        said = self._ask({"op": "call", "function": function, "args": args, "wall_s": wall_s}, wall_s)
        return Outcome(said["why"], said["reply"])

    def judge(self, tests: Mapping[str, Any], wall_s: float) -> Outcome:
        """Code that tests the program's functions; the output has a line of JSON for each unit: `inside.asserts`."""
        start = time.monotonic()
        said = self._ask({"op": "load", "wall_s": wall_s}, wall_s)
        if said["why"]:
            return Outcome(said["why"])
        left = max(0.1, wall_s - (time.monotonic() - start))
        said = self._ask({"op": "judge", "tests": tests, "wall_s": left}, left)
        return Outcome(said["why"], said["lines"])

    def layers(self) -> Isolation:
        """The layers that hold in this sandbox, tried out in it."""
        said = self._ask({"op": "layers"}, 10)
        return Isolation(said["files"], said["calls"], self._host.namespaces)

    def _ask(self, request: Mapping[str, Any], wall_s: float) -> dict[str, Any]:
        self._unsent += json.dumps(request).encode() + b"\n"
        deadline = time.monotonic() + wall_s + _GRACE_S
        poll = select.poll()
        poll.register(self._report, select.POLLIN)
        poll.register(self._control, select.POLLOUT)
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            events = dict(poll.poll(max(0.0, left) * 1000))
            if not events:
                self._host.close()
                raise SandboxError(f"the sandbox's process gave no answer within {wall_s + _GRACE_S:.3g} s")
            if self._control in events:
                try:
                    del self._unsent[: os.write(self._control, self._unsent)]
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    self._unsent.clear()  # it has gone, as there will be no answer
                if not self._unsent:
                    poll.unregister(self._control)
            if self._report in events:
                chunk = os.read(self._report, 1 << 20)
                if not chunk:
                    raise SandboxError("the sandbox's process ended without an answer; its log may say why")
                self._unread += chunk
        line, _, rest = bytes(self._unread).partition(b"\n")
        self._unread = bytearray(rest)
        answer = json.loads(line)
        if "failed" in answer:
            raise SandboxError(answer["failed"])
        return answer


def _environment() -> dict[str, str]:
    """What the process needs to start; programs get none of it. An arena a thread would take up the limit of memory."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {**kept, "MALLOC_ARENA_MAX": "1"}


def _site_packages() -> list[str]:
    return list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))


def _readable() -> Sequence[str]:
    python = (sys.base_prefix, sys.base_exec_prefix, *_site_packages())
    return tuple(dict.fromkeys(os.path.realpath(path) for path in (*_SYSTEM, *python) if os.path.exists(path)))


_PROBE = """
import os, socket
said = []
try:
    with socket.create_connection(("127.0.0.1", {port}), timeout=1):
        said.append("network")
except OSError:
    pass
try:
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    said.append("processes")
except OSError:
    pass
try:
    open({file!r}).close()
    said.append("files")
except OSError:
    pass
print(*said)
"""
_NONE_KNOWN = Isolation("not tried yet", "not tried yet", False)


@lru_cache(maxsize=1)
def isolation_here() -> Isolation:
    """What this machine's kernel gives, tried out; raises `SandboxError` where a layer is there and does not hold."""
    limits = Limits(packages="none", usual_imports=False)
    host = Host(limits, _NONE_KNOWN)
    try:
        with host.sandbox("", lifetime_s=10) as asked:
            found = asked.layers()
    finally:
        host.close()
    host = Host(limits, found)
    with tempfile.NamedTemporaryFile() as file, socket.create_server(("127.0.0.1", 0)) as listening:
        program = _PROBE.format(port=listening.getsockname()[1], file=file.name)
        try:
            with host.sandbox(program, lifetime_s=10) as tried:
                outcome = tried.run("", 10)
        finally:
            host.close()
    if outcome.why:
        raise SandboxError(f"a program of a few lines does not run in the sandbox: {outcome.why}")
    open_ones = set(outcome.output.split())
    closed = {"processes"} if found.no_calls is None else set[str]()
    closed |= {"files"} if found.no_files is None else set()
    closed |= {"network"} if found.no_calls is None or found.namespaces else set()
    if open_ones & closed:
        raise SandboxError(f"the kernel has what would close {', '.join(sorted(open_ones & closed))}, and it does not")
    return found


def checked_isolation(wanted: str) -> Isolation:
    """What this machine gives; raises `ConfigError` where `required` isolation is incomplete or nothing runs."""
    if wanted not in ("required", "best_effort"):
        raise ConfigError(f"isolation must be required or best_effort, got {wanted!r}")
    if not sys.platform.startswith("linux"):
        raise ConfigError("verifier 'code' runs programs on Linux alone")
    try:
        found = isolation_here()
    except (SandboxError, OSError) as error:
        raise ConfigError(f"verifier 'code' cannot run programs on this machine: {error}") from error
    if wanted == "required" and not found.complete:
        raise ConfigError(
            f"verifier 'code' cannot shut programs in on this machine: {found}; take a kernel with Landlock (5.13 or "
            "later, `landlock` in its `lsm=` list) and seccomp, or set isolation: best_effort where programs may reach "
            "what is open"
        )
    return found
