"""An object store that is full on a node whose disk is full too: nothing can be put anywhere."""

from pathlib import Path

import pytest

from tests.chaos.run import start
from tests.chaos.tiny_run import assert_whole
from tests.chaos.world import World

pytestmark = pytest.mark.timeout(600)


def test_a_store_that_cannot_spill_ends_the_run_with_the_way_on(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("RAY_TMPDIR", "PYTHONPATH", "V05RAY_SABOTAGE", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "")  # what the world sets is put back in the end
    with World(small_disk=False, can_spill=False) as world:
        with start(world, tiny_model, tmp_path, 100_000, "run.checkpoint_every=1") as run:
            run.wait_for_step(2)
            world.fill_store()
            run.wait_for("Ray's object store is full, and so is the disk behind it")
            assert run.end() == 1, run.printed
            assert "Traceback" not in run.printed
            last = run.last_step() + 3
        world.free_store()
        with start(world, tiny_model, tmp_path, last, "run.checkpoint_every=1", "--resume", "auto") as again:
            assert again.end() == 0, again.printed
    assert_whole(tmp_path / "tiny", range(1, last + 1))
