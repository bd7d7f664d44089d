"""Reserve places, start the actors, wire them together; end them again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from v05ray.actors.census import Census
from v05ray.actors.elastic import Address, RayPlaces, elastic
from v05ray.actors.generator import RayGenerator
from v05ray.actors.learner import start_learners
from v05ray.actors.placement import on, reserve
from v05ray.actors.rewards import RayRewardPool, RewardActor
from v05ray.actors.scheduler import RayScheduler, SchedulerActor
from v05ray.actors.value import ValuePlaces, start_values
from v05ray.config import Config
from v05ray.machine import layout
from v05ray.ports import Roles, Tracker
from v05ray.rewards.by_source import with_source_verifiers
from v05ray.scheduling.predictors import PredictorPool


@contextlib.asynccontextmanager
async def start_all(
    config: Config, tracker: Tracker, *, cache: Path, folder: Path, note: Callable[[str], None]
) -> AsyncIterator[Roles]:
    """Every actor a training run needs, up and wired, and as many generators as are wanted from then on.

    `cache` keeps the value model's embeddings between runs; `folder` is the run's, which gets its status.
    """
    address = Address.of(folder)
    async with (
        _reserved(config, layout.roles(config)) as groups,
        _inference(config, groups, address) as (scheduler, rewards),
    ):
        learners = start_learners(config, groups["learner"])
        predictors = start_values(config, groups["value"], cache) if config.value.enabled else []
        choices, _, _, generators = await asyncio.gather(
            asyncio.gather(*(one.describe() for one in predictors)),
            rewards.ready(),
            learners.setup(),
            scheduler.start(),
        )
        for choice in choices[:1]:
            note(choice)
        note(f"{len(generators)} generator(s) and {config.learner.num_ranks} learner rank(s) are up")
        places = RayPlaces(config, groups, address.namespace)
        actors = {"scheduler": scheduler.actor, "rewards": rewards.actor}
        actors |= {f"learner-{rank}": actor for rank, actor in enumerate(learners.actors)}
        actors |= {one.predictor_id: one.actor for one in predictors}
        values = PredictorPool(predictors) if predictors else None
        value_places = ValuePlaces(config, groups, cache, address.namespace)
        census = Census(address.namespace, actors)
        async with elastic(
            config,
            scheduler,
            places,
            list(generators),
            census=census,
            folder=folder,
            address=address,
            values=(values, value_places) if values else None,
        ):
            yield Roles(scheduler, rewards, learners, tracker, values, memory_mib=census.latest)


@contextlib.asynccontextmanager
async def start_inference(config: Config) -> AsyncIterator[tuple[RayScheduler, RayRewardPool]]:
    """What evaluation needs: generators, their scheduler, the reward pool."""
    async with (
        _reserved(config, layout.inference_roles(config)) as groups,
        _inference(config, groups) as (scheduler, rewards),
    ):
        await asyncio.gather(rewards.ready(), scheduler.start())
        yield scheduler, rewards


@contextlib.asynccontextmanager
async def _reserved(config: Config, roles: Sequence[layout.Role]) -> AsyncIterator[dict[str, PlacementGroup]]:
    """The roles' places; actors still in them are killed at the end, so that the next start finds them free."""
    groups = await reserve(roles, wait_s=config.cluster.wait_s)
    try:
        yield groups
    finally:
        for group in groups.values():
            remove_placement_group(group)


@contextlib.asynccontextmanager
async def _inference(
    config: Config, groups: Mapping[str, PlacementGroup], address: Address | None = None
) -> AsyncIterator[tuple[RayScheduler, RayRewardPool]]:
    reward_actor: Any = (
        ray.remote(RewardActor)
        .options(
            num_cpus=config.rewards.num_cpus,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=1000,
            scheduling_strategy=on(groups["rewards"]),
        )
        .remote(with_source_verifiers(config))
    )
    rewards = RayRewardPool(reward_actor)
    namespace = address.namespace if address else None
    names = [f"generator-{index}" for index in range(config.generators.count)]
    generators = [
        RayGenerator(name, config, on(groups[name]) if name in groups else on(groups["learner"], index), namespace)
        for index, name in enumerate(names)
    ]
    place = groups["scheduler"]
    scheduler_actor: Any = (
        ray.remote(SchedulerActor)
        .options(
            num_cpus=layout.SCHEDULER_CPUS,
            max_concurrency=10_000,
            scheduling_strategy=on(place),
            **({"name": address.name, "namespace": address.namespace} if address else {}),
        )
        .remote(config, rewards, generators, [on(place, 1 + i) for i in range(layout.num_shard_actors(config))])
    )
    try:
        yield RayScheduler(scheduler_actor), rewards
    finally:
        with contextlib.suppress(RayError, TimeoutError):
            await asyncio.wait_for(reward_actor.close.remote(), 10)
