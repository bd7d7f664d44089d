"""Several updates per batch and long responses, as the loop hands them to the learners."""

from pathlib import Path

import pytest

from tests.fakes import FakeGenerator
from tests.unit.training.test_driver import NAMES, World, config_of, trainer_of
from tests.unit.training.test_step_group_filter import step_metrics
from v05ray.ledger import LedgerReader
from v05ray.replay import Changes, replay

MIXED = {name: [1.0, -1.0] for name in NAMES}


@pytest.mark.parametrize(("learner", "calls"), [({}, 8), ({"epochs": 2}, 2), ({"mini_batch_prompts": 2}, 2)])
async def test_a_batch_of_several_updates_reaches_the_learners_whole_and_in_order(
    tmp_path: Path, learner: dict, calls: int
) -> None:
    world = World()
    config = config_of(run={"num_steps": 2}, learner={"stream_tokens": 1, **learner})
    await (await trainer_of(config, world, tmp_path, eval_names=())).run()
    assert len(world.learner.accumulated) == calls
    if learner:
        for step, call in enumerate(world.learner.accumulated, 1):
            table = LedgerReader(tmp_path / "ledger").rollouts(step).to_pylist()
            assert [s.prompt_id for s in call] == [row["prompt_id"] for row in table]


def truncated_when(is_long: dict[str, set[int]]) -> FakeGenerator:
    return FakeGenerator(MIXED, num_tokens=lambda name, index: 8 if index in is_long.get(name, ()) else 3)


async def test_truncated_responses_are_left_out_of_the_loss_and_of_nothing_else(tmp_path: Path) -> None:
    for choice in ("learn", "leave_out"):
        world = World(generator=truncated_when({name: {0} for name in NAMES}))
        config = config_of(run={"num_steps": 1}, sampling={"max_tokens": 5}, learner={"truncated": choice})
        await (await trainer_of(config, world, tmp_path / choice, eval_names=())).run()
        table = LedgerReader(tmp_path / choice / "ledger").rollouts(1).to_pylist()
        whole = [row for row in table if row["finish_reason"] != "length"]
        assert 0 < len(whole) < len(table)
        expected = whole if choice == "leave_out" else table
        (call,) = world.learner.accumulated
        trained = [(s.prompt_id, s.advantages[0]) for s in call]
        # The advantages are of the whole group in either case.
        assert trained == [(row["prompt_id"], pytest.approx(row["advantage"])) for row in expected]
        (metrics,) = step_metrics(world)
        left_out = len(table) - len(whole)
        assert metrics.get("v05/truncated_left_out") == (left_out if choice == "leave_out" else None)


async def test_a_step_of_truncated_responses_alone_changes_no_weight(tmp_path: Path) -> None:
    world = World(generator=truncated_when({name: set(range(16)) for name in NAMES}))
    config = config_of(run={"num_steps": 1}, sampling={"max_tokens": 5}, learner={"truncated": "leave_out"})
    state = await (await trainer_of(config, world, tmp_path, eval_names=())).run()
    assert (state.step, world.learner.num_steps, world.learner.accumulated) == (1, 0, [])
    (metrics,) = step_metrics(world)
    assert metrics["actor/update_skipped"] == 1


async def test_long_responses_are_punished_in_the_advantage_alone_and_replays_know(tmp_path: Path) -> None:
    world = World(generator=truncated_when({name: {0} for name in NAMES}))
    config = config_of(
        recipe="dr_grpo",
        run={"num_steps": 1},
        budget={"rule": {"name": "fixed", "n": 2}},
        sampling={"max_tokens": 5},
        rewards={"overlong_buffer": 4},
    )
    await (await trainer_of(config, world, tmp_path, eval_names=())).run()
    table = LedgerReader(tmp_path / "ledger").rollouts(1).to_pylist()
    assert [row["reward"] for row in table] == [1.0, -1.0] * 4  # the verifier's
    # Five tokens cost 1 and three 1/2: rewards 0 and -1.5, with mean -.75.
    assert [row["advantage"] for row in table] == pytest.approx([0.75, -0.75] * 4)
    (metrics,) = step_metrics(world)
    assert metrics["rewards/overlong_punishment/mean"] == pytest.approx(-0.75)
    assert metrics["critic/score/mean"] == 0
    again = replay(LedgerReader(tmp_path / "ledger"), Changes())
    assert again.after.advantage_variance == pytest.approx(0.75**2)
    # An estimator that counts successes replays the verifier's rewards.
    assert replay(LedgerReader(tmp_path / "ledger"), Changes(advantage="ebpo")).after.num_rollouts == 8
