"""The scheduler actor: a `RolloutScheduler` and its generator pool in a process of their own."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from v05ray.actors.lifeline import end_with_parent
from v05ray.actors.loss import held_by
from v05ray.config import Config
from v05ray.ports import BatchRequest, Generator, Held, RewardPool, UpdateReport, Weights
from v05ray.scheduling.drawing import Drawing
from v05ray.scheduling.fleet import Seen
from v05ray.scheduling.scaling import check_wanted
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
        from v05ray.actors.shard import local_drawing, start_shards
        from v05ray.scheduling.scheduler import RolloutScheduler
        from v05ray.scheduling.shards import Shards

        end_with_parent()
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        if config.generators.shards == 1:
            self._drawing: Drawing = local_drawing(config, rewards)
        else:
            self._drawing = Shards(start_shards(config, rewards, shard_places))
        self._scheduler = RolloutScheduler(self._drawing, config.budget, seed=config.run.seed)
        self._generators, self._config = generators, config.generators
        self._asked: int | None = None

    async def start(self) -> dict[str, str]:
        """Brings the generators up; returns every one's state once none is on its way any more."""
        self._drawing.add(self._generators)
        await self._drawing.until_ready()
        return {name: life.value for name, life in (await self._drawing.status()).lives.items()}

    async def look(self) -> Seen:
        """For the fleet."""
        status = await self._drawing.status()
        asked, self._asked = self._asked, None
        return Seen(status.load, status.lives, self._drawing.version, asked, status.num_lost_draws, status.num_restarts)

    async def add(self, generator: Generator) -> None:
        """Takes a replica in."""
        self._drawing.add([generator])

    async def drain(self, generator_id: str) -> None:
        """Gives a replica no more work and returns when it has finished what it had."""
        await self._drawing.drain(generator_id)

    async def ask(self, num_generators: int) -> None:
        """A person wants so many generators. Raises `ConfigError` for a number that the run does not allow."""
        check_wanted(self._config, num_generators)
        self._asked = num_generators

    async def run(self, batch: BatchRequest) -> AsyncIterator[RolloutGroup]:
        """Sealed groups, streamed."""
        async for group in self._scheduler.run(batch):
            yield group

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """Rollouts outside any budget."""
        return await self._scheduler.draw(request)

    async def load_weights(self, weights: Weights) -> UpdateReport:
        """Every generator serves this version from now on."""
        return await self._scheduler.load_weights(weights)

    async def status(self) -> dict[str, float]:
        """Counters for metrics."""
        return await self._scheduler.status()

    async def waiting(self) -> Sequence[Held]:
        """What generators and verifiers have not answered."""
        return await self._scheduler.waiting()

    async def state_dict(self) -> dict[str, Any]:
        """The budget rule's memory."""
        return await self._scheduler.state_dict()

    async def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        await self._scheduler.load_state_dict(state)


class RayScheduler:
    """Implements `ports.Scheduler` and `scheduling.fleet.Pool` over the actor."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.memory_mib: Mapping[str, float] = {}
        """Of every actor by role, as last heard; goes into the step's metrics."""

    async def start(self) -> dict[str, str]:
        """Waits for the generators."""
        return await self.actor.start.remote()

    async def look(self) -> Seen:
        """For the fleet."""
        return await self.actor.look.remote()

    async def add(self, generator: Generator) -> None:
        """Takes a replica in."""
        await self.actor.add.remote(generator)

    async def drain(self, generator_id: str) -> None:
        """Gives a replica no more work and returns when it has finished what it had."""
        await self.actor.drain.remote(generator_id)

    async def run(self, batch: BatchRequest) -> AsyncIterator[RolloutGroup]:
        """Sealed groups, each as soon as it is sealed."""
        async for reference in self.actor.run.remote(batch):
            yield await reference

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """Rollouts outside any budget."""
        return await self.actor.draw.remote(request)

    async def load_weights(self, weights: Weights) -> UpdateReport:
        """Every generator serves this version from now on."""
        return await self.actor.load_weights.remote(weights)

    async def status(self) -> dict[str, float]:
        """Counters for metrics, and every actor's memory."""
        memory = {f"perf/memory/{role}_mib": mib for role, mib in self.memory_mib.items()}
        return {**await self.actor.status.remote(), **memory}

    async def waiting(self) -> Sequence[Held]:
        """What generators and verifiers have not answered."""
        return await held_by(self.actor, "the scheduler")

    async def state_dict(self) -> dict[str, Any]:
        """The budget rule's memory."""
        return await self.actor.state_dict.remote()

    async def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        await self.actor.load_state_dict.remote(state)
