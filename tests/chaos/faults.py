"""The faults that a chaos run causes, how each is caused, and what is the first sign that it was noticed."""

import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.tiny_run import TinyRun

POLL_S = 0.1
_LOGGED: list[str] = []
"""Patterns that some fault is noticed by in the logs."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    name: str
    cause: Callable[[TinyRun], float]
    """Does the damage; returns when."""
    notice: Callable[[TinyRun, float], float | None]
    """Waits for the first sign that it was noticed; returns when, None where nobody has to notice."""
    ends_driver: bool = False
    """The run has to be started again, with `--resume auto`."""
    exit_code: int | None = None
    """Of a driver that ends by itself."""


def _kill(name: str, number: signal.Signals = signal.SIGKILL) -> Callable[[TinyRun], float]:
    return lambda run: run.signal(name, number)


def _replaced(name: str) -> Callable[[TinyRun, float], float]:
    """Noticed when another process of the name has started."""

    def notice(run: TinyRun, at: float) -> float:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if any(process.pid not in run.known for process in run.find(name)):
                return time.monotonic()
            time.sleep(POLL_S)
        raise AssertionError(f"no new {name} within 60 s:\n{run.printed}")

    return notice


def _logged(pattern: str) -> Callable[[TinyRun, float], float]:
    """Noticed when a line of the actors' logs says so."""
    found = re.compile(pattern)
    _LOGGED.append(pattern)

    def notice(run: TinyRun, at: float) -> float:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if len(_lines(run.folder, found)) > run.num_seen.get(pattern, 0):
                return time.monotonic()
            time.sleep(POLL_S)
        raise AssertionError(f"no {pattern!r} in the logs within 90 s:\n{run.printed}")

    return notice


def look(run: TinyRun) -> None:
    """To be called before a fault: whatever is there and logged by now is no sign of it."""
    run.known = {child.pid for child in run.children()}
    run.num_seen = {pattern: len(_lines(run.folder, re.compile(pattern))) for pattern in _LOGGED}


def _lines(folder: Path, found: re.Pattern[str]) -> list[str]:
    logs = folder / "logs"
    return [
        line
        for path in logs.glob("worker-*.err")
        for line in path.read_text(errors="replace").splitlines()
        if found.search(line)
    ]


def _noted(pattern: str) -> Callable[[TinyRun, float], float]:
    return lambda run, at: run.wait_for(pattern, after=at)


def _at_once(run: TinyRun, at: float) -> float:
    return time.monotonic()


def _fail_load(run: TinyRun) -> float:
    assert run.fail_load is not None
    run.fail_load.touch()
    return time.monotonic()


def _kill_driver(run: TinyRun) -> float:
    run.children()  # while it can still say whose they are
    run.process.kill()
    return time.monotonic()


def _terminate(run: TinyRun) -> float:
    run.process.send_signal(signal.SIGTERM)
    return time.monotonic()


_GENERATOR = r"generator-\d+ lost \d+ rollouts|generator-\d+ failed to load"
_RESTART = r"fresh actors go on from"

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("generator killed", _kill("ray::GeneratorActor"), _logged(_GENERATOR)),
        Fault("generator frozen", _kill("ray::GeneratorActor", signal.SIGSTOP), _logged(_GENERATOR)),
        Fault("weight update fails", _fail_load, _logged(r"failed to load .*sabotage")),
        Fault("reward actor killed", _kill("ray::RewardActor"), _replaced("ray::RewardActor")),
        Fault("verifier killed", _kill("v05ray.rewards.worker"), _replaced("v05ray.rewards.worker")),
        Fault("value actor killed", _kill("ray::ValueActor"), _replaced("ray::ValueActor")),
        Fault("scheduler killed", _kill("ray::SchedulerActor"), _noted(_RESTART)),
        Fault("learner killed", _kill("ray::LearnerActor"), _noted(_RESTART)),
        Fault("learner frozen", _kill("ray::LearnerActor", signal.SIGSTOP), _noted(_RESTART)),
        Fault("driver killed", _kill_driver, _at_once, ends_driver=True),
        Fault("SIGTERM", _terminate, _noted("stopping after this step"), ends_driver=True, exit_code=0),
    )
}
"""By name: those that leave the run's result as it is."""

HANG = Fault("verifier hangs", _kill("v05ray.rewards.worker", signal.SIGSTOP), _replaced("v05ray.rewards.worker"))
"""Its answer is scored -1, so a run with this one is whole but ends elsewhere."""
