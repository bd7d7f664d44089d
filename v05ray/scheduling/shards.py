"""Several shards that draw and score, each with generators of its own, behind one interface.

Decisions are not sharded: the one scheduler makes them all, so the halt stays global and any number of shards decides
alike. A shard takes from the scheduler every message about a rollout that is not finished and scored.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from v05ray.ports import Generator, PendingCall, UpdateReport, Weights
from v05ray.scheduling.drawing import Drawing
from v05ray.scheduling.generators import NoGeneratorLeft
from v05ray.scheduling.snapshot import PoolSnapshot
from v05ray.stopping.outstanding import pending_calls
from v05ray.types import DrawRequest, Prompt, Rollout, ScoredRollout

T = TypeVar("T")

REPLY_S = 2.0
"""Below `outstanding.REPLY_S`, so that a frozen shard does not make the scheduler look frozen."""


@dataclass(eq=False)
class _Part:
    """One shard and what it has been given."""

    shard: Drawing
    generator_ids: list[str] = field(default_factory=list)
    """Its replicas that are not drained; emptied when they are all lost."""
    outstanding_tokens: int = 0
    no_room: bool = False
    """Whether they were lost because their nodes had no room for the weights."""

    def lose(self, error: NoGeneratorLeft) -> None:
        self.generator_ids.clear()
        self.no_room = error.no_room

    @property
    def per_generator(self) -> float:
        return self.outstanding_tokens / max(1, len(self.generator_ids))


class Shards:
    """Implements `Drawing` over several others: work goes to the shard with the least outstanding per generator."""

    def __init__(self, shards: Sequence[Drawing], *, reply_s: float = REPLY_S) -> None:
        """`reply_s`: a shard that does not reply within `reply_s` seconds is reported as the blocker."""
        if not shards:
            raise ValueError("needs >= 1 shard, got none")
        self._parts = [_Part(shard) for shard in shards]
        self._version, self._reply_s = 0, reply_s

    @property
    def version(self) -> int:
        """The weight version last sent to the shards."""
        return self._version

    def add(self, generators: Iterable[Generator]) -> None:
        """Deals the replicas out to the shards with the fewest."""
        for generator in generators:
            part = min(self._parts, key=lambda one: len(one.generator_ids))
            part.generator_ids.append(generator.generator_id)
            part.shard.add([generator])

    async def drain(self, generator_id: str) -> None:
        """Gives the replica no more work and returns when it has finished what it had."""
        part = self._holder(generator_id)
        if part is None:
            raise ValueError(f"no shard has a generator {generator_id!r}")
        part.generator_ids.remove(generator_id)
        await part.shard.drain(generator_id)

    async def until_ready(self) -> None:
        """Waits for every shard; one whose replicas are all lost gets no work, and only when all are it raises."""
        await self._on_all([part.shard.until_ready() for part in self._parts])

    async def load_weights(self, weights: Weights) -> UpdateReport:
        """Every shard; one whose replicas are all lost gets no work, and only when all are it raises."""
        self._version = weights.version
        reports = await self._on_all([part.shard.load_weights(weights) for part in self._parts])
        return UpdateReport(
            tuple(served for report in reports for served in report.served),
            tuple(barred for report in reports for barred in report.barred),
        )

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """The rollouts, not scored, from the shard with the least outstanding tokens per generator."""
        while True:
            part = self._least()
            try:
                with _Given(part, request):
                    return await part.shard.draw(request)
            except NoGeneratorLeft as error:
                self._lose(part, error)

    async def draw_scored(
        self, prompt: Prompt, request: DrawRequest, *, prefer: str | None = None
    ) -> list[ScoredRollout]:
        """On the shard that holds the prompt's prefix, unless its queue costs more than the prefix saves."""
        while True:
            part = self._least()
            kept = self._holder(prefer) if prefer else None
            if kept and kept.per_generator - part.per_generator <= len(request.token_ids):
                part = kept
            try:
                with _Given(part, request):
                    return await part.shard.draw_scored(prompt, request, prefer=prefer if part is kept else None)
            except NoGeneratorLeft as error:
                self._lose(part, error)

    async def abort(self, prompt_id: str) -> None:
        """Ends a prompt's work on every shard, as any may have drawn it."""
        await asyncio.gather(*(part.shard.abort(prompt_id) for part in self._parts))

    async def snapshot(self) -> PoolSnapshot:
        """All shards' replicas, and the sum of their work and losses."""
        parts = await asyncio.gather(*(part.shard.snapshot() for part in self._parts))
        return PoolSnapshot.combined(parts, self._version)

    async def waiting(self) -> Sequence[PendingCall]:
        """Pending calls of all shards; a shard itself, where it does not reply in time."""
        roles = {f"scheduler shard {index}": part.shard for index, part in enumerate(self._parts)}
        return await pending_calls(roles, within_s=self._reply_s)

    async def _on_all(self, calls: Sequence[Awaitable[T]]) -> list[T]:
        """The answers of those that still have a generator."""
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for part, answer in zip(self._parts, answers, strict=True):
            if isinstance(answer, NoGeneratorLeft):
                part.lose(answer)
            elif isinstance(answer, BaseException):
                raise answer
        self._staffed()
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    def _lose(self, part: _Part, error: NoGeneratorLeft) -> None:
        """Nothing more goes to a shard without generators; raises when it was the last one."""
        part.lose(error)
        self._staffed()

    def _staffed(self) -> list[_Part]:
        staffed = [part for part in self._parts if part.generator_ids]
        if not staffed:
            raise NoGeneratorLeft(
                f"no generator is left in any of {len(self._parts)} shards; see the generators' logs",
                no_room=any(part.no_room for part in self._parts),
            )
        return staffed

    def _least(self) -> _Part:
        return min(self._staffed(), key=lambda part: part.per_generator)

    def _holder(self, generator_id: str) -> _Part | None:
        return next((part for part in self._parts if generator_id in part.generator_ids), None)


class _Given:
    """Counts a request's tokens (an upper bound) as its shard's while the block runs."""

    def __init__(self, part: _Part, request: DrawRequest) -> None:
        self._load = part
        self._work = len(request.sample_indices) * (len(request.token_ids) + request.sampling.max_tokens)

    def __enter__(self) -> None:
        self._load.outstanding_tokens += self._work

    def __exit__(self, *_: object) -> None:
        self._load.outstanding_tokens -= self._work
