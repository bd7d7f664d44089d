"""Signals to a run's driver, its process group, and all of its processes; a driver that is killed."""

import json
import os
import signal
import time
from pathlib import Path

from tests.chaos.tiny_run import TinyRun, assert_whole
from v05ray.exit_codes import ExitCode
from v05ray.stop_signals import ONE_REQUEST_S


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
        assert run.end(timeout_s=60) == ExitCode.STOPPED, run.printed
    assert json.loads((run.folder / "summary.json").read_text())["step"] == 1
    assert_whole(run.folder, (1,))
    assert (run.folder / "checkpoints" / "step-000001" / "manifest.json").is_file()


FEW = ("run.num_steps=500", "run.checkpoint_every=0", "evaluation.every=0")


def test_sigterm_to_every_process_of_the_run_ends_it_as_for_the_driver_alone(tiny_model: Path, tmp_path: Path):
    # systemd, Slurm, Ray's own `job stop`: all processes of a job get it, not only those of one group.
    with TinyRun(tiny_model, tmp_path, *FEW) as run:
        run.wait_for_step(1)
        family = run.children()
        assert {"raylet", "gcs_server"} <= {process.name() for process in family}
        asked = time.monotonic()
        for process in [*family, run.process]:
            process.send_signal(signal.SIGTERM)
        assert run.end(timeout_s=60) == ExitCode.STOPPED, run.printed
        run.wait_for("stopped by a signal; the checkpoint of step .* is whole; continue with", after=asked)
        assert run.children() == []
    step = json.loads((run.folder / "summary.json").read_text())["step"]
    assert (run.folder / "checkpoints" / f"step-{step:06d}" / "manifest.json").is_file()
    assert (run.folder / "model" / "model.safetensors").is_file()
    assert_whole(run.folder, range(1, step + 1))


def test_sighup_to_the_group_stops_with_a_checkpoint_from_which_a_second_ctrl_c_sends_back(
    tiny_model: Path, tmp_path: Path
):
    with TinyRun(tiny_model, tmp_path, *FEW, env={"HOME": "/proc/nobody"}) as run:  # no home is needed
        run.wait_for_step(1)
        os.killpg(run.process.pid, signal.SIGHUP)
        run.wait_for("stopping after this step, with a checkpoint, within")
        assert run.end(timeout_s=60) == ExitCode.STOPPED, run.printed
    step = json.loads((run.folder / "summary.json").read_text())["step"]
    with TinyRun(tiny_model, tmp_path, *FEW, "--resume") as again:
        again.wait_for_step(step + 1)
        again.signal("ray::GeneratorActor", signal.SIGSTOP)  # the next step does not end
        os.killpg(again.process.pid, signal.SIGINT)
        again.wait_for("stopping after this step, with a checkpoint; once more to stop at once")
        time.sleep(2 * ONE_REQUEST_S)
        os.killpg(again.process.pid, signal.SIGINT)
        assert again.end(timeout_s=60) == ExitCode.STOPPED, again.printed
        assert f"stopped at once; the checkpoint of step {step} is whole: continue with --resume" in again.printed
        assert "Traceback" not in again.printed
        again.assert_gone()


def test_ctrl_c_before_any_checkpoint_says_that_there_is_none(tiny_model: Path, tmp_path: Path):
    with TinyRun(tiny_model, tmp_path, *FEW) as run:
        run.wait_for("starting the actors")
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.end(timeout_s=60) == ExitCode.STOPPED_EMPTY, run.printed
        assert "stopped at once; there is no checkpoint yet: `--resume " in run.printed
        assert "Traceback" not in run.printed
        run.assert_gone()


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
