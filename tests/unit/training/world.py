"""A trainer with everything that a run has besides, on in-process fakes behind the ports."""

import random
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes import (
    FakeGenerator,
    FakeLearner,
    FakeRewardPool,
    FakeTracker,
    FakeValuePool,
    make_prompt,
    silent_progress,
)
from v05ray.config import Config
from v05ray.data.stream import PromptSource, PromptStream
from v05ray.job.config_files import make_config
from v05ray.ledger import LedgerWriter
from v05ray.ports import Roles
from v05ray.scheduling.generators import GeneratorPool
from v05ray.scheduling.scheduler import RolloutScheduler
from v05ray.storage.checkpoint import Checkpoints
from v05ray.training.driver import Trainer

NAMES = [f"p{i}" for i in range(12)]


@dataclass
class World:
    """Everything of one run that is not the trainer."""

    learner: FakeLearner = field(default_factory=FakeLearner)
    tracker: FakeTracker = field(default_factory=FakeTracker)
    rewards: FakeRewardPool = field(default_factory=FakeRewardPool)
    values: FakeValuePool = field(default_factory=lambda: FakeValuePool(default=-0.9))
    generator: FakeGenerator = field(
        default_factory=lambda: FakeGenerator(
            {name: random.Random(name).choices([1.0, -1.0], k=16) for name in NAMES},
            latency=lambda n, i: 0.001 * (i % 5),
        )
    )


def config_of(**changes: dict | str) -> Config:
    written: dict = {
        "model": {"path": "m", "dtype": "float32"},
        "data": {"train": "jsonl"},
        "run": {"num_steps": 4, "prompts_per_step": 4, "checkpoint_every": 2},
        "evaluation": {"every": 2, "samples_per_prompt": 2},
    }
    for section, change in changes.items():
        written[section] = {**written.get(section, {}), **change} if isinstance(change, dict) else change
    return make_config(written)


async def trainer_of(
    config: Config, world: World, folder: Path, *, eval_names: tuple[str, ...] = ("p0", "p1")
) -> Trainer:
    rewards = world.rewards
    pool = GeneratorPool(rewards, draw_timeout_s=config.generators.draw_timeout_s)
    pool.add([world.generator])
    await pool.until_ready()
    return Trainer(
        config,
        Roles(
            scheduler=RolloutScheduler(pool, config.budget, seed=config.run.seed),
            rewards=rewards,
            learners=world.learner,
            tracker=world.tracker,
            values=world.values if config.value.enabled else None,
            memory_mib=lambda: {"scheduler": 90.5},
        ),
        stream=PromptStream(
            [PromptSource("data", [make_prompt(n) for n in NAMES])], batch_size=4, shuffle=True, seed=0
        ),
        eval_prompts=[make_prompt(name) for name in eval_names],
        ledger=LedgerWriter(folder / "ledger"),
        checkpoints=Checkpoints(folder, config.model_dump(mode="json"), keep=2),
        progress=silent_progress(),
        samples=folder / "samples",
    )
