"""`python -m tests.chaos.run`: a real tiny run under faults at random moments, compared with an undisturbed one.

    undisturbed run -----------------------------------------------------> weights, ledger   ]
    disturbed run --fault--fault--(killed: started again with --resume auto)--fault--> weights, ledger   ] equal?

A fault comes at a random moment (`--seed`) after a step; the next one once a step has been done that none had been
before, which is what recovery means here. Some steps after the last one it is asked to stop; the undisturbed run takes
as many steps.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from safetensors.numpy import load_file

from tests.chaos.faults import FAULTS, Fault, look
from tests.chaos.tiny_run import TinyRun, assert_whole
from tests.chaos.world import World
from v05ray.stopping.exit_codes import ExitCode

SETTINGS = (
    "run.checkpoint_every=3",
    "data.eval=null",
    "budget.mode=rounds",  # what is drawn then depends on no timing
    "generators.draw_timeout_s=8",
    "generators.load_timeout_s=8",
    "learner.num_ranks=2",
    "learner.timeout_s=15",
    "rewards.deadline_s=3",
    "rewards.memory_mib=512",
)
MOST_DELAY_S = 2.0
"""Longest time from a step's end to the fault: a step takes half a second, or one."""
PEACE = 2
"""Steps after the last fault's recovery."""
ENDLESS = 100_000
"""Steps of a run that is asked to stop: what a step takes, and so how many a fault takes, is the machine's to say."""
SAME = 1e-6
"""Largest difference of a weight between two runs that count as one."""


@dataclass
class Suffered:
    """A fault and what came of it."""

    name: str
    step: int
    """Steps done when it came."""
    detected_s: float | None
    """None where nothing of the run has to notice."""
    recovered_s: float
    """Until a step was done that had not been done before."""


@dataclass
class Report:
    """What a chaos run came to."""

    suffered: list[Suffered] = field(default_factory=list)
    num_steps: int = 0
    """That the disturbed run took."""
    apart: float = 0.0
    """Largest difference of a weight from the undisturbed run's."""
    moved: float = 0.0
    """Largest change of a weight by training."""
    differing_rows: int = 0
    """Rollouts that are not the undisturbed run's."""
    num_rollouts: int = 0
    superseded: int = 0
    """Rollouts that were set aside."""

    def table(self) -> str:
        """By kind of fault."""
        lines = ["| fault | count | detected after | a new step after |", "| --- | --- | --- | --- |"]
        for name in dict.fromkeys(one.name for one in self.suffered):
            ones = [one for one in self.suffered if one.name == name]
            detected = [one.detected_s for one in ones if one.detected_s is not None]
            spans = [_span(detected), _span([one.recovered_s for one in ones])]
            lines.append(f"| {name} | {len(ones)} | {' | '.join(spans)} |")
        return "\n".join(lines)


def _span(seconds: Sequence[float]) -> str:
    if not seconds:
        return ""
    if len(seconds) == 1:
        return f"{seconds[0]:.1f} s"
    return f"{median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"


class Chaos:
    """One disturbed run."""

    def __init__(self, world: World, model: Path, faults: Sequence[Fault], *, seed: int) -> None:
        self._world, self._model = world, model
        self._faults, self._random = list(faults), random.Random(seed)
        self._report = Report()

    def disturb(self, output: Path) -> Report:
        """Causes all faults and stops the run; fails where it does not get over one."""
        run = self._start(output)
        try:
            for number, fault in enumerate(self._faults):
                run = self._suffer(run, fault, output, at_least=number + 1)
            run.wait_for_step(run.last_step() + PEACE)
            run.process.send_signal(signal.SIGTERM)
            assert run.end(timeout_s=300) == ExitCode.STOPPED, run.printed
        finally:
            run.__exit__()
        self._world.assert_idle()
        self._report.num_steps = int(json.loads((run.folder / "summary.json").read_text())["step"])
        return self._report

    def _start(self, output: Path) -> TinyRun:
        return start(self._world, self._model, output, ENDLESS, "--resume", "auto")

    def _suffer(self, run: TinyRun, fault: Fault, output: Path, *, at_least: int) -> TinyRun:
        while run.last_step() < at_least:
            run.wait_for_step(run.last_step() + 1)
        time.sleep(self._random.uniform(0, MOST_DELAY_S))
        before = at_step = run.last_step()
        print(f"step {before}: {fault.name}", flush=True)
        look(run)
        caused = fault.cause(self._world, run)
        noticed = fault.notice(run, caused) if fault.notice else None
        if fault.ends_driver:
            code = run.end()
            assert code == fault.exit_code, run.printed
            before = max(before, run.last_step())
        fault.relieve(self._world, run)
        if fault.ends_driver:
            run = self._start(output)
        else:
            # A step of a fault that needs no reaction has to begin under the fault, and not only to end.
            before = run.last_step() + (noticed is None)
        recovered = run.wait_for(rf"^step {before + 1}/", after=caused)
        fault.recover(self._world, run)
        detected_s = None if noticed is None else noticed - caused
        self._report.suffered.append(Suffered(fault.name, at_step, detected_s, recovered - caused))
        said = "" if detected_s is None else f"noticed after {detected_s:.1f} s, "
        print(f"  {said}a new step after {recovered - caused:.1f} s", flush=True)
        return run


def start(world: World, model: Path, output: Path, num_steps: int, *arguments: str) -> TinyRun:
    """A run on all that the world has."""
    settings = (*SETTINGS, *world.settings, f"run.num_steps={num_steps}", *arguments)
    return TinyRun(model, output, *settings, ancestor=os.getpid(), logs=world.logs)


def compare(report: Report, model: Path, whole: Path, disturbed: Path) -> None:
    """Fills the report with how far the two runs are apart; fails where a ledger is not whole."""
    steps = range(1, report.num_steps + 1)
    one, other = assert_whole(whole, steps), assert_whole(disturbed, steps)
    columns = ["step", "prompt_id", "sample_index", "response", "reward"]
    rows = [{tuple(row.values()) for row in ledger.rollouts(columns=columns).to_pylist()} for ledger in (one, other)]
    report.num_rollouts, report.differing_rows = len(rows[1]), len(rows[0] ^ rows[1])
    report.superseded = sum(aside.rollouts().num_rows for aside in other.superseded)
    start, first, second = (
        load_file(folder / "model.safetensors") for folder in (model, whole / "model", disturbed / "model")
    )
    assert first.keys() == second.keys()
    report.apart = max(float(np.abs(first[name] - second[name]).max()) for name in first)
    report.moved = max(float(np.abs(first[name] - start[name]).max()) for name in first)


def undisturbed(world: World, model: Path, output: Path, *, num_steps: int) -> Path:
    """The same run in peace; returns its folder."""
    with start(world, model, output, num_steps) as run:
        assert run.end(timeout_s=600) == 0, run.printed
    assert "no room for" not in run.printed  # the cluster has all that it needs
    return run.folder


def assert_all_in_mlflow(world: World, num_steps: int) -> None:
    """Every step's metrics are there, whatever became of the server meanwhile."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=world.mlflow.uri)
    experiment = client.get_experiment_by_name("v05ray")
    assert experiment is not None
    (recorded,) = client.search_runs([experiment.experiment_id])
    steps = {metric.step for metric in client.get_metric_history(recorded.info.run_id, "v05/rollouts_per_prompt")}
    assert set(range(1, num_steps + 1)) <= steps, f"MLflow lacks steps {set(range(1, num_steps + 1)) - steps}"


def unscored(world: World, model: Path, faults: Sequence[Fault], *, seed: int) -> Report:
    """A run under those faults that leave its result as it is, compared with one in peace."""
    disturbed = world.output / "disturbed"
    report = Chaos(world, model, faults, seed=seed).disturb(disturbed)
    assert_all_in_mlflow(world, report.num_steps)
    whole = undisturbed(world, model, world.output / "whole", num_steps=report.num_steps)
    compare(report, model, whole, disturbed / "tiny")
    return report


def scored(world: World, model: Path, faults: Sequence[Fault], *, seed: int) -> Report:
    """A shorter run of their own for faults that cost a response its reward: it is whole, and the verdicts say why."""
    report = Chaos(world, model, faults, seed=seed).disturb(world.output / "scored")
    ledger = assert_whole(world.output / "scored" / "tiny", range(1, report.num_steps + 1))
    verdicts = set(ledger.rollouts(columns=["verdict"])["verdict"].to_pylist())
    for name, verdict in (("verifier hangs", "timeout"), ("verifier eats memory", "error")):
        assert verdict in verdicts or all(fault.name != name for fault in faults), f"{name}: verdicts {verdicts}"
    return report


def in_own_mounts() -> None:
    """Starts this program again where it may mount a small disk of its own."""
    if os.environ.get("V05RAY_CHAOS_MOUNTS"):
        return
    unshare = shutil.which("unshare")
    if unshare is None:
        raise SystemExit("chaos needs `unshare` (util-linux) to make a disk that can be filled; run it on Linux")
    program = [unshare, "--map-root-user", "--mount", sys.executable, "-m", "tests.chaos.run", *sys.argv[1:]]
    os.execve(unshare, program, {**os.environ, "V05RAY_CHAOS_MOUNTS": "1"})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/tiny"), help="made by `make tiny`")
    parser.add_argument("--each", type=int, default=2, help="how often every kind of fault is caused")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="FAULT", help="all, else")
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    in_own_mounts()
    faults = [FAULTS[name] for name in parsed.faults] * parsed.each
    random.Random(parsed.seed).shuffle(faults)
    report = Report()
    with World() as world:
        if harmless := [fault for fault in faults if not fault.changes_result]:
            report = unscored(world, parsed.model, harmless, seed=parsed.seed)
        if costly := [fault for fault in faults if fault.changes_result]:
            report.suffered += scored(world, parsed.model, costly, seed=parsed.seed).suffered
    print(f"\n{report.table()}\n")
    print(
        f"{len(report.suffered)} faults: {report.num_rollouts} rollouts recorded once each, "
        f"{report.differing_rows} differ from the undisturbed run's; {report.superseded} more were set aside. Weights "
        f"differ from the undisturbed run's by at most {report.apart:.1e}; training moved them by {report.moved:.1e}."
    )
    if report.apart > SAME or report.differing_rows:
        raise SystemExit("the disturbed run ended elsewhere than the undisturbed one")


if __name__ == "__main__":
    main()
