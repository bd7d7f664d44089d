"""Generators that come and go during work, through real actors and placement groups; stubs for engines."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from tests.fakes import FakeRewardPool, make_prompt, make_request
from tests.ray.stubs import StubGenerator
from v05ray.actors.census import Census
from v05ray.actors.elastic import Address, elastic
from v05ray.actors.placement import request_group, until_placed
from v05ray.actors.scheduler import RayScheduler, SchedulerActor
from v05ray.config import Config
from v05ray.job.config_files import make_config
from v05ray.machine.layout import Role
from v05ray.ports import Generator, Weights
from v05ray.storage.status import RunStatus, read_events, read_status

REWARDS = {f"p{i}": [1.0, -1.0] for i in range(400)}


@dataclass
class StubPlaces:
    """A placement group of one CPU for every stub."""

    groups: dict[str, PlacementGroup] = field(default_factory=dict)

    async def take(self, name: str) -> Generator:
        self.groups[name] = request_group(Role(name, ({"CPU": 1.0},), "STRICT_PACK"))
        try:
            await until_placed(self.groups[name])
        except asyncio.CancelledError:
            await self.give_back(name)
            raise
        return StubGenerator(name, REWARDS, latency=0.02)

    async def give_back(self, name: str) -> None:
        remove_placement_group(self.groups.pop(name))


@dataclass
class Stage:
    scheduler: RayScheduler
    places: StubPlaces
    folder: Path
    census: Census

    async def until(self, seen: Callable[[RunStatus], bool], *, timeout_s: float = 30.0) -> RunStatus:
        """The first status of which that is true."""
        async with asyncio.timeout(timeout_s):
            while True:
                status = read_status(self.folder) if (self.folder / "status.json").exists() else None
                if status and seen(status):
                    return status
                await asyncio.sleep(0.1)


def config_of(**generators: Any) -> Config:
    written = {"count": 1, "min": 1, "max": 3, **generators}
    return make_config({"model": {"path": "m"}, "data": {"train": "jsonl"}, "generators": written})


@pytest.fixture
async def stage(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    config, places, address = config_of(**getattr(request, "param", {})), StubPlaces(), Address.of(tmp_path)
    (tmp_path / "config.yaml").touch()
    first = await places.take("generator-0")
    actor: Any = ray.remote(SchedulerActor).options(
        num_cpus=0, max_concurrency=1000, name=address.name, namespace=address.namespace
    )
    actor_handle = actor.remote(config, FakeRewardPool(), [first])
    scheduler = RayScheduler(actor_handle)
    await scheduler.start()
    census = Census(address.namespace, {"scheduler": actor_handle})
    async with elastic(config, scheduler, places, ["generator-0"], census=census, folder=tmp_path, address=address):
        yield Stage(scheduler, places, tmp_path, census)
    assert read_status(tmp_path).state == "ended"
    for name in list(places.groups):
        await places.give_back(name)


def scale(folder: Path, count: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "v05ray.cli", "scale", str(folder), "--generators", str(count)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


async def test_a_run_is_scaled_from_outside_within_what_it_allows(stage: Stage):
    await stage.scheduler.load_weights(Weights(5, [ray.put(b"bucket")], 6))
    status = await stage.until(lambda s: s.step == 5)
    assert status.generators == {"generator-0": "ready"}
    refused = await asyncio.to_thread(scale, stage.folder, 4)
    assert refused.returncode == 2
    assert "4 generators asked for, but this run allows 1 to 3" in refused.stderr
    done = await asyncio.to_thread(scale, stage.folder, 2)
    assert (done.returncode, done.stdout.split(";")[0]) == (0, f"{stage.folder.name}: 1 -> 2 generators asked for")
    await stage.until(lambda s: list(s.generators.values()) == ["ready", "ready"])
    status = await stage.until(lambda s: "scheduler" in s.memory_mib)  # asked for now and then
    assert status.memory_mib["scheduler"] > 20
    assert stage.census.latest()["scheduler"] > 20
    (rollout,) = await stage.scheduler.draw(make_request(make_prompt("p0"), (0,)))
    assert rollout.policy_version == 5
    await asyncio.to_thread(scale, stage.folder, 1)
    await stage.until(lambda s: s.generators == {"generator-0": "ready"})
    kept = {row["name"] for row in placement_group_table().values() if row["state"] != "REMOVED"}
    assert kept & {"generator-0", "generator-1"} == {"generator-0"}
    assert [e["event"] for e in read_events(stage.folder) if e.get("generator") == "generator-1"] == [
        "placing",
        "placed",
        "ready",
        "draining",
        "gone",
    ]


FAST = {"target_backlog_s": 0.5, "sustain_s": 0.3, "hold_s": 2.0, "cooldown_s": 0.3, "max_num_seqs": 1}


@pytest.mark.parametrize("stage", [FAST], indirect=True)
async def test_a_long_queue_brings_generators_and_a_short_one_takes_them_away(stage: Stage):
    drawing = [asyncio.create_task(stage.scheduler.draw(make_request(make_prompt(p), (0,)))) for p in REWARDS]
    await stage.until(lambda s: s.wanted == 3 and list(s.generators.values()).count("ready") == 3)
    drawn = await asyncio.gather(*drawing)
    assert {rollouts[0].generator_id for rollouts in drawn} == {"generator-0", "generator-1", "generator-2"}
    assert [rollouts[0].prompt_id for rollouts in drawn] == list(REWARDS)
    while read_status(stage.folder).wanted > 1:  # one draw at a time leaves no queue
        await stage.scheduler.draw(make_request(make_prompt("p0"), (0,)))
    await stage.until(lambda s: s.generators == {"generator-0": "ready"})
    changes = [(e["before"], e["generators"]) for e in read_events(stage.folder) if e["event"] == "wanted"]
    assert changes[0] == (1, 3)
    assert changes[-1][1] == 1
    assert all(after < before for before, after in changes[1:])
