"""The faults that a chaos run causes, how each is caused, and what is the first sign that it was noticed."""

import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.tiny_run import TinyRun
from tests.chaos.world import World

POLL_S = 0.1
_LOGGED: list[str] = []
"""Patterns that some fault is noticed by in the logs."""
Act = Callable[[World, TinyRun], object]


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    name: str
    cause: Callable[[World, TinyRun], float]
    """Does the damage; returns when."""
    notice: Callable[[TinyRun, float], float] | None = None
    """Waits for the first sign that it was noticed; returns when. None where nothing of the run has to notice."""
    relieve: Act = lambda world, run: None
    """Done once it was noticed: the outside help that the run needs to continue."""
    recover: Act = lambda world, run: None
    """Done once a further step was done: the run continues without it."""
    ends_driver: bool = False
    """The run has to be started again, with `--resume auto`."""
    exit_code: int | None = None
    """Of a driver that ends by itself."""
    changes_result: bool = False
    """It is scored, as promised, so the run ends elsewhere than an undisturbed one."""


def look(run: TinyRun) -> None:
    """To be called before a fault: whatever is there and logged by now is no sign of it."""
    run.known = {child.pid for child in run.children()}
    run.num_seen = {pattern: _count(run, pattern) for pattern in _LOGGED}


def _count(run: TinyRun, pattern: str) -> int:
    """Lines with it in the logs of actors and nodes."""
    found = re.compile(pattern)
    paths = (*run.logs.glob("worker-*.err"), *run.logs.glob("raylet*.out"))
    return sum(bool(found.search(line)) for path in paths for line in path.read_text(errors="replace").splitlines())


def _until(run: TinyRun, happened: Callable[[], bool], what: str, timeout_s: float = 90.0) -> float:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, f"no {what} within {timeout_s:g} s:\n{run.printed}"
        time.sleep(POLL_S)
    return time.monotonic()


def _replaced(name: str) -> Callable[[TinyRun, float], float]:
    """Noticed when another process of the name has started."""

    def notice(run: TinyRun, at: float) -> float:
        return _until(run, lambda: any(one.pid not in run.known for one in run.find(name)), f"new {name}")

    return notice


def _logged(pattern: str) -> Callable[[TinyRun, float], float]:
    """Noticed when a line of the logs says so."""
    _LOGGED.append(pattern)
    return lambda run, at: _until(run, lambda: _count(run, pattern) > run.num_seen.get(pattern, 0), repr(pattern))


def _noted(pattern: str) -> Callable[[TinyRun, float], float]:
    """Noticed when the driver prints it."""
    return lambda run, at: run.wait_for(pattern, after=at)


def _kill(name: str, number: signal.Signals = signal.SIGKILL, index: int = -1) -> Callable[[World, TinyRun], float]:
    return lambda world, run: run.signal(name, number, index)


def _driver(number: signal.Signals) -> Callable[[World, TinyRun], float]:
    def cause(world: World, run: TinyRun) -> float:
        run.process.send_signal(number)
        return time.monotonic()

    return cause


def _mlflow(act: Callable[[World], None]) -> Callable[[World, TinyRun], float]:
    def cause(world: World, run: TinyRun) -> float:
        act(world)
        return time.monotonic()

    return cause


_GENERATOR = r"generator-\d+ lost \d+ rollouts|generator-\d+ failed to load"
_RESTART = r"fresh actors resume from"
_VERIFIER = "v05ray.rewards.worker"
_STORE = r"falling back to allocating from filesystem|allocat\w+ from the filesystem|fallback"

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("generator killed", _kill("ray::GeneratorActor"), _logged(_GENERATOR)),
        Fault("generator frozen", _kill("ray::GeneratorActor", signal.SIGSTOP), _logged(_GENERATOR)),
        Fault(
            "weight update fails", lambda world, run: world.sabotage("fail-load"), _logged(r"failed to load .*sabot")
        ),
        Fault(
            "generator serves another weight",
            lambda world, run: world.sabotage("change-weight"),
            _noted(r"generator-\d+ does not serve version \d+: .*input_layernorm.weight is not as sent"),
        ),
        Fault(
            "generator's node taken",
            lambda world, run: world.take_node("generator"),
            _logged(_GENERATOR),
            relieve=lambda world, run: world.bring_node("generator"),
        ),
        Fault(
            "learners' node taken",
            lambda world, run: world.take_node("learner"),
            _noted(_RESTART),
            relieve=lambda world, run: world.bring_node("learner"),
        ),
        Fault("value actor killed", _kill("ray::ValueActor"), _replaced("ray::ValueActor")),
        Fault("reward actor killed", _kill("ray::RewardActor"), _replaced("ray::RewardActor")),
        Fault("verifier killed", _kill(_VERIFIER), _replaced(_VERIFIER)),
        Fault("verifier crashes", lambda world, run: world.sabotage("crash"), _replaced(_VERIFIER)),
        Fault("verifier hangs", lambda world, run: world.sabotage("hang"), _replaced(_VERIFIER), changes_result=True),
        Fault(
            "verifier eats memory",
            lambda world, run: world.sabotage("eat-memory"),
            _replaced(_VERIFIER),
            changes_result=True,
        ),
        Fault("a learner rank killed", _kill("ray::LearnerActor"), _noted(_RESTART)),
        Fault("a learner rank frozen", _kill("ray::LearnerActor", signal.SIGSTOP, index=0), _noted(_RESTART)),
        Fault("scheduler killed", _kill("ray::SchedulerActor"), _noted(_RESTART)),
        Fault("driver killed", _driver(signal.SIGKILL), ends_driver=True, exit_code=-signal.SIGKILL),
        Fault("SIGTERM", _driver(signal.SIGTERM), _noted("stopping after this step"), ends_driver=True, exit_code=75),
        Fault(
            "MLflow away",
            _mlflow(lambda world: world.mlflow.kill()),
            recover=lambda world, run: world.mlflow.start(),
        ),
        Fault(
            "MLflow does not answer",
            _mlflow(lambda world: world.mlflow.freeze()),
            recover=lambda world, run: world.mlflow.thaw(),
        ),
        Fault(
            "object store full",
            lambda world, run: world.fill_store(),
            _logged(_STORE),
            recover=lambda world, run: world.free_store(),
        ),
        Fault(
            "disk full",
            lambda world, run: world.fill_disk(),
            _noted("No space left on device"),
            relieve=lambda world, run: world.free_disk(),
            ends_driver=True,
            exit_code=1,
        ),
    )
}
"""By name."""
