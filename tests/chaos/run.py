"""`python -m tests.chaos.run`: a real tiny run under faults at random moments, compared with one that nobody disturbed.

    undisturbed run -----------------------------------------------------> weights, ledger   ]
    disturbed run --fault--fault--(killed: started again with --resume auto)--fault--> weights, ledger   ] equal?

A fault comes at a random moment (`--seed`) after a step; the next one once a step has been done that none had been
before, which is what recovery means here.
"""

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from safetensors.numpy import load_file

from tests.chaos.faults import FAULTS, HANG, Fault, look
from tests.chaos.tiny_run import TinyRun, assert_whole

SETTINGS = (
    "run.checkpoint_every=3",
    "evaluation.every=0",
    "budget.mode=rounds",  # what is drawn then depends on no timing
    "generators.draw_timeout_s=8",
    "generators.load_timeout_s=8",
    "learner.timeout_s=15",
    "rewards.deadline_s=3",
)
MOST_DELAY_S = 2.5
"""Longest time from a step's end to the fault: a step takes about one second."""
SAME = 1e-6
"""Largest difference of a weight between two runs that count as one."""


@dataclass
class Suffered:
    """A fault and what came of it."""

    name: str
    step: int
    """Steps done when it came."""
    detected_s: float
    recovered_s: float
    """Until a step was done that had not been done before."""


@dataclass
class Report:
    """What a chaos run came to."""

    suffered: list[Suffered] = field(default_factory=list)
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
            spans = [_span([one.detected_s for one in ones]), _span([one.recovered_s for one in ones])]
            lines.append(f"| {name} | {len(ones)} | {' | '.join(spans)} |")
        return "\n".join(lines)


def _span(seconds: Sequence[float]) -> str:
    if len(seconds) == 1:
        return f"{seconds[0]:.1f} s"
    return f"{median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"


class Chaos:
    """One disturbed run."""

    def __init__(self, model: Path, output: Path, faults: Sequence[Fault], *, num_steps: int, seed: int) -> None:
        self._model, self._output, self._num_steps = model, output, num_steps
        self._faults, self._random = list(faults), random.Random(seed)
        self._report = Report()
        self._run: TinyRun | None = None
        self._buried: list[TinyRun] = []

    def disturb(self) -> Report:
        """Causes all faults and waits for the end; fails where the run does not get over one."""
        try:
            run = self._start()
            for number, fault in enumerate(self._faults):
                run = self._suffer(run, fault, at_least=number + 1)
            assert run.end(timeout_s=300) == 0, run.printed
            for buried in (*self._buried, run):
                buried.assert_gone()
        finally:
            for left in (*self._buried, *([self._run] if self._run else [])):
                left.__exit__()
        return self._report

    def _start(self) -> TinyRun:
        if self._run is not None:
            self._buried.append(self._run)
        length = f"run.num_steps={self._num_steps}"
        self._run = TinyRun(self._model, self._output, *SETTINGS, length, "--resume", "auto", can_fail_load=True)
        return self._run

    def _suffer(self, run: TinyRun, fault: Fault, *, at_least: int) -> TinyRun:
        while run.last_step() < at_least:
            run.wait_for_step(run.last_step() + 1)
        time.sleep(self._random.uniform(0, MOST_DELAY_S))
        before = run.last_step()
        if before >= self._num_steps:
            raise AssertionError(f"the run had ended before {fault.name!r}; give it more than {self._num_steps} steps")
        print(f"step {before}: {fault.name}", flush=True)
        look(run)
        caused = fault.cause(run)
        noticed = fault.notice(run, caused) or caused
        if fault.ends_driver:
            code = run.end()
            assert fault.exit_code in (None, code), run.printed
            before = max(before, run.last_step())
            run = self._start()
        recovered = run.wait_for(rf"^step {before + 1}/", after=caused)
        self._report.suffered.append(Suffered(fault.name, before, noticed - caused, recovered - caused))
        print(f"  noticed after {noticed - caused:.1f} s, a new step after {recovered - caused:.1f} s", flush=True)
        return run


def compare(report: Report, model: Path, whole: Path, disturbed: Path, *, num_steps: int) -> None:
    """Fills the report with how far the two runs are apart; fails where a ledger is not whole."""
    steps = range(1, num_steps + 1)
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


def undisturbed(model: Path, output: Path, *, num_steps: int) -> Path:
    """The same run in peace; returns its folder."""
    with TinyRun(model, output, *SETTINGS, f"run.num_steps={num_steps}") as run:
        assert run.end(timeout_s=600) == 0, run.printed
    return run.folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/tiny"), help="made by `make tiny`")
    parser.add_argument("--each", type=int, default=2, help="how often every kind of fault is caused")
    parser.add_argument("--hangs", type=int, default=2, help="verifiers that hang, in a shorter run of their own")
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    output = Path(tempfile.mkdtemp(prefix="v05chaos-"))
    faults = list(FAULTS.values()) * parsed.each
    random.Random(parsed.seed).shuffle(faults)
    # A step a fault, some more that pass before it comes, and a few in peace at the end.
    num_steps = 3 * len(faults) + 5
    report = Chaos(parsed.model, output / "disturbed", faults, num_steps=num_steps, seed=parsed.seed).disturb()
    whole = undisturbed(parsed.model, output / "whole", num_steps=num_steps)
    compare(report, parsed.model, whole, output / "disturbed" / "tiny", num_steps=num_steps)
    hanging = hangs(parsed.model, output / "hanging", count=parsed.hangs, seed=parsed.seed)
    report.suffered += hanging.suffered
    print(f"\n{report.table()}\n")
    print(
        f"{len(report.suffered)} faults over {num_steps} steps: {report.num_rollouts} rollouts recorded once each, "
        f"{report.differing_rows} differ from the undisturbed run's; {report.superseded} more were set aside. Weights "
        f"differ from the undisturbed run's by at most {report.apart:.1e}; training moved them by {report.moved:.1e}."
    )
    shutil.rmtree(output)
    if report.apart > SAME or report.differing_rows:
        raise SystemExit("the disturbed run ended elsewhere than the undisturbed one")


def hangs(model: Path, output: Path, *, count: int, seed: int) -> Report:
    """A run whose verifier hangs `count` times: whole, with as many verdicts `timeout` at least."""
    num_steps = 3 * count + 3
    report = Chaos(model, output, [HANG] * count, num_steps=num_steps, seed=seed).disturb()
    ledger = assert_whole(output / "tiny", range(1, num_steps + 1))
    timeouts = ledger.rollouts(columns=["verdict"])["verdict"].to_pylist().count("timeout")
    assert timeouts >= 1, "no verdict was a timeout"
    return report


if __name__ == "__main__":
    main()
