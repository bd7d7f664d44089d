"""What a program can do, and what it cannot: every limit is really reached."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.fakes import make_prompt, one_turn
from tests.unit.rewards.code_tasks import LIMITS, fenced, ran
from v05ray.config import RewardsConfig
from v05ray.errors import ConfigError
from v05ray.rewards.code import sandbox
from v05ray.rewards.code.sandbox import Host, Isolation, Limits, SandboxError, checked_isolation, isolation_here
from v05ray.rewards.pool import VerifierPool
from v05ray.types import Rollout

ROOT = Path(__file__).parents[3]


def processes() -> set[int]:
    """The sandboxes' processes that come from this one: other tests have theirs beside it."""
    family = psutil.Process().children(recursive=True)
    return {one.pid for one in family if psutil.pid_exists(one.pid) and sandbox._START in _command(one)}


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended
        return []


def sandboxes() -> set[int]:
    """Of these, sessions and programs, without the processes that fork them."""
    return {pid for pid in processes() if psutil.pid_exists(pid) and os.getsid(pid) != pid}


def gone(pids: set[int]) -> bool:
    """Also those that have left their parents."""
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


@pytest.fixture
def host() -> Iterator[Host]:
    one = Host(Limits(memory_mib=256, packages="none"), isolation_here())
    yield one
    one.close()


def eventually(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def attempt(deed: str) -> str:
    """A program that prints `done` where a deed is refused, and what came of it otherwise."""
    lines = "\n    ".join(deed.splitlines())
    return (
        f"import os, socket, subprocess, ctypes, signal, time\ntry:\n    {lines}\n"
        f"except OSError as e:\n    print('done')\nelse:\n    print('no refusal')"
    )


def test_this_machine_shuts_programs_in():
    found = isolation_here()
    assert found.complete, str(found)
    assert "no network, no other processes (seccomp" in str(found)


@pytest.mark.parametrize(
    ("program", "options", "message"),
    [
        ("while True: pass", {"cpu_seconds": 1, "wall_seconds": 200.0}, "more than 1 s of CPU time"),
        (
            "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
            {"cpu_seconds": 1, "wall_seconds": 200.0},
            "more than 1 s of CPU time",
        ),
        ("import time\ntime.sleep(1000)", {"wall_seconds": 0.5}, "no end within 0.5"),
        (
            "import time\nprint('done', flush=True)\nos = __import__('os'); os.close(1); time.sleep(99)",
            {"wall_seconds": 0.5},
            "no end within",
        ),
        (
            (
                "import signal, time\nfor n in range(1, 32):\n"
                "    try: signal.signal(n, signal.SIG_IGN)\n    except OSError: pass\n"
                "time.sleep(99)"
            ),
            {"wall_seconds": 0.5},
            "no end within",
        ),
        ("x = bytearray(10 * 2**30)", {}, "MemoryError: more than 256 MiB of memory"),
        ("x = []\nwhile True: x.append('x' * 100000)", {}, "MemoryError: more than 256 MiB of memory"),
        ("import sys\nfor _ in range(1000): sys.stdout.write('x' * 2**20)", {}, "more than 1 MiB of output"),
        ("import sys\nfor _ in range(300): sys.stderr.write('x' * 2**10)\nprint('lost')", {}, "wrong output 'lost"),
        ("def f(): f()\nf()", {}, "RecursionError: maximum recursion depth exceeded"),
        ("import ctypes\nctypes.string_at(0)", {}, "ended by SIGSEGV"),
        ("import os\nos.abort()", {}, "ended by SIG"),
        ("1 / 0", {}, "ZeroDivisionError: division by zero"),
        ("raise SystemExit('bad')", {}, "bad"),
        ("import os\nos._exit(3)", {}, "exit status 3"),
        ("print(input())", {}, "EOFError"),
    ],
)
def test_a_program_beyond_its_limits_is_wrong_and_the_reason_is_given(program, options, message):
    verdict, said = ran(program, **options)
    assert (verdict, message in said) == ("wrong", True), said


def test_calls_and_asserts_have_the_same_limits():
    from tests.unit.rewards.code_tasks import reply

    for tests in (["assert f() == 1"], {"inputs": [[]], "outputs": [1], "fn_name": "f"}):
        said = reply(tests, fenced("def f():\n    while True: pass"), cpu_seconds=1, wall_seconds=200.0)
        assert (said["verdict"], "CPU time" in said["message"]) == ("wrong", True), said
        said = reply(tests, fenced("import time\ndef f(): time.sleep(99)"), wall_seconds=0.5)
        assert (said["verdict"], "no end within" in said["message"]) == ("wrong", True), said
        said = reply(tests, fenced("def f(): return bytearray(2**33)"))
        assert (said["verdict"], "MemoryError" in said["message"]) == ("wrong", True), said
        assert reply(tests, fenced("def f(): return 1"))["verdict"] == "correct"


def test_the_network_is_out_of_reach():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        connect = f"socket.create_connection(('127.0.0.1', {port}), timeout=2)"
        assert ran(attempt(connect)) == ("correct", "")
        assert subprocess.run([sys.executable, "-c", f"import socket\n{connect}"], check=False).returncode == 0


REFUSED = {
    "a socket": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "a datagram": "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
    "a local socket": "socket.socket(socket.AF_UNIX)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "a process": "os.fork()",
    "another program": "subprocess.run(['/bin/true'])",
    "to become another program": "os.execv('/bin/true', ['true'])",
    "a session": "os.setsid()",
    "a group": "os.setpgid(0, 0)",
    "a signal to its parent": "os.kill(os.getppid(), 0)",
    "a signal to all": "os.kill(-1, 0)",
    "a signal to its group": "os.kill(0, 0)",
    "to read the parent's memory": "open(f'/proc/{os.getppid()}/mem', 'rb')",
    "to read an environment": "open('/proc/self/environ')",
    "to list processes": "os.listdir('/proc')",
    "to read passwords": "open('/etc/passwd')",
    "to list the root": "os.listdir('/')",
    "to read a file": "open(victim)",
    "to write a file": "open('/tmp/v05ray-was-here', 'w')",
    "to write here": "open('x', 'w')",
    "to make a folder": "os.mkdir('/tmp/v05ray-was-here')",
    "to remove a file": "os.remove(victim)",
    "shared memory": "os.close(os.open('/dev/shm/v05ray', os.O_CREAT | os.O_RDWR))",
    "a file in memory": "os.write(os.memfd_create('x'), b'x')",
    "a device": "open('/dev/mem', 'rb')",
    "a name space": "f = ctypes.CDLL(None, use_errno=True)\nif f.unshare(0x10000000): raise OSError",
    "to change a mode": "os.chmod(victim, 0o600)",
    "to change a time": "os.utime(victim, (1, 1))",
    "to cut a file": "os.truncate(victim, 0)",
    "to slow others down": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "to bind others": "os.sched_setaffinity(os.getppid(), {0})",
    "a signal by a pipe": "import fcntl\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
    "to trace": "f = ctypes.CDLL(None)\nif f.ptrace(16, os.getppid(), 0, 0): raise OSError",
    "to outlive its parent": "f = ctypes.CDLL(None)\nif f.prctl(1, 0, 0, 0, 0): raise OSError",
    "limits of others": "import resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU)",
    "more memory": (
        "import resource\ntry: resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))\nexcept ValueError: raise OSError"
    ),
    "a call under another number": "f = ctypes.CDLL(None)\nif f.syscall(0x40000000 | 41, 2, 1, 0) < 0: raise OSError",
}


def test_what_is_refused_is_refused_each(tmp_path):
    """In one program, for each deed ends with a refusal that the next one does not notice."""
    victim = tmp_path / "victim"
    victim.write_text("whole")
    before = victim.stat()
    deeds = "".join(
        f"def deed_{index}():\n"
        + "".join(f"    {line}\n" for line in deed.splitlines())
        + f"deeds[{name!r}] = deed_{index}\n"
        for index, (name, deed) in enumerate(REFUSED.items())
    )
    program = (
        f"import os, socket, subprocess, ctypes, signal\nvictim = {str(victim)!r}\ndeeds = {{}}\n"
        + deeds
        + "allowed = []\n"
        "for name, deed in deeds.items():\n    try: deed()\n    except OSError: pass\n    else: allowed.append(name)\n"
        "print(', '.join(allowed) or 'done')"
    )
    assert ran(program) == ("correct", "")
    assert (victim.read_text(), victim.stat().st_mode, victim.stat().st_mtime) == (
        "whole",
        before.st_mode,
        before.st_mtime,
    )


ALLOWED = {
    "threads": "import threading\nt = threading.Thread(target=print, args=('done',))\nt.start()\nt.join()",
    "pools of threads": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as p: list(p.map(print, ['done']))"
    ),
    "asyncio": "import asyncio\nasync def main(): await asyncio.sleep(0); print('done')\nasyncio.run(main())",
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return n and f(n - 1)\nf(50000)\nprint('done')"
    ),
    "modules": "import json, decimal, datetime, random, statistics, dataclasses, hashlib, zoneinfo\nprint('done')",
    "dataclasses": (
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 1\nassert A() == A(1)\nprint('done')"
    ),
    "descriptors of its own": (
        "import os\nopen(os.devnull, 'w').write('x')\nr, w = os.pipe()\n"
        "os.write(w, b'done')\nprint(os.read(r, 9).decode())"
    ),
    "random bytes": "import os, secrets\nos.urandom(4)\nsecrets.token_hex()\nprint('done')",
}


@pytest.mark.parametrize("deed", ALLOWED)
def test_what_programs_need_is_there(deed):
    assert ran(ALLOWED[deed]) == ("correct", "")


def test_nothing_of_the_environment_is_seen(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a-secret")
    program = (
        "import os, sys\n"
        "known = 'HOME LANG PATH OMP_NUM_THREADS OPENBLAS_NUM_THREADS'.split()\n"
        "print('done' if set(os.environ) <= set(known) else os.environ)\n"
        "assert sys.argv == ['solution.py']"
    )
    assert ran(program) == ("correct", "")


def test_a_fork_bomb_is_bounded_and_no_child_is_left(tmp_path):
    bomb = (
        "import os\nn = 0\nfor _ in range(10000):\n    try:\n"
        "        if os.fork() == 0: os.setsid()\n        n += 1\n"
        "    except OSError: pass\nprint(n or 'done')"
    )
    assert ran(bomb) == ("correct", "")
    through_threads = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()"
    assert ran(through_threads, wall_seconds=2)[0] == "wrong"
    assert eventually(lambda: sandboxes() == set())


def test_files_may_be_written_where_that_is_asked_for_and_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    program = (
        "import tempfile\nopen('x', 'w').write('do')\n"
        "with tempfile.NamedTemporaryFile('w+') as f:\n    f.write('ne'); f.seek(0)\n"
        "    print(open('x').read() + f.read())"
    )
    assert ran(program, files="scratch") == ("correct", "")
    assert list(tmp_path.iterdir()) == []
    assert ran(program)[0] == "wrong"
    large = "open('x', 'wb').write(bytes(2**24))\nprint('done')"
    verdict, said = ran(large, files="scratch")
    assert (verdict, "File too large" in said or "SIGXFSZ" in said) == ("wrong", True), said
    assert ran(attempt(f"open({str(tmp_path / 'y')!r}, 'w')"), files="scratch") == ("correct", "")


def test_what_one_test_leaves_behind_is_not_there_in_the_next(host: Host):
    with host.sandbox("import sys\nsys.x = getattr(sys, 'x', 0) + 1\nprint(sys.x)", lifetime_s=60) as box:
        assert [box.run("", 30).output for _ in range(3)] == ["1\n"] * 3


def test_large_inputs_and_outputs_arrive_whole(host: Host):
    text = "é" * 300_000
    with host.sandbox("print(input(), end='')", lifetime_s=60) as box:
        assert box.run(text, 30).output == text


def rollout(program: str) -> Rollout:
    return one_turn("p1", 0, fenced(program), (), (), "stop", 0, "g0", 0.0)


PROMPT = make_prompt("p1", answer='{"inputs": [""], "outputs": ["done"]}')


def pool(**options: object) -> VerifierPool:
    config = {"verifier": {"name": "code", **LIMITS, **options}}
    return VerifierPool(RewardsConfig.model_validate(config | {"deadline_s": 120}))


async def test_in_the_pool_a_program_without_end_is_wrong_and_no_failure_of_the_verifier():
    verifiers = pool(wall_seconds=0.5)
    try:
        scored = await asyncio.gather(
            *(
                verifiers.score(PROMPT, rollout(one))
                for one in ("print('done')", "import time\ntime.sleep(99)", "1 / 0")
            )
        )
        assert [one.verdict for one in scored] == ["correct", "wrong", "wrong"]
        assert "no end within" in scored[1].message
        assert not verifiers.failures
        assert verifiers.stats()["restarts"] == 0
    finally:
        verifiers.close()


async def test_a_pool_that_is_closed_takes_its_sandboxes_with_it():
    before = processes()
    verifiers = pool(wall_seconds=60.0)
    try:
        await verifiers.start()
        scoring = asyncio.create_task(verifiers.score(PROMPT, rollout("import time\ntime.sleep(99)")))
        assert await asyncio.to_thread(eventually, lambda: len(processes() - before) == 3)
        its_own = processes() - before
    finally:
        verifiers.close()
    assert await asyncio.to_thread(eventually, lambda: gone(its_own))
    with pytest.raises(RuntimeError, match="closed"):
        await scoring


def test_a_process_of_the_sandbox_that_is_killed_takes_the_program_with_it_and_is_replaced(host: Host):
    with host.sandbox("import time\ntime.sleep(99)", lifetime_s=60) as box:
        process = host._process
        assert process is not None
        its_own: set[int] = set()

        def kill_in_the_middle() -> None:
            # The session, which may have come already, and the program that it forks.
            eventually(lambda: len(sandboxes()) == 2)
            its_own.update(sandboxes())
            process.kill()

        killing = threading.Thread(target=kill_in_the_middle)
        killing.start()
        with pytest.raises(SandboxError, match="ended without an answer"):
            box.run("", 30)
        killing.join()
    assert len(its_own) == 2
    assert eventually(lambda: gone(its_own))
    process.wait()
    with host.sandbox("print(1)", lifetime_s=60) as box:
        assert box.run("", 30).output == "1\n"


def test_no_descriptors_are_left():
    process = psutil.Process()
    ran("print('done')")
    before = process.num_fds()
    for _ in range(3):
        ran("print('done')", files="scratch")
    assert process.num_fds() == before


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Isolation("Landlock: not there", None, True), "FILES OF THE USER OPEN (Landlock: not there)"),
        (Isolation(None, "seccomp: not there", True), "no network (namespaces), PROCESSES NOT CONTAINED"),
        (Isolation(None, "seccomp: not there", False), "NETWORK OPEN, PROCESSES NOT CONTAINED"),
    ],
)
def test_a_kernel_that_cannot_shut_programs_in_is_refused_unless_that_is_allowed(found, words, monkeypatch):
    monkeypatch.setattr(sandbox, "isolation_here", lambda: found)
    with pytest.raises(ConfigError) as error:
        checked_isolation("required")
    assert words in str(error.value)
    assert "isolation: best_effort" in str(error.value)
    assert checked_isolation("best_effort") == found


def test_without_the_layers_programs_run_and_are_still_limited():
    host = Host(Limits(memory_mib=256, packages="none"), Isolation("not there", "not there", False))
    try:
        for program, output in (("print(1)", "1\n"), ("x = bytearray(2**33)", "")):
            with host.sandbox(program, lifetime_s=60) as box:
                assert box.run("", 30).output == output
    finally:
        host.close()
