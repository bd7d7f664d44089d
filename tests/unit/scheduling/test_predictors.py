"""The value pool on predictors in this process, and the generators' fleet and policy that make it grow and shrink."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import make_prompt
from v05ray.config import ValueConfig
from v05ray.scheduling.fleet import Fleet
from v05ray.scheduling.predictors import CHUNK, PredictorPool, _parts, chunks
from v05ray.scheduling.scaling import ScalingPolicy
from v05ray.scheduling.snapshot import ReplicaState
from v05ray.types import Prior, Prompt, SupportExample

SUPPORT = [SupportExample("s", "question s", 0.3, 0)]


@dataclass
class FakePredictor:
    """A prior depends on the prompt, the seed and who was in the same chunk, as V0's last bits do."""

    predictor_id: str
    latency_s: float = 0.0
    """Of one prompt."""
    asked: list[int] = field(default_factory=list)
    """Prompts of each call."""
    model: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.model.set()

    async def ready(self) -> None:
        await self.model.wait()

    async def predict(
        self, prompts: Sequence[Prompt], support: Sequence[SupportExample], *, policy_version: int, seed: int
    ) -> list[Prior]:
        self.asked.append(len(prompts))
        await asyncio.sleep(self.latency_s * len(prompts))
        return [
            Prior(one.prompt_id, hash((one.prompt_id, seed, tuple(p.prompt_id for p in part))) % 1000 / 1000, 0)
            for part in chunks(prompts)
            for one in part
        ]


def prompts_of(count: int) -> list[Prompt]:
    return [make_prompt(f"p{index}") for index in range(count)]


async def ask(pool: PredictorPool, count: int) -> list[Prior]:
    return await pool.predict(prompts_of(count), SUPPORT, policy_version=0, seed=7)


@given(st.integers(0, 300), st.integers(1, 9))
def test_parts_are_whole_chunks_in_order_and_even(num_prompts: int, count: int):
    prompts = prompts_of(num_prompts)
    parts = _parts(prompts, count)
    assert [one for part in parts for one in part] == prompts
    assert all(len(part) % CHUNK == 0 for part in parts[:-1])
    assert [chunk for part in parts for chunk in chunks(part)] == chunks(prompts)
    sizes = [len(chunks(part)) for part in parts]
    assert len(parts) == min(count, len(chunks(prompts)))
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


async def test_any_number_of_predictors_and_a_growth_in_between_give_the_same_bits():
    alone = await ask(PredictorPool([FakePredictor("value-0")]), 100)
    three = [FakePredictor(f"value-{index}") for index in range(3)]
    pool = PredictorPool(three[:1])
    for newcomer in (None, *three[1:]):
        if newcomer:
            await pool.add(newcomer)
        assert await ask(pool, 100) == alone
    # 7 chunks: 6 x 16 and 4
    assert [one.asked for one in three] == [[100, 48, 32], [52, 32], [36]]


async def test_a_newcomer_gets_nothing_before_its_model_is_there():
    late = FakePredictor("value-1")
    late.model.clear()
    pool = PredictorPool([FakePredictor("value-0")])
    adding = asyncio.create_task(pool.add(late))
    await ask(pool, 64)
    assert late.asked == []
    late.model.set()
    await adding
    await ask(pool, 64)
    assert late.asked == [32]


async def test_a_leaver_answers_what_it_has_and_gets_no_more():
    slow = [FakePredictor(f"value-{index}", latency_s=0.01) for index in range(2)]
    pool = PredictorPool(slow)
    asking = asyncio.create_task(ask(pool, 64))
    await asyncio.sleep(0)
    leaving = asyncio.create_task(pool.drain("value-1"))
    await asyncio.sleep(0.005)
    assert not leaving.done()
    assert [one.actor for one in await pool.waiting()] == ["value-0", "value-1"]
    assert len(await asking) == 64
    await leaving
    await ask(pool, 64)
    assert [one.asked for one in slow] == [[32, 64], [32]]


@dataclass
class FailingPredictor(FakePredictor):
    """Fails after a while."""

    async def predict(self, *_: Any, **__: Any) -> list[Prior]:
        await asyncio.sleep(0.01)
        raise RuntimeError("out of memory")


async def test_a_leaver_whose_prediction_fails_is_drained_all_the_same():
    pool = PredictorPool([FakePredictor("value-0"), FailingPredictor("value-1")])
    asking = asyncio.create_task(ask(pool, 64))
    await asyncio.sleep(0)
    leaving = asyncio.create_task(pool.drain("value-1"))
    with pytest.raises(RuntimeError, match="out of memory"):
        await asking
    async with asyncio.timeout(2):
        await leaving
    assert (await pool.snapshot()).replicas == {"value-0": ReplicaState.READY, "value-1": ReplicaState.GONE}


@dataclass
class Places:
    """Every place is there at once."""

    held: dict[str, FakePredictor] = field(default_factory=dict)

    async def take(self, name: str) -> FakePredictor:
        self.held[name] = FakePredictor(name, latency_s=0.0005)
        return self.held[name]

    async def give_back(self, name: str) -> None:
        del self.held[name]


async def test_batches_that_take_too_long_bring_actors_and_short_ones_send_them_away():
    # A prompt takes .5 ms, a batch of 256 .128 s of one actor: .05 s are left to those there are, so 3 are wanted.
    config = ValueConfig(max_pool_size=3, target_backlog_s=0.05, sustain_s=0.05, hold_s=0.2, cooldown_s=0.05)
    events: list[tuple[str, Any]] = []
    places, first = Places(), FakePredictor("value-0", latency_s=0.0005)
    pool = PredictorPool([first])
    fleet = Fleet(ScalingPolicy(config), pool, places, ["value-0"], lambda *event: events.append(event), kind="value")
    state = await fleet.tick()
    async with asyncio.timeout(20):
        while list(state.replicas.values()) != ["ready"] * 3:
            await ask(pool, 256)
            state = await fleet.tick()
        assert sorted(state.replicas) == ["value-0", "value-1", "value-2"]
        answers = await ask(pool, 256)
        while list(state.replicas) != ["value-0"]:
            await ask(pool, 16)
            state = await fleet.tick()
    assert places.held == {}
    assert first.asked[-1] == 16
    assert answers == await ask(PredictorPool([FakePredictor("value-9")]), 256)
    said = [(name, what.get("value", what.get("values"))) for name, what in events]
    assert ("placing", "value-1") in said
    assert said[-1][0] == "gone"
    await fleet.close()


def test_the_bounds_default_to_the_size_and_must_hold_it():
    assert (ValueConfig(pool_size=2).fewest, ValueConfig(pool_size=2).most) == (2, 2)
    with pytest.raises(ValueError, match="pool_size <= max_pool_size must hold: 3, 2"):
        ValueConfig(pool_size=3, max_pool_size=2)
    with pytest.raises(ValueError, match="needs >= 1 predictor"):
        PredictorPool([])
