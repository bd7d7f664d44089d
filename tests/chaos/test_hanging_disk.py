"""A disk that hangs under the ledger of a real run: unread FIFOs are where its next files are written."""

import os
import time
from pathlib import Path

import pytest

from tests.chaos.tiny_run import TinyRun, assert_whole

pytestmark = pytest.mark.timeout(600)


def test_a_hanging_ledger_is_reported_ends_the_run_within_its_bound_and_can_be_resumed(
    tiny_model: Path, tmp_path: Path
):
    settings = ("run.num_steps=5", "run.checkpoint_every=1", "data.eval=null")
    with TinyRun(tiny_model, tmp_path, *settings, "run.silence_s=2", "run.stall_s=6") as run:
        run.wait_for_step(1)
        hung = time.monotonic()
        for step in range(2, 6):
            os.mkfifo(run.folder / "ledger" / f".tmp-{run.process.pid}-rollouts-{step:06d}.parquet")
        run.wait_for(
            r"step \d, ledger: nothing for \d s, waiting for the disk \(work at .*/ledger for \d s\)", after=hung
        )
        reported = run.wait_for(r"the disk of .*/ledger hangs", after=hung)
        assert run.end(timeout_s=90) == 1, run.printed
        assert time.monotonic() - reported < 60  # nothing else of the end waits for the hung files
        run.assert_gone()
    with TinyRun(tiny_model, tmp_path, *settings, "--resume", "auto") as again:
        assert again.end() == 0, again.printed
    assert_whole(again.folder, (1, 2, 3, 4, 5))
