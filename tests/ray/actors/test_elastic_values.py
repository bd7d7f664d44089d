"""Value actors that come and go by the time that predictions take: real V0, real placement groups."""

import asyncio
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from tests.fakes import FakeRewardPool, make_prompt
from tests.ray.stubs import StubGenerator
from v05ray.actors.census import Census
from v05ray.actors.elastic import Address, elastic
from v05ray.actors.placement import request_group, until_placed
from v05ray.actors.scheduler import RayScheduler, SchedulerActor
from v05ray.actors.value import ValuePlaces, start_values
from v05ray.job.config_files import make_config
from v05ray.machine import layout
from v05ray.ports import Generator
from v05ray.scheduling.predictors import PredictorPool
from v05ray.storage.status import read_events, read_status
from v05ray.types import SupportExample

# A batch of 512 takes one actor some .1 s, one of 16 next to nothing.
CONFIG = make_config(
    {
        "model": {"path": "m"},
        "data": {"train": "jsonl"},
        "value": {
            "num_cpus": 0.5,
            "max_pool_size": 2,
            "target_backlog_s": 0.03,
            "sustain_s": 0.3,
            "hold_s": 0.6,
            "cooldown_s": 0.1,
        },
    }
)
SUPPORT = [SupportExample(f"s{i}", f"question {i}", 1.0 if i % 2 else -1.0, 0) for i in range(40)]
PROMPTS = [make_prompt(f"p{i}") for i in range(512)]


class NoPlaces:
    async def take(self, name: str) -> Generator:
        raise AssertionError(f"{name} was not asked for")

    async def give_back(self, name: str) -> None:
        raise AssertionError(f"{name} has no place")


async def predict(pool: PredictorPool, count: int) -> list[float]:
    priors = await pool.predict(PROMPTS[:count], SUPPORT, policy_version=0, seed=0)
    return [prior.value for prior in priors]


def reserved() -> set[str]:
    return {row["name"] for row in placement_group_table().values() if row["state"] != "REMOVED"}


async def test_predictions_that_take_too_long_bring_a_value_actor_and_short_ones_send_it_away(tmp_path: Path):
    (tmp_path / "config.yaml").touch()
    address, cache = Address.of(tmp_path), tmp_path / "cache.sqlite"
    group = request_group(layout.value_role(CONFIG))
    await until_placed(group)
    actor: Any = ray.remote(SchedulerActor).options(num_cpus=0, max_concurrency=1000)
    scheduler = RayScheduler(actor.remote(CONFIG, FakeRewardPool(), [StubGenerator("generator-0", {"p": [1.0]})]))
    started = start_values(CONFIG, group, cache)
    pool = PredictorPool(started)
    await asyncio.gather(scheduler.start(), started[0].ready())
    alone = await predict(pool, 512)
    groups: dict[str, PlacementGroup] = {"value": group}
    values, census = (pool, ValuePlaces(CONFIG, groups, cache, address.namespace)), Census(address.namespace, {})
    present, folder = ["generator-0"], tmp_path
    async with (
        elastic(CONFIG, scheduler, NoPlaces(), present, census=census, folder=folder, address=address, values=values),
        asyncio.timeout(120),
    ):
        while list((await pool.snapshot()).replicas) != ["value-0", "value-1"]:
            assert await predict(pool, 512) == alone
        assert reserved() & {"value", "value-1"} == {"value", "value-1"}
        assert await predict(pool, 512) == alone  # both of them
        while read_status(tmp_path).values != {"value-0": "ready"}:
            assert await predict(pool, 16) == alone[:16]
        assert await predict(pool, 512) == alone
    assert reserved() & {"value", "value-1"} == {"value"}
    said = [event["event"] for event in read_events(tmp_path) if event.get("value") == "value-1"]
    assert said[:5] == ["placing", "placed", "ready", "draining", "gone"]
    assert [(e["before"], e["values"]) for e in read_events(tmp_path) if "values" in e][:2] == [(1, 2), (2, 1)]
    remove_placement_group(group)
