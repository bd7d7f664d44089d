"""What roles on real actors say they wait for, while they wait; and frozen actors are named."""

import asyncio
import os
import signal
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from tests.fakes import SAMPLING, FakeRewardPool, make_prompt
from tests.ray.stubs import StubGenerator
from v05ray.actors.learner import RayLearnerGroup
from v05ray.actors.scheduler import RayScheduler, SchedulerActor
from v05ray.actors.value import predictors
from v05ray.job.config_files import make_config
from v05ray.ports import BatchRequest, PendingCall, RoleLost
from v05ray.scheduling.predictors import PredictorPool
from v05ray.stopping.outstanding import Waits, calls_pending_at, describe
from v05ray.types import Prior

CONFIG = make_config({"model": {"path": "m"}, "data": {"train": "jsonl"}})
NAMES = ["p0", "p1"]


@ray.remote(num_cpus=0)
class Stub:
    """A learner rank or a value actor that may freeze."""

    def __init__(self, frozen: bool, num_updates: int = 1) -> None:
        self._frozen, self._num_updates = frozen, num_updates

    async def start_updates(self) -> int:
        return self._num_updates

    async def update(self) -> None:
        self._num_updates -= 1

    async def left(self) -> int:
        return self._num_updates

    async def step(self) -> dict[str, float]:
        await self._work()
        return {}

    async def predict(self, *_: object) -> list[Any]:
        await self._work()
        return []

    async def _work(self) -> None:
        if self._frozen:
            await asyncio.Event().wait()


async def until(role: Waits, actor: str, what: str | None = None, *, timeout_s: float = 30.0) -> list[PendingCall]:
    """What the role waits for once that is this actor alone, and this call if one is given."""
    async with asyncio.timeout(timeout_s):
        while True:
            held = list(await role.waiting())
            if held and {(one.actor, what and one.what) for one in held} == {(actor, what)}:
                return held
            await asyncio.sleep(0.05)


def scheduler_of(*generators: StubGenerator, shards: int = 1) -> RayScheduler:
    actor: Any = ray.remote(SchedulerActor).options(num_cpus=0, max_concurrency=1000)
    settings = CONFIG.generators.model_copy(update={"shards": shards})
    config = CONFIG.model_copy(update={"generators": settings})
    return RayScheduler(actor.remote(config, FakeRewardPool(), list(generators)))


async def batch(scheduler: RayScheduler) -> None:
    priors = {name: Prior(name, 0.9, 0) for name in NAMES}
    request = BatchRequest(1, 0, tuple(map(make_prompt, NAMES)), priors, SAMPLING)
    async for _ in scheduler.run(request):
        pass


@pytest.mark.parametrize("shards", [1, 2])
async def test_the_scheduler_names_the_frozen_generator_while_its_batch_runs(shards: int):
    generators = [StubGenerator(f"g{i}", {name: [1.0] for name in NAMES}, latency=60.0 * i) for i in range(2)]
    scheduler = scheduler_of(*generators, shards=shards)
    await scheduler.start()
    running = asyncio.create_task(batch(scheduler))
    held = await until(scheduler, "g1")
    assert {(one.what, one.count) for one in held} == {("draw", 4)}
    named = {one.prompt_id for one in held}
    assert named < set(NAMES)  # the other one was drawn by g0
    assert f"prompt '{named.pop()}' (4 draws at g1 for " in describe(held)
    running.cancel()


async def test_a_scheduler_whose_process_is_stopped_is_named_itself_within_the_bound():
    scheduler = scheduler_of(StubGenerator("g0", {name: [1.0] for name in NAMES}, latency=60.0))
    await scheduler.start()
    pid = await scheduler.actor.__ray_call__.remote(lambda _: os.getpid())
    os.kill(pid, signal.SIGSTOP)
    try:
        (held,) = await calls_pending_at("the scheduler", scheduler, within_s=0.5)
    finally:
        os.kill(pid, signal.SIGKILL)
    assert describe([held], NAMES) == "prompts 'p0', 'p1'; the scheduler (no answer for 0 s)"
    with pytest.raises(RayActorError):
        await scheduler.status()
    (held,) = await scheduler.waiting()
    assert held.what.startswith("gone (ActorDiedError")


async def test_a_frozen_learner_rank_and_value_actor_are_named():
    ranks = [Stub.remote(frozen) for frozen in (False, True)]
    learners = RayLearnerGroup(ranks, timeout_s=3.0)
    stepping = asyncio.create_task(learners.step())
    await until(learners, "learner rank 1", "step")  # a call before it may take a moment longer on one rank
    with pytest.raises(RoleLost, match=r"learner rank 1 \(of 2\) did not finish 'step' within 3 s"):
        await stepping
    assert await learners.waiting() == []

    values = PredictorPool(predictors(ranks))
    asked = asyncio.create_task(
        values.predict(list(map(make_prompt, map(str, range(32)))), [], policy_version=0, seed=0)
    )
    (held,) = await until(values, "value-1")
    assert held.what == "prediction"
    asked.cancel()


async def test_every_update_but_the_last_is_a_call_of_its_own_and_a_sign_of_progress():
    ranks: list[Any] = [Stub.remote(False, 3) for _ in range(2)]
    seen = []
    assert await RayLearnerGroup(ranks, timeout_s=30.0).step(lambda: seen.append("updated")) == {}
    assert seen == ["updated", "updated"]
    assert [await rank.left.remote() for rank in ranks] == [1, 1]  # `step` makes the one that is left
