"""Several shards that draw and score, each with generators of its own, behind one door.

Decisions are not sharded: the one scheduler makes them all, so the halt stays global and any number of shards decides
alike. What a shard takes off it is every message about a rollout that is not finished and scored.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from v05ray.ports import Generator, Held, UpdateReport, Weights
from v05ray.scheduling.drawing import Drawing, DrawingStatus
from v05ray.scheduling.generators import NoGeneratorLeft
from v05ray.scheduling.scaling import Load
from v05ray.stopping.outstanding import ask_all
from v05ray.types import DrawRequest, Prompt, Rollout, ScoredRollout

T = TypeVar("T")

ASK_S = 2.0
"""Below `outstanding.ASK_S`: who asks the scheduler must not take it for frozen because one of its shards is."""


@dataclass(eq=False)
class _Load:
    """One shard and what it has been given."""

    shard: Drawing
    generator_ids: list[str] = field(default_factory=list)
    """Its replicas that are not drained; emptied when they are all lost."""
    outstanding_tokens: int = 0
    no_room: bool = False
    """Why they were lost."""

    def lose(self, error: NoGeneratorLeft) -> None:
        self.generator_ids.clear()
        self.no_room = error.no_room

    @property
    def per_generator(self) -> float:
        return self.outstanding_tokens / max(1, len(self.generator_ids))


class Shards:
    """Implements `Drawing` over several others: work goes to the shard with the least outstanding per generator."""

    def __init__(self, shards: Sequence[Drawing], *, ask_s: float = ASK_S) -> None:
        """`ask_s`: a shard that does not reply within `ask_s` seconds is reported as the blocker."""
        if not shards:
            raise ValueError("needs >= 1 shard, got none")
        self._loads = [_Load(shard) for shard in shards]
        self._version, self._ask_s = 0, ask_s

    @property
    def version(self) -> int:
        """What all shards serve."""
        return self._version

    def add(self, generators: Iterable[Generator]) -> None:
        """Deals the replicas out to the shards with the fewest."""
        for generator in generators:
            load = min(self._loads, key=lambda one: len(one.generator_ids))
            load.generator_ids.append(generator.generator_id)
            load.shard.add([generator])

    async def drain(self, generator_id: str) -> None:
        """Lets a replica finish and go."""
        load = self._holder(generator_id)
        if load is None:
            raise ValueError(f"no shard has a generator {generator_id!r}")
        load.generator_ids.remove(generator_id)
        await load.shard.drain(generator_id)

    async def until_ready(self) -> None:
        """Waits for every shard; one whose replicas are all lost gets no work, and only when all are it raises."""
        await self._on_all([load.shard.until_ready() for load in self._loads])

    async def load_weights(self, weights: Weights) -> UpdateReport:
        """Every shard; one whose replicas are all lost gets no work, and only when all are it raises."""
        self._version = weights.version
        reports = await self._on_all([load.shard.load_weights(weights) for load in self._loads])
        return UpdateReport(
            tuple(served for report in reports for served in report.served),
            tuple(barred for report in reports for barred in report.barred),
        )

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """On the shard with least to do."""
        while True:
            load = self._least()
            try:
                with _Given(load, request):
                    return await load.shard.draw(request)
            except NoGeneratorLeft as error:
                self._lose(load, error)

    async def draw_scored(
        self, prompt: Prompt, request: DrawRequest, *, prefer: str | None = None
    ) -> list[ScoredRollout]:
        """On the shard that holds the prompt's prefix, unless its queue costs more than the prefix saves."""
        while True:
            load = self._least()
            kept = self._holder(prefer) if prefer else None
            if kept and kept.per_generator - load.per_generator <= len(request.token_ids):
                load = kept
            try:
                with _Given(load, request):
                    return await load.shard.draw_scored(prompt, request, prefer=prefer if load is kept else None)
            except NoGeneratorLeft as error:
                self._lose(load, error)

    async def abort(self, prompt_id: str) -> None:
        """On every shard."""
        await asyncio.gather(*(load.shard.abort(prompt_id) for load in self._loads))

    async def status(self) -> DrawingStatus:
        """The sum of all shards."""
        parts = await asyncio.gather(*(load.shard.status() for load in self._loads))
        return DrawingStatus(
            {name: life for part in parts for name, life in part.lives.items()},
            sum(part.outstanding_tokens for part in parts),
            sum(part.num_lost_draws for part in parts),
            sum(part.num_restarts for part in parts),
            sum(part.num_barred for part in parts),
            Load.combined(part.load for part in parts),
        )

    async def waiting(self) -> Sequence[Held]:
        """What all shards wait for; a shard itself, where it does not answer."""
        roles = {f"scheduler shard {index}": load.shard for index, load in enumerate(self._loads)}
        return await ask_all(roles, within_s=self._ask_s)

    async def _on_all(self, calls: Sequence[Awaitable[T]]) -> list[T]:
        """The answers of those that still have a generator."""
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for load, answer in zip(self._loads, answers, strict=True):
            if isinstance(answer, NoGeneratorLeft):
                load.lose(answer)
            elif isinstance(answer, BaseException):
                raise answer
        self._staffed()
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    def _lose(self, load: _Load, error: NoGeneratorLeft) -> None:
        """Nothing more goes to a shard without generators; raises when it was the last one."""
        load.lose(error)
        self._staffed()

    def _staffed(self) -> list[_Load]:
        staffed = [load for load in self._loads if load.generator_ids]
        if not staffed:
            raise NoGeneratorLeft(
                f"no generator is left in any of {len(self._loads)} shards; see the generators' logs",
                no_room=any(load.no_room for load in self._loads),
            )
        return staffed

    def _least(self) -> _Load:
        return min(self._staffed(), key=lambda load: load.per_generator)

    def _holder(self, generator_id: str) -> _Load | None:
        return next((load for load in self._loads if generator_id in load.generator_ids), None)


class _Given:
    """Counts a request's tokens (an upper bound) as its shard's while the block runs."""

    def __init__(self, load: _Load, request: DrawRequest) -> None:
        self._load = load
        self._work = len(request.sample_indices) * (len(request.token_ids) + request.sampling.max_tokens)

    def __enter__(self) -> None:
        self._load.outstanding_tokens += self._work

    def __exit__(self, *_: object) -> None:
        self._load.outstanding_tokens -= self._work
