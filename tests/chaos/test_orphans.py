"""The short form of `tests.chaos.orphans`: one run that is refused by an actor, and one whose driver is killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.tiny_run import ROOT


@pytest.mark.parametrize("number", [1, 3])
def test_nothing_outlives_a_run(tiny_model: Path, number: int):
    program = [sys.executable, "-m", "tests.chaos.orphans", "--model", str(tiny_model), "--runs", "1"]
    done = subprocess.run(
        [*program, "--start", str(number)], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "1 runs" in done.stdout
