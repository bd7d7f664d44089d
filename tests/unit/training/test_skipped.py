"""Updates without a finite gradient: each is reported with its step, and some in a row end the run."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.fakes import FakeLearner
from tests.unit.training.world import World, config_of, trainer_of
from v05ray.errors import RunError
from v05ray.ledger import LedgerReader
from v05ray.storage.checkpoint import Checkpoints
from v05ray.training.progress import Progress


class Breaking(FakeLearner):
    """Skips all updates of the given steps, two a step."""

    def __init__(self, steps: Sequence[int]) -> None:
        super().__init__()
        self._steps = steps

    async def step(self, updated: Callable[[], None] = lambda: None) -> dict[str, float]:
        """As if the gradient had not been finite."""
        before = self.weight
        metrics = await super().step(updated)
        skipped = self.num_steps in self._steps
        if skipped:
            self.weight = before
        return {**metrics, "actor/num_updates": 2.0, "actor/update_skipped": 2.0 * skipped}


async def test_skipped_updates_in_a_row_end_the_run_with_their_steps_recorded(tmp_path: Path):
    config = config_of(run={"num_steps": 9}, learner={"max_skipped_updates": 4})
    trainer = await trainer_of(config, world := World(learner=Breaking([2, 4, 5, 6])), tmp_path)
    said = io.StringIO()
    trainer._steps._progress = Progress(num_steps=9, file=said, live=False)
    with pytest.raises(RunError, match=r"step 5: .* in the last 4 updates, learner.max_skipped_updates is 4"):
        await trainer.run()
    assert world.learner.num_steps == 5
    ledger = tmp_path / "ledger"
    assert list(LedgerReader(ledger).steps) == [1, 2, 3, 4, 5]
    notes = [line for line in said.getvalue().splitlines() if "skipped" in line]
    assert [note.split(":")[0] for note in notes] == ["step 2", "step 4", "step 5"]
    assert notes[0] == (
        f"step 2: 2 of 2 updates skipped, the gradient was not finite; its rollouts are step 2 of {ledger}"
    )


async def test_a_resumed_run_counts_on(tmp_path: Path):
    config = config_of(run={"num_steps": 2}, learner={"max_skipped_updates": 4})
    await (await trainer_of(config, World(learner=Breaking([2])), tmp_path)).run()
    longer = config_of(run={"num_steps": 4}, learner={"max_skipped_updates": 4})
    resumed = await trainer_of(longer, World(learner=Breaking([3])), tmp_path)
    latest = Checkpoints(tmp_path, longer.model_dump(mode="json"), keep=2).latest()
    assert latest is not None
    await resumed.resume(latest.folder)
    with pytest.raises(RunError, match=r"step 3: .* in the last 4 updates"):
        await resumed.run()


async def test_a_step_in_which_nothing_is_learned_is_no_skipped_update(tmp_path: Path):
    config = config_of(run={"num_steps": 3}, learner={"max_skipped_updates": 1, "group_filter": "mixed"})
    world = World()
    world.generator.rewards = {name: [1.0] * 16 for name in world.generator.rewards}
    state = await (await trainer_of(config, world, tmp_path)).run()
    assert (state.step, world.learner.num_steps) == (3, 0)
