"""A generator whose work is done by a Ray actor without an engine: real processes, real deaths, scripted rewards."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from tests.fakes import FakeGenerator
from v05ray.ports import GeneratorLost, Served, Weights
from v05ray.types import DrawRequest, Rollout


class StubEngine:
    """`FakeGenerator` in a process of its own; can die at its n-th draw."""

    def __init__(self, name: str, rewards: Mapping[str, Sequence[float]], latency: float, die_at: int | None) -> None:
        self._fake = FakeGenerator(rewards, name, latency=latency)
        self._die_at = die_at

    async def ready(self) -> None:
        await self._fake.ready()

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        if self._die_at is not None and len(self._fake.requests) >= self._die_at:
            os._exit(1)
        return await self._fake.draw(request)

    async def load_weights(self, weights: Weights) -> Served:
        await asyncio.gather(*weights.payload)
        return await self._fake.load_weights(weights)


def start_engine(*arguments: Any) -> Any:
    """The handle of a fresh actor; `arguments` are those of `StubEngine`."""
    return ray.remote(StubEngine).options(num_cpus=0, max_concurrency=1000).remote(*arguments)


class StubGenerator:
    """Implements `ports.Generator` over `StubEngine`."""

    def __init__(
        self, name: str, rewards: Mapping[str, Sequence[float]], *, latency: float = 0.0, die_at: int | None = None
    ) -> None:
        self._name, self._rewards, self._latency, self._die_at = name, rewards, latency, die_at
        self._actor: Any = None

    @property
    def generator_id(self) -> str:
        return self._name

    async def ready(self) -> None:
        if self._actor is None:
            self._actor = start_engine(self._name, self._rewards, self._latency, self._die_at)
        await self._call("ready")

    async def restart(self) -> None:
        ray.kill(self._actor)
        self._actor = start_engine(self._name, self._rewards, self._latency, None)

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        return await self._call("draw", request)

    async def abort(self, prompt_id: str) -> None:
        return None

    async def load_weights(self, weights: Weights) -> Served:
        return await self._call("load_weights", weights)

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await getattr(self._actor, method).remote(*arguments)
        except RayActorError as error:
            raise GeneratorLost(self._name) from error
