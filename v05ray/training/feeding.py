"""Sealed groups to train samples, and samples to the learners while more are made."""

import asyncio
from collections.abc import Sequence
from typing import Literal

from v05ray.advantages import Advantages
from v05ray.ports import LearnerGroup
from v05ray.training.metrics import Stopwatch
from v05ray.types import RolloutGroup, TrainSample


class Feeder:
    """Passes samples on to the learners while more are made: `put` never waits, leaving the block does."""

    def __init__(self, learners: LearnerGroup, stream_tokens: int, clock: Stopwatch) -> None:
        self._learners, self._stream_tokens, self._clock = learners, stream_tokens, clock
        self._waiting: list[TrainSample] = []
        self._num_tokens = 0
        self.num_samples = 0
        """All that were put."""
        self._last: asyncio.Task[None] | None = None

    def put(self, samples: Sequence[TrainSample]) -> None:
        """Raises what an earlier call of the learners raised, as soon as that is known."""
        if self._last is not None and self._last.done():
            self._last.result()
        self._waiting.extend(samples)
        self.num_samples += len(samples)
        self._num_tokens += sum(len(sample.response_ids) for sample in samples)
        if self._stream_tokens and self._num_tokens >= self._stream_tokens:
            self._flush()

    def _flush(self) -> None:
        samples, self._waiting, self._num_tokens = self._waiting, [], 0
        self._last = asyncio.create_task(self._send(samples, after=self._last))

    async def _send(self, samples: Sequence[TrainSample], after: asyncio.Task[None] | None) -> None:
        if after is not None:
            await after  # in order, so that the same groups give the same sums; and an error is seen
        with self._clock("learn"):
            await self._learners.accumulate(samples)

    async def __aenter__(self) -> "Feeder":
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            if self._waiting:
                self._flush()
            if self._last is not None:
                await self._last
        elif self._last is not None:
            self._last.cancel()


def train_samples(
    group: RolloutGroup, computed: Advantages, *, truncated: Literal["learn", "leave_out"] = "learn"
) -> list[TrainSample]:
    """One sample per rollout that is to be trained on, its advantage on every token, its observations masked out.

    `truncated` says what becomes of responses cut off at the longest length.
    """
    return [
        TrainSample(
            prompt_id=group.prompt.prompt_id,
            prompt_ids=group.prompt.token_ids,
            response_ids=one.rollout.token_ids,
            logprobs=one.rollout.logprobs,
            advantages=(value,) * len(one.rollout.token_ids),
            loss_mask=one.rollout.loss_mask,
            policy_version=one.rollout.policy_version,
        )
        for index, (one, value) in enumerate(zip(group.scored, computed.values, strict=True))
        if index not in computed.dropped and (truncated == "learn" or one.rollout.finish_reason != "length")
    ]
