"""`learner.group_filter` in the loop: what is left out of the loss, what is not, and a step of nothing."""

from pathlib import Path

import pytest

from tests.fakes import FakeGenerator
from tests.unit.training.world import NAMES, World, config_of, trainer_of
from v05ray.ledger import LedgerReader

MIXED = {"group_filter": "mixed"}
UNIFORM = {name: [1.0] if index % 2 else [-1.0] for index, name in enumerate(NAMES)}


def step_metrics(world: World) -> list[dict[str, float]]:
    return [metrics for _, metrics in world.tracker.metrics if "critic/score/mean" in metrics]


@pytest.mark.parametrize("stream_tokens", [0, 1])
async def test_uniform_groups_are_left_out_of_the_loss_and_of_nothing_else(tmp_path: Path, stream_tokens: int) -> None:
    mixed = NAMES[::3]
    world = World(generator=FakeGenerator({**UNIFORM, **{name: [1.0, -1.0] for name in mixed}}))
    config = config_of(run={"num_steps": 3}, learner={**MIXED, "stream_tokens": stream_tokens})
    trainer = await trainer_of(config, world, tmp_path, eval_names=())
    await trainer.run()
    trained = {sample.prompt_id for call in world.learner.accumulated for sample in call}
    assert trained == set(mixed)
    drawn = sum(
        len({r["prompt_id"] for r in LedgerReader(tmp_path / "ledger").rollouts(s).to_pylist()}) for s in (1, 2, 3)
    )
    assert drawn == len(NAMES)
    assert sum(metrics["v05/filtered_groups"] for metrics in step_metrics(world)) == len(NAMES) - len(mixed)


async def test_a_step_without_any_group_changes_no_weight_and_is_counted(tmp_path: Path) -> None:
    world = World(generator=FakeGenerator(UNIFORM))
    config = config_of(run={"num_steps": 2}, learner=MIXED)
    state = await (await trainer_of(config, world, tmp_path)).run()
    assert (world.learner.num_steps, world.learner.accumulated) == (0, [])
    assert state.step == 2
    assert world.generator.version == 2  # the same weights under the step's own version
    for metrics in step_metrics(world):
        assert metrics["actor/update_skipped"] == 1
        assert metrics["v05/filtered_groups"] == 4
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 1


async def test_without_a_filter_none_is_left_out(tmp_path: Path) -> None:
    world = World(generator=FakeGenerator(UNIFORM))
    await (await trainer_of(config_of(run={"num_steps": 1}), world, tmp_path, eval_names=())).run()
    (metrics,) = step_metrics(world)
    assert metrics["v05/filtered_groups"] == 0
    assert world.learner.num_steps == 1
