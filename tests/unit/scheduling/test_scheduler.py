import asyncio
import random
from dataclasses import replace

import pytest

from tests.fakes import SAMPLING, FakeGenerator, FakeRewardPool, make_prompt
from v05ray.config import BudgetConfig, Spec
from v05ray.ports import BatchRequest
from v05ray.scheduling.generators import GeneratorPool
from v05ray.scheduling.scheduler import RolloutScheduler
from v05ray.types import Draw, Prior, RolloutGroup

OSLA = BudgetConfig(rule=Spec.model_validate({"name": "osla", "cold_start": 4, "n_max": 16}), halt_fraction=0.0)


def batch_of(priors: dict[str, float], **fields: bool) -> BatchRequest:
    prompts = tuple(make_prompt(name) for name in priors)
    return BatchRequest(1, 0, prompts, {n: Prior(n, v, 0) for n, v in priors.items()}, SAMPLING, **fields)


async def run(
    batch: BatchRequest, *generators: FakeGenerator, config: BudgetConfig = OSLA, rewards: FakeRewardPool | None = None
) -> dict[str, RolloutGroup]:
    pool = GeneratorPool(rewards or FakeRewardPool(), draw_timeout_s=5.0)
    pool.add(generators)
    await pool.until_ready()
    scheduler = RolloutScheduler(pool, config, seed=0)
    return {group.prompt.prompt_id: group async for group in scheduler.run(batch)}


async def test_a_prior_that_agrees_stops_after_the_cold_start_and_one_that_conflicts_is_topped_up():
    # agrees: mean .5, prior .5. conflicts: mean 1, prior -.5: b2 = 2.25 - .25 = 2, target floor(16 - 1/2) = 15.
    generator = FakeGenerator({"agrees": [1, 1, 1, -1], "conflicts": [1]})
    groups = await run(batch_of({"agrees": 0.5, "conflicts": -0.5}), generator)
    assert len(groups["agrees"].scored) == 4
    assert groups["agrees"].stop.reason == "accepted"
    assert len(groups["conflicts"].scored) == 15
    assert [d.action.num_rollouts for d in groups["conflicts"].decisions if isinstance(d.action, Draw)] == [4, 11]


async def test_rollouts_are_in_sample_order_and_none_is_drawn_twice():
    generators = [FakeGenerator({"p": [1]}, name, latency=lambda _, i: 0.001 * (i % 3)) for name in "ab"]
    groups = await run(batch_of({"p": -0.5}), *generators)
    assert [s.rollout.sample_index for s in groups["p"].scored] == list(range(15))
    drawn = [(r.prompt_id, i) for g in generators for r in g.requests for i in r.sample_indices]
    assert len(drawn) == len(set(drawn)) == 15


async def test_a_sealed_group_is_streamed_while_others_still_generate():
    generator = FakeGenerator({"quick": [1], "slow": [1]}, latency=lambda name, _: 0.2 if name == "slow" else 0.0)
    pool = GeneratorPool(FakeRewardPool(), draw_timeout_s=5.0)
    pool.add([generator])
    await pool.until_ready()
    stream = RolloutScheduler(pool, OSLA, seed=0).run(batch_of({"slow": 1.0, "quick": 1.0}))
    first = await asyncio.wait_for(anext(stream), 0.1)
    assert first.prompt.prompt_id == "quick"
    assert [group.prompt.prompt_id async for group in stream] == ["slow"]


async def test_seeds_depend_on_what_is_drawn_and_not_on_who_draws():
    async def seeds(*names: str) -> dict[int, int]:
        generators = [FakeGenerator({"p": [1]}, name) for name in names]
        await run(batch_of({"p": -0.5}), *generators)
        return {i: s for g in generators for r in g.requests for i, s in zip(r.sample_indices, r.seeds, strict=True)}

    assert await seeds("a") == await seeds("b", "c")
    assert len(set((await seeds("a")).values())) == 15


@pytest.mark.parametrize("seed", range(5))
async def test_async_and_rounds_draw_the_same_without_the_halt(seed: int):
    rng = random.Random(seed)
    names = [f"p{i}" for i in range(24)]
    rewards = {name: [rng.choice([1.0, -1.0]) for _ in range(16)] for name in names}
    latencies = {(name, i): rng.random() / 500 for name in names for i in range(16)}
    priors = {name: rng.uniform(-0.95, 0.95) for name in names}
    budgets = []
    for mode in ("async", "rounds"):
        generators = [FakeGenerator(rewards, g, latency=lambda n, i: latencies[n, i]) for g in "ab"]
        groups = await run(batch_of(priors), *generators, config=OSLA.model_copy(update={"mode": mode}))
        budgets.append({name: (groups[name].rewards, groups[name].stop) for name in names})
    assert budgets[0] == budgets[1]
    assert {len(r) for r, _ in budgets[0].values()} > {4}


async def test_the_last_open_prompt_is_refused_a_top_up():
    config = OSLA.model_copy(update={"halt_fraction": 1 / 2})
    latency = {"a": 0.0, "b": 0.02, "c": 0.04, "d": 0.06}
    generator = FakeGenerator({name: [1] for name in "abcd"}, latency=lambda name, _: latency[name])
    groups = await run(batch_of({"a": 1.0, "b": 1.0, "c": 1.0, "d": -1.0}), generator, config=config)
    assert groups["d"].stop.reason == "halted"  # one open prompt is fewer than half of four
    assert len(groups["d"].scored) == 4


async def test_an_abort_at_the_halt_cancels_what_is_in_flight_and_aborts_it_at_the_generator():
    # top: rejected at once, its top-up takes long. Once only it is open, the batch halts (1 < 4/2) and gives it up.
    config = OSLA.model_copy(update={"halt_fraction": 1 / 2, "on_halt": "abort"})
    generator = FakeGenerator(
        {name: [1] for name in ("top", "b", "c", "d")},
        latency=lambda name, i: (5.0 if i >= 4 else 0.0) if name == "top" else 0.05,
    )
    groups = await asyncio.wait_for(
        run(batch_of({"top": -1.0, "b": 1.0, "c": 1.0, "d": 1.0}), generator, config=config), 2.0
    )
    assert groups["top"].stop.reason == "halted"
    assert len(groups["top"].scored) == 4
    assert generator.aborted == ["top"]


async def test_a_greedy_rollout_is_drawn_beside_the_group_where_asked_for():
    generator = FakeGenerator({"p": [1, 1, 1, -1]}, greedy={"p": -1.0})
    groups = await run(batch_of({"p": 0.5}, greedy_reward=True), generator)
    assert groups["p"].greedy is not None
    assert groups["p"].greedy.reward == -1.0
    assert groups["p"].rewards == (1, 1, 1, -1)
    (greedy,) = [r for r in generator.requests if r.sampling.temperature == 0]
    assert greedy.sample_indices == (-1,)


async def test_every_generator_lost_under_the_batch_ends_it_with_an_error():
    with pytest.raises(RuntimeError, match="no generator is left"):
        await run(batch_of({"p": 0.5}), FakeGenerator({"p": [1]}, lost_after=0))


async def test_a_verdict_that_failed_counts_as_a_wrong_answer_and_stops_nothing():
    generator = FakeGenerator({"p": [1]})
    groups = await run(batch_of({"p": 0.5}), generator, rewards=FakeRewardPool(verdicts={("p", 2): "timeout"}))
    assert groups["p"].rewards[2] == -1.0
    assert groups["p"].scored[2].verdict == "timeout"


async def test_a_batch_for_another_version_than_the_generators_serve_is_refused():
    with pytest.raises(ValueError, match="wants policy version 7, the generators serve 0"):
        await run(replace(batch_of({"p": 0.5}), policy_version=7), FakeGenerator({"p": [1]}))
