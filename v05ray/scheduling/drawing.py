"""Draw and score: everything about a batch that is not a decision. The scheduler asks a `Drawing` and decides.

One process does it for a few dozen generators (`GeneratorPool`). Where that process is too slow for what its generators
produce, several shards do it, each with generators of its own (`Shards`): the scheduler then handles finished, scored
draws alone, and still decides by itself, so any number of shards gives the same decisions and one global halt.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from v05ray.ports import Generator, PendingCall, UpdateReport, Weights
from v05ray.scheduling.snapshot import PoolSnapshot
from v05ray.types import DrawRequest, Prompt, Rollout, ScoredRollout


class Drawing(Protocol):
    """Generators and verifiers behind one interface."""

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
        """The request's rollouts in order, each played to its end and scored.

        `prefer` names the generator that holds the prompt's prefix.
        """
        ...

    async def abort(self, prompt_id: str) -> None:
        """Ends a prompt's work wherever it is; its draws must have been cancelled before."""
        ...

    async def load_weights(self, weights: Weights) -> UpdateReport:
        """Every generator serves `weights` or is out of service until it does."""
        ...

    async def snapshot(self) -> PoolSnapshot:
        """The replicas' states, the work so far and the losses; without a manual target."""
        ...

    async def waiting(self) -> Sequence[PendingCall]:
        """Calls that generators and verifiers have not answered."""
        ...
