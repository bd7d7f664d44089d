"""Signals to a run's driver, its process group, and all of its processes; a driver that is killed."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.chaos.tiny_run import TinyRun, assert_whole
from v05ray.stopping.exit_codes import ExitCode
from v05ray.stopping.stop_signals import ONE_REQUEST_S

pytestmark = pytest.mark.timeout(600)
LONG = (
    "run.num_steps=3",
    "run.checkpoint_every=0",
    "data.eval=null",
    "run.silence_s=3",
    "run.grace_s=20",
    "budget.rule={name: fixed, n: 64}",  # a step draws for seconds
    "--resume",
    "auto",
)
FEW = ("run.num_steps=500", "run.checkpoint_every=0", "data.eval=null")


def test_a_killed_driver_is_begun_again_and_sighup_in_a_long_step_saves_the_last_whole_one_within_the_grace(
    tiny_model: Path, tmp_path: Path
):
    with TinyRun(tiny_model, tmp_path, *LONG) as run:
        run.wait_for_step(1)
        run.children()
        run.process.kill()  # before its first checkpoint
        run.process.wait()
        run.assert_gone()
    # The same command begins again, and needs no home. Its second step never ends: its generator does not respond.
    with TinyRun(tiny_model, tmp_path, *LONG, env={"HOME": "/proc/nobody"}) as again:
        again.wait_for_step(1)
        again.signal("ray::GeneratorActor", signal.SIGSTOP)
        again.wait_for(r"step 2, draw, score and learn: nothing for . s, waiting for prompts 'chain_sum-")
        asked = time.monotonic()
        os.killpg(again.process.pid, signal.SIGHUP)
        again.wait_for("stopping after this step, with a checkpoint, within 20 s", after=asked)
        assert again.wait_for("gave step 2 up", after=asked) - asked < 20
        assert again.end(timeout_s=60) == ExitCode.STOPPED, again.printed
    assert again.folder == run.folder
    assert json.loads((again.folder / "summary.json").read_text())["step"] == 1
    ledger = assert_whole(again.folder, (1,))
    assert 1 in [step for superseded in ledger.superseded for step in superseded.steps]
    assert (again.folder / "checkpoints" / "step-000001" / "manifest.json").is_file()


def test_sigterm_to_every_process_ends_the_run_as_for_the_driver_alone_and_a_second_ctrl_c_sends_back_to_there(
    tiny_model: Path, tmp_path: Path
):
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
