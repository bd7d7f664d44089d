"""SIGTERM in the middle of a long step, and a driver that is killed before it has saved anything."""

import json
import signal
import time
from pathlib import Path

from tests.chaos.tiny_run import TinyRun, assert_whole


def test_sigterm_in_a_long_step_saves_the_last_whole_one_within_the_grace(tiny_model: Path, tmp_path: Path):
    settings = ("run.num_steps=3", "run.checkpoint_every=0", "evaluation.every=0", "run.silence_s=3")
    # A step draws for seconds, and the second one never ends: its generator stands still.
    with TinyRun(tiny_model, tmp_path, *settings, "budget.rule={name: fixed, n: 64}", "run.grace_s=20") as run:
        run.wait_for_step(1)
        run.signal("ray::GeneratorActor", signal.SIGSTOP)
        run.wait_for(r"step 2, draw, score and learn: nothing for . s, waiting for prompts 'chain_sum-")
        asked = time.monotonic()
        run.process.send_signal(signal.SIGTERM)
        run.wait_for("stopping after this step, with a checkpoint, within 20 s", after=asked)
        assert run.wait_for("gave step 2 up", after=asked) - asked < 20
        assert run.end(timeout_s=60) == 0, run.printed
    assert json.loads((run.folder / "summary.json").read_text())["step"] == 1
    assert_whole(run.folder, (1,))
    assert (run.folder / "checkpoints" / "step-000001" / "manifest.json").is_file()


def test_a_driver_killed_before_its_first_checkpoint_is_begun_again_by_the_same_command(
    tiny_model: Path, tmp_path: Path
):
    command = ("run.num_steps=3", "run.checkpoint_every=0", "evaluation.every=0", "--resume", "auto")
    with TinyRun(tiny_model, tmp_path, *command) as run:
        run.wait_for_step(1)
        run.children()
        run.process.kill()
        run.process.wait()
        run.assert_gone()
    with TinyRun(tiny_model, tmp_path, *command) as again:
        assert again.end() == 0, again.printed
    assert again.folder == run.folder
    ledger = assert_whole(again.folder, (1, 2, 3))
    assert 1 in [step for superseded in ledger.superseded for step in superseded.steps]
