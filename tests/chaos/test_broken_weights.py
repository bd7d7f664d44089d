"""A learning rate that throws the weights away: no later gradient is finite, and the run ends and spends no more."""

import re
from pathlib import Path

import pytest

from tests.chaos.tiny_run import TinyRun
from v05ray.ledger import LedgerReader

pytestmark = pytest.mark.timeout(300)
SETTINGS = (
    "run.num_steps=12",
    "data.eval=null",
    "learner.learning_rate=1e25",
    "learner.warmup_steps=0",
    "learner.max_skipped_updates=2",
)


def test_a_run_without_finite_gradients_ends_and_names_the_steps(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
):
    with TinyRun(tiny_model, tmp_path_factory.mktemp("broken"), *SETTINGS) as run:
        assert run.end() == 1, run.printed
    skipped = [int(step) for step in re.findall(r"^step (\d+): 1 of 1 updates skipped", run.printed, re.MULTILINE)]
    assert len(skipped) == 2
    assert skipped[1] == skipped[0] + 1
    assert f"step {skipped[1]}: the gradient was not finite in the last 2 updates" in run.printed
    assert list(LedgerReader(run.folder / "ledger").steps) == list(range(1, skipped[1] + 1))
