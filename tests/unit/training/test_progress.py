import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence

import pytest

from tests.unit.ledger.test_ledger import make_group
from v05ray.training.progress import Progress, Summary, duration, summary_table, write_curve
from v05ray.types import StepReport

METRICS = {"critic/score/mean": -0.4125, "v05/rollouts_per_prompt": 5.25, "perf/throughput": 1234.4, "actor/lr": 1.0}
CURVE = [
    {
        "step": 0.0,
        "val/all/greedy": 0.145,
        "val/all/greedy_stderr": 0.025,
        "val/all/mean_at_4": 0.07,
        "val/x/greedy": 1,
    },
    {"step": 10.0, "val/all/greedy": 0.36, "val/all/greedy_stderr": 0.034, "val/all/mean_at_4": 0.3},
    {"step": 30.0, "val/all/greedy": 0.57, "val/all/greedy_stderr": 0.035, "val/all/mean_at_4": 0.55},
]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_step_whose_verifier_fails_often_says_so():
    out, clock = io.StringIO(), Clock()
    few = {"v05/verdict_correct_fraction": 0.995, "v05/verdict_error_fraction": 0.005}
    many = {"v05/verdict_error_fraction": 0.12, "v05/verdict_unreadable_fraction": 0.03}
    with Progress(num_steps=30, file=out, clock=clock) as progress:
        progress.step_done(StepReport(1, 1, {"critic/score/mean": 0.5, **few}))
        progress.step_done(StepReport(2, 2, {"critic/score/mean": 0.5, **many}))
    quiet, loud = out.getvalue().splitlines()
    assert "verdicts" not in quiet
    assert "verdicts: 12% error, 3% unreadable reference" in loud


def run_steps(progress: Progress, clock: Clock, steps: range, seconds: float = 10.0) -> None:
    for step in steps:
        progress.batch_started(step, 2)
        progress.group_sealed(make_group("p1"))
        progress.group_sealed(make_group("p2"))
        clock.now += seconds
        progress.step_done(StepReport(step, step, METRICS))


def test_elsewhere_every_step_is_one_plain_line():
    out, clock = io.StringIO(), Clock()
    with Progress(num_steps=30, file=out, clock=clock) as progress:
        progress.note("starting the actors")
        run_steps(progress, clock, range(1, 3))
        progress.evaluation_started(2, 200, 400)
        progress.evaluation_done(2, CURVE[1])
    assert out.getvalue().splitlines() == [
        "starting the actors",
        "step 1/30  reward -0.412  5.25 rollouts/prompt  1,234 tokens/s  10.0 s  ETA 4 min 50 s",
        "step 2/30  reward -0.412  5.25 rollouts/prompt  1,234 tokens/s  10.0 s  ETA 4 min 40 s",
        "evaluation after step 2: greedy 0.360 ± 0.034, mean@4 0.300",
    ]


def test_the_estimate_follows_the_last_ten_steps_and_evaluations():
    clock = Clock()
    progress = Progress(num_steps=30, file=io.StringIO(), clock=clock)
    assert progress.eta_s() is None
    run_steps(progress, clock, range(1, 11), seconds=100.0)
    assert progress.eta_s() == pytest.approx(20 * 100)
    run_steps(progress, clock, range(11, 21), seconds=10.0)
    assert progress.eta_s() == pytest.approx(10 * 10)
    clock.now += 50  # an evaluation
    run_steps(progress, clock, range(21, 22), seconds=10.0)
    assert progress.eta_s() == pytest.approx(9 * (9 * 10 + 60) / 10)


def test_a_resumed_run_counts_only_its_own_steps():
    clock = Clock()
    progress = Progress(num_steps=30, file=io.StringIO(), clock=clock)
    run_steps(progress, clock, range(21, 23), seconds=10.0)
    assert progress.eta_s() == pytest.approx(8 * 10)


SHOW = """
from tests.unit.training.test_progress import METRICS
from tests.unit.ledger.test_ledger import make_group
from v05ray.training.progress import Progress
from v05ray.types import StepReport
with Progress(num_steps=30) as progress:
    for step in (1, 2):
        progress.batch_started(step, 2)
        progress.group_sealed(make_group("p1"))
        input()
        progress.step_done(StepReport(step, step, METRICS))
        input()
    progress.evaluation_done(2, {"val/all/greedy": 0.5, "val/all/greedy_stderr": 0.1})
print("after")
"""


def on_a_terminal(code: str, awaited: Sequence[str]) -> str:
    """What a program writes to a terminal of 120 columns; it gets a line to read whenever the next awaited is there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    assert child.stdin is not None
    seen, left = b"", list(awaited)
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux's way of saying that the other side has closed
            break
        if not chunk:
            break
        seen += chunk
        if left and left[0] in without_sequences(seen.decode(errors="replace")):
            left.pop(0)
            child.stdin.write(b"\n")
            child.stdin.flush()
    child.stdin.close()
    assert child.wait() == 0
    os.close(ours)
    return seen.decode()


def without_sequences(output: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)


def screen(output: str) -> list[str]:
    """The lines that a person ends up with, of the few sequences that the live line uses."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", output):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.endswith("K") and part.startswith("\x1b"):
            lines[row] = ""
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1])
        elif part not in ("\r",) and not part.startswith("\x1b"):
            lines[row] += part
    return [line for line in lines if line.strip()]


def test_on_a_terminal_one_line_lives():
    awaited = [
        "step 1/30  1/2 prompts sealed, 3 rollouts",
        "step 1/30  reward -0.412  5.25 rollouts/prompt",
        "step 2/30  reward -0.412  5.25 rollouts/prompt",
        "finishing  ▅▅",
    ]
    seen = on_a_terminal(SHOW, awaited)
    assert all(text in without_sequences(seen) for text in awaited)
    assert screen(seen) == ["evaluation after step 2: greedy 0.500 ± 0.100", "after"]  # and the live line is gone


TERMINAL_GONE = """
import os, sys
from v05ray.training.progress import Progress
with Progress(num_steps=30, live={live}) as progress:
    progress.note("ready")
    input()
    progress.note("to a closed terminal")
    progress.evaluation_done(2, {{"val/all/greedy": 0.5, "val/all/greedy_stderr": 0.1}})
print("nor this", flush=True)
os.write(int(sys.argv[1]), b"continued")
"""


@pytest.mark.parametrize("live", [True, False])
def test_a_terminal_that_goes_before_its_signal_comes_does_not_end_the_run(live: bool):
    ours, theirs = pty.openpty()
    reading, writing = os.pipe()
    program = [sys.executable, "-c", TERMINAL_GONE.format(live=live), str(writing)]
    child = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, pass_fds=[writing])
    os.close(theirs)
    os.close(writing)
    seen = b""
    while b"ready" not in seen:
        seen += os.read(ours, 65536)
    os.close(ours)
    child.communicate(b"\n", timeout=30)
    assert os.read(reading, 100) == b"continued"
    assert child.returncode == 0
    os.close(reading)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_the_table():
    table = summary_table(
        Summary(
            steps=30,
            num_steps=30,
            curve=CURVE,
            num_prompts=960,
            num_rollouts=4800,
            num_response_tokens=52_000,
            seconds={"gen": 150.0, "learn": 402.25},
            wall_s=913.0,
            peak_bytes=3 * 2**30,
            places={"model": "runs/v05/model", "MLflow": "mlflow ui --backend-store-uri 'a|b'"},
            verdicts={"wrong": 1500, "correct": 3296, "unreadable": 4},
        )
    )
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    assert rows[0] == ["what", "figure"]
    assert rows[2:] == [
        ["steps", "30 of 30"],
        ["held-out accuracy, greedy", "0.145 ± 0.025 (step 0) -> 0.570 ± 0.035 (step 30)"],
        ["its curve, 0.14 to 0.57", "▁▅█"],
        ["held-out accuracy, mean@4", "0.070 (step 0) -> 0.550 (step 30)"],
        ["its curve, 0.07 to 0.55", "▁▄█"],
        ["prompts", "960"],
        ["rollouts drawn", "4,800"],
        ["mean rollouts per prompt", "5.00"],
        ["response tokens", "52,000"],
        ["verdicts", "correct 3,296, wrong 1,500, unreadable reference 4"],
        ["time: generation and scoring (overlaps with learning where learner.stream_tokens > 0)", "150.0 s"],
        ["time: learning: forward and backward", "402.2 s"],
        ["time: start to end", "15 min 13 s"],
        ["peak memory", "3.0 GiB"],
        ["model", "runs/v05/model"],
        ["MLflow", "mlflow ui --backend-store-uri 'a\\|b'"],
    ]
    assert len({len(line) for line in table.splitlines()}) == 1  # aligned


def test_the_table_of_a_run_without_evaluation_or_steps():
    table = summary_table(Summary(0, 30, [], 0, 0, 0, {}, 1.0, 0, {}))
    assert "accuracy" not in table
    assert "| mean rollouts per prompt | 0.00    |" in table


def test_the_curve_is_a_file_to_look_at(tmp_path):
    write_curve(tmp_path / "curve.svg", CURVE, title="v05 <on> chain_sum")
    text = (tmp_path / "curve.svg").read_text()
    assert "v05 &lt;on&gt; chain_sum" in text
    assert ">greedy<" in text
    assert ">mean@4<" in text
    write_curve(tmp_path / "curve.svg", [], title="empty")
    assert "no values yet" in (tmp_path / "curve.svg").read_text()


def test_a_long_evaluation_says_how_far_it_is_where_there_is_no_live_line():
    out, clock = io.StringIO(), Clock()
    with Progress(num_steps=30, file=out, clock=clock) as progress:
        progress.evaluation_started(0, 50, 100)
        for _ in range(100):
            clock.now += 1.0
            progress.evaluation_drawn()
    assert out.getvalue().splitlines() == [
        "evaluating: 30 of 100 draws, about 1 min 10 s left",
        "evaluating: 60 of 100 draws, about 40 s left",
        "evaluating: 90 of 100 draws, about 10 s left",
    ]
