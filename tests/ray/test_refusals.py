"""A config error that only an actor can find: it reaches the driver as what it is, at once and in one line."""

from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError

from tests.fakes import FakeRewardPool
from v05ray.actors.generator import RayGenerator
from v05ray.actors.learner import LearnerActor, RayLearnerGroup
from v05ray.actors.loss import describe_loss, fault, plain_errors
from v05ray.actors.rewards import RayRewardPool, RewardActor
from v05ray.actors.scheduler import RayScheduler, SchedulerActor
from v05ray.actors.value import RayPredictor, ValueActor
from v05ray.config import Config
from v05ray.errors import ConfigError, RunError
from v05ray.job.config_files import make_config
from v05ray.scheduling.generators import PoolExhausted


def config_for(model: Path, **parts: Any) -> Config:
    job = {"model": {"path": str(model), "max_length": 256}, "data": {"train": "jsonl"}, **parts}
    return make_config(job)


async def refusal_of(work: Any) -> str:
    """What the launcher would print."""
    with pytest.raises(ConfigError) as refused, plain_errors():
        await work
    assert type(refused.value) is ConfigError  # and not Ray's mixture of it and a traceback
    assert describe_loss(refused.value) is None
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("shards", [1, 2])
async def test_a_generator_that_cannot_start_is_not_restarted(shards: int, tmp_path: Path):
    config = config_for(tmp_path / "absent", generators={"count": shards, "shards": shards, "num_cpus": 0.1})
    generators: Any = [RayGenerator(f"generator-{index}", config, "DEFAULT") for index in range(shards)]  # type: ignore[arg-type]
    actor: Any = ray.remote(SchedulerActor).options(num_cpus=0, max_concurrency=100)
    scheduler = RayScheduler(actor.remote(config, FakeRewardPool(), generators))
    said = await refusal_of(scheduler.start())
    assert said == f"model.path '{tmp_path / 'absent'}' is not a model folder (no config.json in it)"


@pytest.mark.timeout(120)
async def test_a_learner_that_cannot_be_made(random_tiny_model: Path):
    config = config_for(random_tiny_model, learner={"micro_batch_tokens": 64})
    actor: Any = ray.remote(LearnerActor).options(num_cpus=0)
    group = RayLearnerGroup([actor.remote(config, rank) for rank in range(2)], timeout_s=100)
    assert (await refusal_of(group.setup())).startswith("learner.micro_batch_tokens=64 cannot hold one sequence of")


async def test_a_value_model_that_cannot_be_loaded(tmp_path: Path):
    config = config_for(tmp_path, value={"bundle": str(tmp_path / "absent")})
    actor: Any = ray.remote(ValueActor).options(num_cpus=0)
    said = await refusal_of(RayPredictor("value-0", actor.remote(config.value, tmp_path / "cache")).ready())
    assert f"{tmp_path / 'absent'}" in said


async def test_a_verifier_that_cannot_be_built(tmp_path: Path):
    config = config_for(tmp_path, rewards={"verifier": {"name": "python", "path": "no_such_module:verify"}})
    actor: Any = ray.remote(RewardActor).options(num_cpus=0, max_concurrency=10)
    assert "no_such_module" in await refusal_of(RayRewardPool(actor.remote(config.rewards)).ready())


class Raising:
    """Fails where the method says, with what a config or the machine is at fault for."""

    def __init__(self, first: bool) -> None:
        if first:
            try:
                raise ConfigError("not this one")
            except ConfigError as error:
                raise KeyError("a bug") from error

    def exhausted(self) -> None:
        raise PoolExhausted("prompt 'p0': 5 generators were lost")

    def bug(self) -> None:
        raise KeyError("a bug")


async def test_other_errors_stay_what_they_are():
    raising: Any = ray.remote(Raising).options(num_cpus=0)
    with pytest.raises(RunError, match=r"^prompt 'p0': 5 generators were lost$"), plain_errors():
        await raising.remote(first=False).exhausted.remote()
    with pytest.raises(KeyError), plain_errors():
        await raising.remote(first=False).bug.remote()
    with pytest.raises(ActorDiedError) as died, plain_errors():
        await raising.remote(first=True).bug.remote()
    assert fault(died.value) is None
