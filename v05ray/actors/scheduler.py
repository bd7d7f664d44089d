"""The scheduler actor: a `RolloutScheduler` and its generator pool in a process of their own."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from v05ray.actors.lifeline import end_with_parent
from v05ray.actors.loss import pending_at
from v05ray.config import Config
from v05ray.ports import BatchRequest, Generator, PendingCall, RewardPool, UpdateReport, Weights
from v05ray.scheduling.drawing import Drawing
from v05ray.scheduling.scaling import check_wanted
from v05ray.scheduling.snapshot import PoolSnapshot
from v05ray.types import DrawRequest, Rollout, RolloutGroup


class SchedulerActor:
    """Owns the generators, or the shards that own them: it starts them, and they end with it."""

    def __init__(
        self,
        config: Config,
        rewards: RewardPool,
        generators: Sequence[Generator],
        shard_places: Sequence[Any] = (),
    ) -> None:
        """`shard_places`: the scheduling strategy of each shard if there are several; none means anywhere."""
        from v05ray.actors.shard import generator_pool, start_shards
        from v05ray.scheduling.scheduler import RolloutScheduler
        from v05ray.scheduling.shards import Shards

        end_with_parent()
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        if config.generators.shards == 1:
            self._drawing: Drawing = generator_pool(config, rewards)
        else:
            self._drawing = Shards(start_shards(config, rewards, shard_places))
        self._scheduler = RolloutScheduler(self._drawing, config.budget, seed=config.run.seed)
        self._generators, self._config = generators, config.generators
        self._manual_target: int | None = None

    async def start(self) -> dict[str, str]:
        """Brings the generators up; returns every one's state once none is on its way any more."""
        self._drawing.add(self._generators)
        await self._drawing.until_ready()
        return {name: state.value for name, state in (await self._drawing.snapshot()).replicas.items()}

    async def snapshot(self) -> PoolSnapshot:
        """The generators' state with the manual target, if one was set since the last snapshot."""
        snapshot = await self._drawing.snapshot()
        target, self._manual_target = self._manual_target, None
        return replace(snapshot, manual_target=target)

    async def add(self, generator: Generator) -> None:
        """Takes in one more replica, which gets work once it serves the current version."""
        self._drawing.add([generator])

    async def drain(self, generator_id: str) -> None:
        """Gives a replica no more work and returns when it has finished what it had."""
        await self._drawing.drain(generator_id)

    async def set_target(self, num_generators: int) -> None:
        """`v05ray scale` wants this many generators. Raises `ConfigError` for a number that the run does not allow."""
        check_wanted(self._config, num_generators)
        self._manual_target = num_generators

    async def run(self, batch: BatchRequest) -> AsyncIterator[RolloutGroup]:
        """Sealed groups of the batch, each as soon as it is sealed."""
        async for group in self._scheduler.run(batch):
            yield group

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """Rollouts outside any budget, on the generator with least to do."""
        return await self._scheduler.draw(request)

    async def load_weights(self, weights: Weights) -> UpdateReport:
        """Every generator serves this version from now on."""
        return await self._scheduler.load_weights(weights)

    async def status(self) -> dict[str, float]:
        """Counters for the step's metrics: generators ready, draws lost, what the rule has learned."""
        return await self._scheduler.status()

    async def waiting(self) -> Sequence[PendingCall]:
        """Calls that generators and verifiers have not answered."""
        return await self._scheduler.waiting()

    async def state_dict(self) -> dict[str, Any]:
        """What the budget rule has learned, JSON-able."""
        return await self._scheduler.state_dict()

    async def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` returned."""
        await self._scheduler.load_state_dict(state)


class RayScheduler:
    """Implements `ports.Scheduler` and `scheduling.fleet.Pool` over the actor."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    async def start(self) -> dict[str, str]:
        """Brings the generators up; returns the state of each, by id."""
        return await self.actor.start.remote()

    async def snapshot(self) -> PoolSnapshot:
        """The generators' state; a manual target is in one snapshot alone."""
        return await self.actor.snapshot.remote()

    async def add(self, generator: Generator) -> None:
        """Takes in one more replica, which gets work once it serves the current version."""
        await self.actor.add.remote(generator)

    async def drain(self, generator_id: str) -> None:
        """Gives a replica no more work and returns when it has finished what it had."""
        await self.actor.drain.remote(generator_id)

    async def run(self, batch: BatchRequest) -> AsyncIterator[RolloutGroup]:
        """Sealed groups, each as soon as it is sealed."""
        async for reference in self.actor.run.remote(batch):
            yield await reference

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """Rollouts outside any budget, on the generator with least to do."""
        return await self.actor.draw.remote(request)

    async def load_weights(self, weights: Weights) -> UpdateReport:
        """Every generator serves this version from now on."""
        return await self.actor.load_weights.remote(weights)

    async def status(self) -> dict[str, float]:
        """Counters for the step's metrics: generators ready, draws lost, what the rule has learned."""
        return await self.actor.status.remote()

    async def waiting(self) -> Sequence[PendingCall]:
        """Calls that generators and verifiers have not answered."""
        return await pending_at(self.actor, "the scheduler")

    async def state_dict(self) -> dict[str, Any]:
        """What the budget rule has learned, JSON-able."""
        return await self.actor.state_dict.remote()

    async def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` returned."""
        await self.actor.load_state_dict.remote(state)
