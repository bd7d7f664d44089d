"""The short form of `make chaos`: a fault of each kind of recovery, at random moments of one run."""

from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.run import SAME, Chaos, compare, undisturbed

SHORT = ("generator frozen", "learner killed", "weight update fails", "driver killed", "verifier killed")


@pytest.mark.timeout(900)
def test_a_run_under_faults_ends_where_an_undisturbed_one_does(tiny_model: Path, tmp_path: Path):
    steps = 3 * len(SHORT) + 3
    faults = [FAULTS[name] for name in SHORT]
    report = Chaos(tiny_model, tmp_path / "disturbed", faults, num_steps=steps, seed=0).disturb()
    whole = undisturbed(tiny_model, tmp_path / "whole", num_steps=steps)
    compare(report, tiny_model, whole, tmp_path / "disturbed" / "tiny", num_steps=steps)
    assert [one.name for one in report.suffered] == list(SHORT)
    assert report.superseded > 0
    assert report.differing_rows == 0
    assert report.moved > 1e-4
    assert report.apart <= SAME
