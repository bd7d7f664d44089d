import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import FakeGenerator, FakeRewardPool, make_prompt, make_request
from v05ray.config import GeneratorsConfig
from v05ray.errors import ConfigError
from v05ray.ports import Generator, Weights
from v05ray.scheduling.fleet import Fleet
from v05ray.scheduling.generators import GeneratorPool
from v05ray.scheduling.scaling import ScalingPolicy
from v05ray.scheduling.snapshot import PoolSnapshot, ReplicaState

REWARDS = {f"p{i}": [1.0, -1.0] for i in range(8)}


@dataclass
class FakePlaces:
    """Places that are there when `room` is set; remembers which are held."""

    held: dict[str, FakeGenerator] = field(default_factory=dict)
    room: asyncio.Event = field(default_factory=asyncio.Event)
    latency: float = 0.03

    async def take(self, name: str) -> Generator:
        await self.room.wait()
        self.held[name] = FakeGenerator(REWARDS, name, latency=self.latency)
        return self.held[name]

    async def give_back(self, name: str) -> None:
        self.held.pop(name).lose()


@dataclass
class Watched:
    """A pool as the scheduler shows it."""

    pool: GeneratorPool
    asked: int | None = None

    async def snapshot(self) -> PoolSnapshot:
        asked, self.asked = self.asked, None
        return replace(await self.pool.snapshot(), manual_target=asked)

    async def add(self, generator: Generator) -> None:
        self.pool.add([generator])

    async def drain(self, generator_id: str) -> None:
        await self.pool.drain(generator_id)


@dataclass
class Stage:
    fleet: Fleet
    pool: GeneratorPool
    scheduler: Watched
    places: FakePlaces
    events: list[tuple[str, object]]

    async def settle(self, asked: int | None = None) -> Mapping[str, str]:
        """Ticks until nothing changes any more."""
        self.scheduler.asked = asked
        state = await self.fleet.tick()
        for _ in range(6):
            await asyncio.sleep(0.005)
            state = await self.fleet.tick()
        return state.replicas


async def stage(count: int = 1, *, room: bool = True, latency: float = 0.03) -> Stage:
    config = GeneratorsConfig(count=count, min=1, max=4)
    pool, places, events = GeneratorPool(FakeRewardPool(), draw_timeout_s=5.0), FakePlaces(latency=latency), []
    names = [f"generator-{index}" for index in range(count)]
    places.room.set()
    pool.add([await places.take(name) for name in names])
    if not room:
        places.room.clear()
    await pool.until_ready()
    scheduler = Watched(pool)

    def note(event: str, what: Mapping[str, object]) -> None:
        events.append((event, what.get("generator", what.get("generators"))))

    return Stage(Fleet(ScalingPolicy(config), scheduler, places, names, note), pool, scheduler, places, events)


async def test_a_newcomer_gets_a_place_the_current_weights_and_then_work():
    s = await stage()
    await s.pool.load_weights(Weights(3, None, 0))
    assert await s.settle(2) == {"generator-0": "ready", "generator-1": "ready"}
    (rollout, *_) = await s.pool.draw(make_request(make_prompt("p0"), (0, 1)), prefer="generator-1")
    assert (rollout.generator_id, rollout.policy_version) == ("generator-1", 3)
    assert s.events == [
        ("wanted", 2),
        ("ready", "generator-0"),
        ("placing", "generator-1"),
        ("placed", "generator-1"),
        ("ready", "generator-1"),
    ]


async def test_the_newest_leaves_when_it_has_finished_and_then_its_place_goes():
    s = await stage(2)
    await s.settle()
    draw = asyncio.create_task(s.pool.draw(make_request(make_prompt("p0"), (0, 1)), prefer="generator-1"))
    await asyncio.sleep(0.005)
    s.scheduler.asked = 1
    state = await s.fleet.tick()
    await asyncio.sleep(0)
    assert (await s.fleet.tick()).replicas == {"generator-0": "ready", "generator-1": "draining"}
    assert set(s.places.held) == {"generator-0", "generator-1"}
    assert {rollout.generator_id for rollout in await draw} == {"generator-1"}
    assert await s.settle() == {"generator-0": "ready"}
    assert set(s.places.held) == {"generator-0"}
    assert (await s.pool.snapshot()).num_lost_draws == 0
    assert state.wanted == 1
    assert s.events[-2:] == [("draining", "generator-1"), ("gone", "generator-1")]


async def test_a_place_that_never_came_is_given_up_before_anyone_leaves():
    s = await stage(room=False)
    assert await s.settle(3) == {"generator-0": "ready", "generator-1": "placing", "generator-2": "placing"}
    assert await s.settle(1) == {"generator-0": "ready"}
    s.places.room.set()
    assert await s.settle() == {"generator-0": "ready"}
    assert set(s.places.held) == {"generator-0"}


async def test_names_are_not_used_twice():
    s = await stage()
    await s.settle(2)
    await s.settle(1)
    assert await s.settle(2) == {"generator-0": "ready", "generator-2": "ready"}


async def test_one_that_was_given_up_goes_first():
    s = await stage(3)
    await s.settle()
    s.places.held["generator-0"].lose()  # its restarts fail
    await s.pool.draw(make_request(make_prompt("p0"), (0,)), prefer="generator-0")
    assert await s.settle() == {"generator-0": "gone", "generator-1": "ready", "generator-2": "ready"}
    assert ("given up", "generator-0") in s.events
    assert await s.settle(2) == {"generator-1": "ready", "generator-2": "ready"}


async def test_what_a_place_raises_comes_out_of_the_next_tick():
    class Broken(FakePlaces):
        async def take(self, name: str) -> Generator:
            raise ConfigError("no such place")

    s = await stage()
    s.fleet.places = Broken()
    s.scheduler.asked = 2
    await s.fleet.tick()
    await asyncio.sleep(0)
    with pytest.raises(ConfigError, match="no such place"):
        await s.fleet.tick()


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=15))
def test_whatever_is_asked_for_in_whatever_order_it_ends_with_as_many_and_holds_no_other_place(
    asked: list[tuple[int, bool, int]],
):
    async def scenario() -> None:
        s = await stage(latency=0.004)  # longer than most pauses, so that draws outlive what is asked for
        draws = []
        for number, room, pauses in asked:
            s.scheduler.asked = number
            s.places.room.set() if room else s.places.room.clear()
            await s.fleet.tick()
            draws.append(asyncio.create_task(s.pool.draw(make_request(make_prompt("p0"), (0, 1)))))
            for _ in range(pauses):
                await asyncio.sleep(0.001)
        s.places.room.set()
        drawn = await asyncio.gather(*draws)
        assert [len(rollouts) for rollouts in drawn] == [2] * len(asked)
        replicas = await s.settle()
        assert sorted(replicas.values()) == ["ready"] * asked[-1][0]
        assert set(s.places.held) == set(replicas)
        snapshot = await s.pool.snapshot()
        present = {name for name, state in snapshot.replicas.items() if state is not ReplicaState.GONE}
        assert present == set(replicas)
        assert snapshot.num_lost_draws == 0

    asyncio.run(scenario())
