"""One of two generators serves a weight that is not the learners': it is named, taken out of service and replaced."""

import json
import os
from pathlib import Path

import pytest

from tests.chaos.tiny_run import TinyRun, assert_whole
from tests.chaos.world import SABOTAGE

pytestmark = pytest.mark.timeout(300)
NUM_STEPS = 7
SETTINGS = (
    f"run.num_steps={NUM_STEPS}",
    "data.eval=null",
    "generators.count=2",
    "generators.num_cpus=0.25",
    "weights.send=delta",
)


def test_a_run_bars_the_generator_whose_weights_were_changed_and_goes_on(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
):
    output, sabotage = tmp_path_factory.mktemp("barred"), tmp_path_factory.mktemp("sabotage")
    path = os.pathsep.join([str(SABOTAGE), *filter(None, [os.environ.get("PYTHONPATH")])])
    with TinyRun(tiny_model, output, *SETTINGS, env={"PYTHONPATH": path, "V05RAY_SABOTAGE": str(sabotage)}) as run:
        run.wait_for_step(1)
        (sabotage / "change-weight").touch()
        barred = r"generator-\d does not serve version \d+: model.layers.0.input_layernorm.weight is not as sent"
        run.wait_for(f"{barred}; it is restarted")
        assert run.end() == 0, run.printed
    assert_whole(run.folder, range(1, NUM_STEPS + 1))
    updates = json.loads((run.folder / "summary.json").read_text())["updates"]
    # Version 0 and every step's, by two generators, or by one while the other starts again.
    assert (updates["num_updates"], updates["num_barred"]) == (NUM_STEPS + 1, 1)
    assert NUM_STEPS + 1 < updates["num_proofs"] <= 2 * (NUM_STEPS + 1)
    assert "1 not as sent (generator restarted)" in (run.folder / "summary.md").read_text()
