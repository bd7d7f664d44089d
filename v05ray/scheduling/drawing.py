"""Draw and score: everything about a batch that is not a decision. The scheduler asks a `Drawing` and decides.

One process does it for a few dozen generators (`LocalDrawing`). Where that process is too slow for what its generators
produce, several shards do it, each with generators of its own (`Shards`): the scheduler then handles finished, scored
draws alone, and still decides by itself, so any number of shards gives the same decisions and one global halt.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from v05ray.ports import Generator, Held, RewardPool, UpdateReport, Weights
from v05ray.scheduling.generators import GeneratorPool, Life
from v05ray.scheduling.scaling import Load
from v05ray.stopping.outstanding import WatchedRewards
from v05ray.types import DrawRequest, Prompt, Rollout, ScoredRollout


@dataclass(frozen=True, slots=True)
class DrawingStatus:
    """What there is and what happened since the start."""

    lives: Mapping[str, Life]
    """By generator id."""
    outstanding_tokens: int
    """Upper bound of the tokens the generators still have to process."""
    num_lost_draws: int
    num_restarts: int
    num_barred: int
    """Weight updates after which a generator served something else."""
    load: Load
    """For the scaling policy."""


class Drawing(Protocol):
    """Generators and verifiers behind one door."""

    @property
    def version(self) -> int:
        """The weight version that draws are served at."""
        ...

    def add(self, generators: Iterable[Generator]) -> None:
        """Takes replicas in; each gets work once it is up and serves the current version."""
        ...

    async def drain(self, generator_id: str) -> None:
        """Gives the replica no more work and returns when it has finished what it had."""
        ...

    async def until_ready(self) -> None:
        """Returns when no replica is on its way up any more; raises `PoolExhausted` if none made it."""
        ...

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """The request's rollouts, not scored."""
        ...

    async def draw_scored(
        self, prompt: Prompt, request: DrawRequest, *, prefer: str | None = None
    ) -> list[ScoredRollout]:
        """The request's rollouts in order, all scored. `prefer` names the generator that holds the prompt's prefix."""
        ...

    async def abort(self, prompt_id: str) -> None:
        """Ends a prompt's work wherever it is; its draws must have been cancelled before."""
        ...

    async def load_weights(self, weights: Weights) -> UpdateReport:
        """Every generator serves `weights` or is out of service until it does."""
        ...

    async def status(self) -> DrawingStatus:
        """What there is and what happened."""
        ...

    async def waiting(self) -> Sequence[Held]:
        """What generators and verifiers were asked and have not answered."""
        ...


class LocalDrawing:
    """Implements `Drawing` in this process."""

    def __init__(self, pool: GeneratorPool, rewards: RewardPool) -> None:
        self._pool, self._rewards = pool, WatchedRewards(rewards)

    @property
    def version(self) -> int:
        """The pool's."""
        return self._pool.version

    def add(self, generators: Iterable[Generator]) -> None:
        """Takes replicas in."""
        self._pool.add(generators)

    async def drain(self, generator_id: str) -> None:
        """Lets a replica finish and go."""
        await self._pool.drain(generator_id)

    async def until_ready(self) -> None:
        """Waits for the replicas."""
        await self._pool.until_ready()

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """On the generator with least to do."""
        return await self._pool.draw(request)

    async def draw_scored(
        self, prompt: Prompt, request: DrawRequest, *, prefer: str | None = None
    ) -> list[ScoredRollout]:
        """Draws, then scores all rollouts together."""
        rollouts = await self._pool.draw(request, prefer=prefer)
        return list(await asyncio.gather(*(self._rewards.score(prompt, rollout) for rollout in rollouts)))

    async def abort(self, prompt_id: str) -> None:
        """Ends a prompt's work."""
        await self._pool.abort(prompt_id)

    async def load_weights(self, weights: Weights) -> UpdateReport:
        """Every generator of the pool."""
        return await self._pool.load_weights(weights)

    async def status(self) -> DrawingStatus:
        """The pool's."""
        pool = self._pool
        return DrawingStatus(
            pool.lives(),
            pool.outstanding_tokens,
            pool.num_lost_draws,
            pool.num_restarts,
            pool.num_barred,
            pool.load(),
        )

    async def waiting(self) -> Sequence[Held]:
        """The pool's draws and the verdicts."""
        return [*self._pool.held(), *await self._rewards.waiting()]
