from typing import Any

import pytest
import ray

from tests.fakes import SAMPLING, FakeRewardPool, make_prompt
from tests.ray.stubs import StubGenerator
from v05ray.actors.scheduler import RayScheduler, SchedulerActor
from v05ray.job.config_files import make_config
from v05ray.ports import BatchRequest, Weights
from v05ray.types import Prior, RolloutGroup

NAMES = [f"p{i}" for i in range(24)]
REWARDS = {name: [1.0, -1.0, 1.0, 1.0, 1.0] if i % 2 else [1.0] for i, name in enumerate(NAMES)}
CONFIG = make_config({"model": {"path": "m"}, "data": {"train": "jsonl"}, "budget": {"halt_fraction": 0.0}})


def scheduler_of(*generators: StubGenerator, shards: int = 1) -> RayScheduler:
    actor: Any = ray.remote(SchedulerActor).options(num_cpus=0, max_concurrency=1000)
    settings = CONFIG.generators.model_copy(update={"shards": shards})
    config = CONFIG.model_copy(update={"generators": settings})
    return RayScheduler(actor.remote(config, FakeRewardPool(), list(generators)))


def batch_of(prior: float = 0.0, version: int = 0) -> BatchRequest:
    prompts = tuple(make_prompt(name) for name in NAMES)
    return BatchRequest(1, version, prompts, {n: Prior(n, prior, version) for n in NAMES}, SAMPLING)


async def groups_of(scheduler: RayScheduler, batch: BatchRequest) -> dict[str, RolloutGroup]:
    return {group.prompt.prompt_id: group async for group in scheduler.run(batch)}


async def test_groups_stream_through_actors_and_are_the_same_for_any_number_of_generators_and_shards():
    results = []
    for count, shards in ((1, 1), (3, 1), (3, 2)):
        scheduler = scheduler_of(*(StubGenerator(f"g{i}", REWARDS) for i in range(count)), shards=shards)
        await scheduler.start()
        groups = await groups_of(scheduler, batch_of())
        results.append({name: (group.rewards, group.stop.reason) for name, group in groups.items()})
    assert results[0] == results[1] == results[2]
    assert sorted(results[0]) == sorted(NAMES)


async def test_a_generator_killed_in_the_middle_costs_no_rollout_and_none_is_drawn_twice():
    scheduler = scheduler_of(
        StubGenerator("doomed", REWARDS, latency=0.05, die_at=5), StubGenerator("living", REWARDS, latency=0.05)
    )
    await scheduler.start()
    groups = await groups_of(scheduler, batch_of())
    for group in groups.values():
        assert [s.rollout.sample_index for s in group.scored] == list(range(len(group.scored)))
    status = await scheduler.status()
    assert status["v05/lost_draws"] >= 4
    assert status["v05/generator_restarts"] == 1


@pytest.mark.parametrize("shards", [1, 2])
async def test_a_killed_generator_comes_back_at_the_current_version(shards: int):
    generators = [StubGenerator("doomed", REWARDS, die_at=3), StubGenerator("living", REWARDS)]
    scheduler = scheduler_of(*generators[:shards], shards=shards)
    await scheduler.start()
    await scheduler.load_weights(Weights(7, [ray.put(b"bucket")], 6))
    groups = await groups_of(scheduler, batch_of(version=7))
    assert {s.rollout.policy_version for g in groups.values() for s in g.scored} == {7}


async def test_an_error_inside_the_scheduler_reaches_the_driver_with_its_words():
    scheduler = scheduler_of(StubGenerator("g", REWARDS))
    await scheduler.start()
    with pytest.raises(ValueError, match="wants policy version 3, the generators serve 0"):
        await groups_of(scheduler, batch_of(version=3))
