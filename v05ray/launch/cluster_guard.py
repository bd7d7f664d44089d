"""`python -I -S cluster_guard.py MARK`: sees to it that no process of a private Ray cluster outlives the run.

Started by the driver before Ray, in a session of its own, so that it outlives a driver that is killed. It reads the
sessions of Ray's processes from stdin, one a line. When stdin ends, because the run has ended or the driver has died,
it gives what is left of the cluster `GRACE_S` to leave, kills the rest, and prints one line for each process that hung.

A process belongs to the cluster when it is in one of those sessions, has `MARK` in the environment it was started
with, or descends from such a process. Neither an orphan's new parent nor a new process title changes that.

Standard library only: it runs beside every run, so it must start quickly and stay small.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

VARIABLE = "V05RAY_CLUSTER"
GRACE_S = 5.0
POLL_S = 0.1
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's own, which would try for 90 s to report their node's loss to a head that is gone too."""


def members(mark: str, sessions: set[int]) -> dict[int, str]:
    """Live processes of the cluster: process number to command line."""
    found: dict[int, str] = {}
    parents: dict[int, int] = {}
    entry = f"{VARIABLE}={mark}".encode()
    for path in Path("/proc").iterdir():
        if not path.name.isdigit() or int(path.name) == os.getpid():
            continue
        number = int(path.name)
        with contextlib.suppress(OSError, ValueError, IndexError):  # it is gone by now, or another user's
            # After the name, which may hold anything: state, parent, process group, session.
            fields = (path / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] in "ZX":
                continue
            parents[number] = int(fields[1])
            if int(fields[3]) in sessions or entry in (path / "environ").read_bytes().split(b"\0"):
                found[number] = ""
    grown = True
    while grown:
        children = [number for number, parent in parents.items() if parent in found and number not in found]
        found.update(dict.fromkeys(children, ""))
        grown = bool(children)
    for number in found:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ")
            found[number] = words.decode(errors="replace").strip()
    return found


def end(mark: str, sessions: set[int]) -> list[str]:
    """Waits for the cluster's processes, kills those that stay; a description of each that had to be killed."""
    deadline = time.monotonic() + GRACE_S
    while left := members(mark, sessions):
        for number, command in left.items():
            if command.startswith(AGENTS):
                _kill(number)
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    hung = [f"{command[:60] or '?'} ({number})" for number, command in left.items() if not command.startswith(AGENTS)]
    while left:  # until a look finds none: what was about to start others must not get away
        for number in left:
            _kill(number)
        time.sleep(POLL_S)
        if time.monotonic() > deadline + GRACE_S:  # stuck in the kernel: nothing more can be done from here
            break
        left = members(mark, sessions)
    return hung


def _kill(number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(number, signal.SIGKILL)


def main(mark: str) -> None:
    """Until stdin ends, and then until the cluster is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # meant for the driver, where all processes get it
        signal.signal(number, signal.SIG_IGN)
    sessions = {int(line) for line in sys.stdin}
    hung = end(mark, sessions)
    with contextlib.suppress(OSError):  # the driver is dead
        sys.stdout.writelines(f"{process}\n" for process in hung)
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
