"""What belongs to a cluster, and that it ends; on processes of this test's own."""

import os
import signal
import subprocess
import sys
import time
from uuid import uuid4

import psutil
import pytest

from v05ray.launch import cluster_guard


def sleeper(**options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "100"], **options)  # type: ignore[call-overload]


def test_a_cluster_is_its_sessions_its_mark_and_their_descendants(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster_guard, "GRACE_S", 0.2)
    mark = uuid4().hex
    marked = {**os.environ, cluster_guard.VARIABLE: mark}
    in_session = sleeper(start_new_session=True)
    with_mark = sleeper(env=marked, start_new_session=True)
    # Its child has another environment and a session of its own: only its parent shows it.
    parent = subprocess.Popen(["sh", "-c", "env -i setsid sleep 100 & wait"], env=marked)
    stranger = sleeper(env={**os.environ, cluster_guard.VARIABLE: mark[:-1]})
    try:
        deadline = time.monotonic() + 10
        while not psutil.Process(parent.pid).children() and time.monotonic() < deadline:
            time.sleep(0.02)
        (child,) = psutil.Process(parent.pid).children()
        ours = {in_session.pid, with_mark.pid, parent.pid, child.pid}
        assert set(cluster_guard.members(mark, {in_session.pid})) == ours
        hung = cluster_guard.end(mark, {in_session.pid})
        assert len(hung) == 4
        assert f"sleep 100 ({with_mark.pid})" in hung
        assert not any(process.is_running() and process.status() != "zombie" for process in (child,))
        assert [in_session.wait(5), with_mark.wait(5), parent.wait(5)] == [-signal.SIGKILL] * 3
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_what_leaves_by_itself_is_not_reported():
    mark = uuid4().hex
    brief = subprocess.Popen(["sleep", "0.3"], env={**os.environ, cluster_guard.VARIABLE: mark})
    assert set(cluster_guard.members(mark, set())) == {brief.pid}
    assert cluster_guard.end(mark, set()) == []
    assert brief.wait(5) == 0


CHILD = """
import os, signal, sys, time
from v05ray.actors.lifeline import end_with_parent
end_with_parent()
print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGSTOP)  # an exit that hangs
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(child.stdout.readline(), end="", flush=True)
sys.stdin.read()
"""


def test_an_actors_process_ends_with_its_parent_even_if_it_hangs():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert child.is_running()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != "zombie" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not child.is_running() or child.status() == "zombie"
