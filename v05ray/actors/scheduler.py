"""The scheduler actor: a `RolloutScheduler` and its generator pool in a process of their own."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from v05ray.config import Config
from v05ray.ports import BatchRequest, Generator, RewardPool, Weights
from v05ray.types import DrawRequest, Rollout, RolloutGroup

QUEUE_FACTOR = 2
"""Rollouts a generator is given per sequence it can run at once: its engine never waits for the next one to arrive."""


class SchedulerActor:
    """Owns the generators: it starts them, and they end with it."""

    def __init__(self, config: Config, rewards: RewardPool, generators: Sequence[Generator]) -> None:
        from v05ray.scheduling.pool import GeneratorPool
        from v05ray.scheduling.scheduler import RolloutScheduler

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._pool = GeneratorPool(
            draw_timeout_s=config.generators.draw_timeout_s,
            max_outstanding_seqs=QUEUE_FACTOR * config.generators.max_num_seqs,
        )
        self._scheduler = RolloutScheduler(self._pool, rewards, config.budget, seed=config.run.seed)
        self._generators = generators

    async def start(self) -> dict[str, str]:
        """Brings the generators up; returns every one's state once none is on its way any more."""
        self._pool.add(self._generators)
        await self._pool.until_ready()
        return {name: life.value for name, life in self._pool.lives().items()}

    async def run(self, batch: BatchRequest) -> AsyncIterator[RolloutGroup]:
        """Sealed groups, streamed."""
        async for group in self._scheduler.run(batch):
            yield group

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """Rollouts outside any budget."""
        return await self._scheduler.draw(request)

    async def load_weights(self, weights: Weights) -> None:
        """Every generator serves this version from now on."""
        await self._scheduler.load_weights(weights)

    async def status(self) -> dict[str, float]:
        """Counters for metrics."""
        return await self._scheduler.status()

    async def state_dict(self) -> dict[str, Any]:
        """The budget rule's memory."""
        return await self._scheduler.state_dict()

    async def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        await self._scheduler.load_state_dict(state)


class RayScheduler:
    """Implements `ports.Scheduler` over the actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def start(self) -> dict[str, str]:
        """Waits for the generators."""
        return await self._actor.start.remote()

    async def run(self, batch: BatchRequest) -> AsyncIterator[RolloutGroup]:
        """Sealed groups, each as soon as it is sealed."""
        async for reference in self._actor.run.remote(batch):
            yield await reference

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """Rollouts outside any budget."""
        return await self._actor.draw.remote(request)

    async def load_weights(self, weights: Weights) -> None:
        """Every generator serves this version from now on."""
        await self._actor.load_weights.remote(weights)

    async def status(self) -> dict[str, float]:
        """Counters for metrics."""
        return await self._actor.status.remote()

    async def state_dict(self) -> dict[str, Any]:
        """The budget rule's memory."""
        return await self._actor.state_dict.remote()

    async def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        await self._actor.load_state_dict.remote(state)
