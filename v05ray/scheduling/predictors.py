"""The value pool: predictors that come and go behind one port.

    predict(prompts) --> CHUNK prompts each --> as many runs of chunks as predictors are READY --> priors, in order

A prior is a function of prompt, support and seed. In floating point it also depends, by rounding, on which prompts are
computed together: those of its chunk, whichever predictor computes it. So any number of predictors gives the same bits.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from v05ray.ports import PendingCall
from v05ray.scheduling.scaling import WorkMeter
from v05ray.scheduling.snapshot import PoolSnapshot, ReplicaState
from v05ray.stopping.outstanding import Outstanding
from v05ray.types import Prior, Prompt, SupportExample

CHUNK = 16
"""Prompts that are computed together."""


class Predictor(Protocol):
    """One copy of the value model, in an actor of its own."""

    @property
    def predictor_id(self) -> str: ...  # noqa: D102

    async def ready(self) -> None:
        """Returns once its model is loaded."""
        ...

    async def predict(
        self, prompts: Sequence[Prompt], support: Sequence[SupportExample], *, policy_version: int, seed: int
    ) -> list[Prior]:
        """One prior per prompt, in order; `CHUNK` of them at a time, from the first on."""
        ...


class PredictorPool:
    """Implements `ports.ValuePool`, and `fleet.Pool` for what makes it grow and shrink."""

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        """These are taken to be up; at least one."""
        if not predictors:
            raise ValueError("needs >= 1 predictor, got none")
        self._predictors = {one.predictor_id: one for one in predictors}
        self._states = dict.fromkeys(self._predictors, ReplicaState.READY)
        self._num_parts = dict.fromkeys(self._predictors, 0)
        """Parts that each has been given and has not answered."""
        self._answered = asyncio.Condition()
        self._given, self._meter = Outstanding(), WorkMeter()
        self._meter.ready(len(self._predictors))

    async def predict(
        self, prompts: Sequence[Prompt], support: Sequence[SupportExample], *, policy_version: int, seed: int
    ) -> list[Prior]:
        """One prior per prompt, in order; the prompts are shared evenly among the READY predictors."""
        ready = [name for name, state in self._states.items() if state is ReplicaState.READY]
        parts = _parts(prompts, len(ready))
        self._meter.asked(len(prompts))
        asked = (
            self._predict_part(name, part, support, policy_version, seed)
            for name, part in zip(ready, parts, strict=False)  # fewer parts where prompts are few
        )
        answers = await asyncio.gather(*asked)
        return [prior for part in answers for prior in part]

    async def waiting(self) -> Sequence[PendingCall]:
        """Predictions that are out."""
        return self._given.pending()

    async def snapshot(self) -> PoolSnapshot:
        """Work is counted in prompts, where generators count tokens."""
        return PoolSnapshot(self._meter.read(), dict(self._states), 0)

    async def add(self, predictor: Predictor) -> None:
        """Takes another one in, once it is up; it gets its share from the next batch on."""
        await predictor.ready()
        self._predictors[predictor.predictor_id] = predictor
        self._num_parts[predictor.predictor_id] = 0
        self._mark(predictor.predictor_id, ReplicaState.READY)

    async def drain(self, predictor_id: str) -> None:
        """Gives it no more work and returns when it has answered what it had."""
        self._mark(predictor_id, ReplicaState.DRAINING)
        async with self._answered:
            await self._answered.wait_for(lambda: self._num_parts[predictor_id] == 0)
        self._mark(predictor_id, ReplicaState.GONE)
        del self._predictors[predictor_id], self._num_parts[predictor_id]

    def _mark(self, predictor_id: str, state: ReplicaState) -> None:
        self._states[predictor_id] = state
        self._meter.ready(sum(state is ReplicaState.READY for state in self._states.values()))

    async def _predict_part(
        self, name: str, part: Sequence[Prompt], support: Sequence[SupportExample], policy_version: int, seed: int
    ) -> list[Prior]:
        num_answered = None
        self._num_parts[name] += 1
        try:
            with self._given(name, "prediction", count=len(part)):
                answers = await self._predictors[name].predict(part, support, policy_version=policy_version, seed=seed)
            num_answered = len(part)
        finally:
            self._num_parts[name] -= 1
            self._meter.ended(len(part), num_answered)
            async with self._answered:  # also after a failure: `drain` waits until nothing is outstanding
                self._answered.notify_all()
        return answers


def chunks(prompts: Sequence[Prompt]) -> list[Sequence[Prompt]]:
    """The prompts in groups of `CHUNK`, each computed together."""
    return [prompts[start : start + CHUNK] for start in range(0, len(prompts), CHUNK)]


def _parts(prompts: Sequence[Prompt], count: int) -> list[Sequence[Prompt]]:
    """At most `count` parts of whole chunks, as even as chunks allow, in order."""
    num_chunks = -(-len(prompts) // CHUNK)
    ends = [CHUNK * (num_chunks * (index + 1) // count) for index in range(count)]
    parts = [prompts[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return [part for part in parts if part]
