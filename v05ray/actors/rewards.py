"""The reward actor: a `VerifierPool` in a process of its own, and the port that others score through."""

import asyncio
from collections.abc import Sequence
from typing import Any

from ray.exceptions import RayError

from v05ray.actors.lifeline import end_with_parent
from v05ray.config import RewardsConfig
from v05ray.types import Prompt, Rollout, ScoredRollout


class RewardActor:
    """Scoring is a pure function of prompt and response, so a call lost with the actor is simply made again."""

    def __init__(self, config: RewardsConfig) -> None:
        from v05ray.rewards.pool import VerifierPool

        end_with_parent()
        self._pool = VerifierPool(config)

    async def ready(self) -> None:
        """Starts the verifier processes; raises `ConfigError` for a verifier that cannot be built."""
        await self._pool.start()

    async def score_many(self, pairs: Sequence[tuple[Prompt, Rollout]]) -> list[ScoredRollout]:
        """One verdict per (prompt, rollout), in order."""
        return list(await asyncio.gather(*(self._pool.score(prompt, rollout) for prompt, rollout in pairs)))

    async def stats(self) -> dict[str, float]:
        """Counts by verdict, and the queue."""
        return dict(self._pool.stats())

    async def close(self) -> None:
        """Ends the verifier processes."""
        await asyncio.to_thread(self._pool.close)


class RayRewardPool:
    """Implements `ports.RewardPool` over the actor; requests of one turn of the event loop travel in one call."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self._waiting: list[tuple[tuple[Prompt, Rollout], asyncio.Future[ScoredRollout]]] = []
        self._calls: set[asyncio.Task[None]] = set()

    def __reduce__(self) -> tuple[type["RayRewardPool"], tuple[Any]]:
        return RayRewardPool, (self.actor,)

    async def ready(self) -> None:
        """Returns once the verifiers are built; raises the `ConfigError` of one that cannot be."""
        await self.actor.ready.remote()

    async def score(self, prompt: Prompt, rollout: Rollout) -> ScoredRollout:
        """The verdict; calls of one turn of the event loop travel together."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ScoredRollout] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._send)
        self._waiting.append(((prompt, rollout), future))
        return await future

    def _send(self) -> None:
        call = asyncio.get_running_loop().create_task(self._score_many(self._waiting))
        self._waiting = []
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _score_many(
        self, waiting: Sequence[tuple[tuple[Prompt, Rollout], asyncio.Future[ScoredRollout]]]
    ) -> None:
        try:
            verdicts = await self.actor.score_many.remote([pair for pair, _ in waiting])
        except RayError as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), verdict in zip(waiting, verdicts, strict=True):
            if not future.done():
                future.set_result(verdict)
