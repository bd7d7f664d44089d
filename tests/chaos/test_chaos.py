"""The short form of `make chaos`: a fault of each kind of recovery, at random moments of one run.

A verifier that eats memory changes what a run learns, so it is in `test_lost_processes`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.tiny_run import ROOT

SHORT = (
    "generator frozen",
    "weight update fails",
    "generator's node taken",
    "a learner rank killed",
    "driver killed",
    "verifier crashes",
    "MLflow away",
    "object store full",
    "disk full",
)


@pytest.mark.timeout(900)
def test_a_run_under_faults_ends_where_an_undisturbed_one_does(tiny_model: Path):
    program = [sys.executable, "-m", "tests.chaos.run", "--model", str(tiny_model), "--each", "1", "--faults", *SHORT]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for name in SHORT:
        assert f"| {name} | 1 |" in done.stdout
    counts = re.search(
        r"(\d+) faults: (\d+) rollouts recorded once each, 0 differ .*; (\d+) more were set aside. "
        r"Weights differ .* by at most (\S+); training moved them by (\S+)\.$",
        done.stdout,
        re.MULTILINE,
    )
    assert counts, done.stdout
    num_faults, num_rollouts, superseded = map(int, counts.groups()[:3])
    apart, moved = map(float, counts.groups()[3:])
    assert num_faults == len(SHORT)
    assert num_rollouts > 1000
    assert superseded > 0
    assert apart <= 1e-6 < 1e-4 < moved
