"""The value pool: one V0 per actor, queries of a batch shared out among them."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from v05ray.config import ValueConfig
from v05ray.outstanding import Outstanding
from v05ray.ports import Held
from v05ray.types import Prior, Prompt, SupportExample


class ValueActor:
    """Predictions are a pure function of their arguments, so a call lost with the actor is simply made again."""

    def __init__(self, config: ValueConfig, cache: Path) -> None:
        from v05ray.value.model import ValueModel

        self._model = ValueModel.load(config, cache=cache)

    def describe(self) -> str:
        """One line: which backend, and why."""
        return self._model.choice

    def predict(
        self, prompts: Sequence[Prompt], support: Sequence[SupportExample], policy_version: int, seed: int
    ) -> list[Prior]:
        """One prior per prompt, in order."""
        return self._model.predict(prompts, support, policy_version=policy_version, seed=seed)


class RayValuePool:
    """Implements `ports.ValuePool`."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self.actors = list(actors)
        self._given = Outstanding()

    async def describe(self) -> str:
        """One line: which backend, and why."""
        return await self.actors[0].describe.remote()

    async def predict(
        self, prompts: Sequence[Prompt], support: Sequence[SupportExample], *, policy_version: int, seed: int
    ) -> list[Prior]:
        """The batch in as many parts as there are actors; the support travels to the object store once."""
        shared = ray.put(list(support))
        size = -(-len(prompts) // len(self.actors))
        parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        answers = await asyncio.gather(
            *(
                self._call(index, actor.predict.remote(part, shared, policy_version, seed))
                for index, (actor, part) in enumerate(zip(self.actors, parts, strict=False))
            )
        )
        return [prior for part in answers for prior in part]

    async def waiting(self) -> Sequence[Held]:
        """Actors that have not answered."""
        return self._given.held()

    async def _call(self, index: int, reference: Any) -> list[Prior]:
        with self._given(f"value-{index}", "prediction"):
            return await reference
