"""A policy learns sums with the real V0's priors; in some runs the support's labels are turned around on purpose.

The run is the project's own: trainer, scheduler, budget machine, estimator and trust are real, and so is V0 with its
shipped bundle. Behind the ports are a policy of five numbers (a success logit per number length, raised by policy
gradient), a generator that tosses coins with its rates, and a verifier that reads the coin.
"""

import asyncio
import itertools
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from tests.fakes import FakeRewardPool, FakeTracker, one_turn, response_text, silent_progress
from v05ray.config import Config, ValueConfig
from v05ray.data.stream import PromptSource, PromptStream
from v05ray.job.config_files import make_config
from v05ray.ledger import LedgerWriter
from v05ray.ports import PendingCall, Roles, Served, Weights
from v05ray.scheduling.generators import GeneratorPool
from v05ray.scheduling.scheduler import RolloutScheduler
from v05ray.storage.checkpoint import Checkpoints
from v05ray.training.driver import Trainer
from v05ray.types import DrawRequest, Prior, Prompt, Rollout, SupportExample, TrainSample
from v05ray.value.embedding import torch_threads
from v05ray.value.model import ValueModel

NUM_STEPS, PROMPTS_PER_STEP, WINDOW, NUM_SEEDS = 24, 32, 256, 2
SOLVED, MISSED = 1, 0
"""A response is one token: did the coin fall right?"""


def make_prompts() -> list[Prompt]:
    """Sums of one to five digits; a prompt's id begins with their number."""
    rng = random.Random(0)
    prompts = []
    for index in range(96):
        digits = 1 + index % 5
        low = 10 ** (digits - 1)
        text = f"What is {rng.randrange(low, 10 * low)} + {rng.randrange(low, 10 * low)}?"
        prompts.append(Prompt(f"{digits}-{index}", text, (0,), "", "sum"))
    return prompts


def rate(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


@dataclass
class Policy:
    """`ports.LearnerGroup` and, through the weights that it publishes, what the generator serves."""

    logits: list[float] = field(default_factory=lambda: [2.5 - 1.25 * place for place in range(5)])
    num_rollouts: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)
    """(rollouts drawn so far, true mean success rate) after every step."""
    _pending: list[TrainSample] = field(default_factory=list)

    @property
    def success(self) -> float:
        return fmean(map(rate, self.logits))

    async def accumulate(self, samples: Sequence[TrainSample]) -> None:
        self._pending.extend(samples)

    async def step(self, updated: Callable[[], None] = lambda: None) -> dict[str, float]:
        """One ascent along the mean over prompts of the group's mean A d log p / d logit."""
        by_prompt = {name: list(group) for name, group in itertools.groupby(self._pending, lambda s: s.prompt_id)}
        gradient = [0.0] * 5
        for name, group in by_prompt.items():
            place = int(name[0]) - 1
            p = rate(self.logits[place])
            slopes = [s.advantages[0] * ((1 - p) if s.response_ids[0] == SOLVED else -p) for s in group]
            gradient[place] += fmean(slopes) / len(by_prompt)
        self.logits = [logit + 2.0 * slope for logit, slope in zip(self.logits, gradient, strict=True)]
        self.num_rollouts += len(self._pending)
        self.history.append((self.num_rollouts, self.success))
        self._pending.clear()
        return {}

    async def logprobs(
        self, samples: Sequence[TrainSample], *, share_prefix: bool, temperature: float | None = None
    ) -> list[list[float]]:
        return [list(sample.logprobs) for sample in samples]  # one policy, so the sampled ones

    async def abandon(self) -> None:
        self._pending.clear()

    async def weights(self, version: int) -> Weights:
        return Weights(version, payload=tuple(self.logits), num_bytes=40)

    async def save(self, folder: Path) -> None:
        _write(folder, self.logits)

    async def load(self, folder: Path) -> None:
        self.logits = json.loads((folder / "policy.json").read_text())

    async def export(self, folder: Path) -> None:
        await self.save(folder)

    async def waiting(self) -> Sequence[PendingCall]:
        return ()

    def success_after(self, num_rollouts: float) -> float:
        """Mean success rate once that many rollouts were drawn, interpolated between steps."""
        drawn, success = zip(*self.history, strict=True)
        return float(np.interp(num_rollouts, drawn, success))


def _write(folder: Path, logits: list[float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.json").write_text(json.dumps(logits))


class CoinGenerator:
    """`ports.Generator`: a rollout succeeds with the published policy's rate, by its own seed."""

    generator_id = "coins"

    def __init__(self) -> None:
        self._version = 0
        self._logits = tuple(Policy().logits)

    async def ready(self) -> None: ...

    async def restart(self) -> None: ...

    async def abort(self, prompt_id: str) -> None: ...

    async def load_weights(self, weights: Weights) -> Served:
        self._version, self._logits = weights.version, weights.payload
        return Served(self._version)

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        p = rate(self._logits[int(request.prompt_id[0]) - 1])
        rollouts = []
        for index, seed in zip(request.sample_indices, request.seeds, strict=True):
            solved = random.Random(seed).random() < p
            rollouts.append(
                one_turn(
                    prompt_id=request.prompt_id,
                    sample_index=index,
                    text=response_text(1.0 if solved else -1.0),
                    token_ids=(SOLVED if solved else MISSED,),
                    logprobs=(-0.5,),
                    finish_reason="stop",
                    policy_version=self._version,
                    generator_id=self.generator_id,
                    seconds=0.0,
                )
            )
        return rollouts


@dataclass(frozen=True)
class LocalValues:
    """`ports.ValuePool` without actors; `flipped` turns every support label around."""

    model: ValueModel
    flipped: bool

    async def predict(
        self, prompts: Sequence[Prompt], support: Sequence[SupportExample], *, policy_version: int, seed: int
    ) -> list[Prior]:
        pairs = [replace(pair, score=-pair.score) for pair in support] if self.flipped else support
        return self.model.predict(prompts, pairs, policy_version=policy_version, seed=seed)

    async def waiting(self) -> Sequence[PendingCall]:
        return ()


def config_of(seed: int, *, fallback: bool) -> Config:
    return make_config(
        {
            "recipe": "v05",
            "model": {"path": "none", "dtype": "float32"},
            "data": {"train": "jsonl"},
            "run": {"num_steps": NUM_STEPS, "prompts_per_step": PROMPTS_PER_STEP, "seed": seed},
            # Recalibration is off, so that the fallback alone makes the difference.
            "value": {"trust_window": WINDOW, "recalibrate": False, "fallback": fallback},
        }
    )


@dataclass(frozen=True)
class Result:
    policy: Policy
    fallback_step: int | None

    @property
    def rollouts_per_prompt(self) -> float:
        return self.policy.num_rollouts / NUM_STEPS / PROMPTS_PER_STEP


async def train(model: ValueModel, folder: Path, seed: int, *, flipped: bool, fallback: bool) -> Result:
    config, policy, tracker = config_of(seed, fallback=fallback), Policy(), FakeTracker()
    rewards = FakeRewardPool()
    pool = GeneratorPool(rewards, draw_timeout_s=5.0)
    pool.add([CoinGenerator()])
    await pool.until_ready()
    trainer = Trainer(
        config,
        Roles(
            scheduler=RolloutScheduler(pool, config.budget, seed=seed),
            rewards=rewards,
            learners=policy,
            tracker=tracker,
            values=LocalValues(model, flipped),
        ),
        stream=PromptStream(
            [PromptSource("data", make_prompts())], batch_size=PROMPTS_PER_STEP, shuffle=True, seed=seed
        ),
        eval_prompts=(),
        ledger=LedgerWriter(folder / "ledger"),
        checkpoints=Checkpoints(folder, config.model_dump(mode="json"), keep=1),
        progress=silent_progress(),
        samples=folder / "samples",
    )
    await trainer.run()
    trusted = [(step, metrics["v05/prior_trusted"]) for step, metrics in tracker.metrics]
    assert len(trusted) == NUM_STEPS
    return Result(policy, next((step for step, value in trusted if value == 0), None))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Result]]:
    v0 = ValueModel.load(ValueConfig(), cache=tmp_path_factory.mktemp("cache") / "e.sqlite")
    base = ValueModel.load(ValueConfig.model_validate({"backend": "base_rate"}))

    def repeat(model: ValueModel, *, flipped: bool, fallback: bool) -> list[Result]:
        return [
            asyncio.run(train(model, tmp_path_factory.mktemp("run"), seed, flipped=flipped, fallback=fallback))
            for seed in range(NUM_SEEDS)
        ]

    with torch_threads(1):
        return {
            "base rate": repeat(base, flipped=False, fallback=True),
            "healthy": repeat(v0, flipped=False, fallback=True),
            "flipped": repeat(v0, flipped=True, fallback=True),
            "flipped, no fallback": repeat(v0, flipped=True, fallback=False),
        }


def rollouts(results: list[Result]) -> float:
    return fmean(result.rollouts_per_prompt for result in results)


def success(results: list[Result]) -> float:
    return fmean(result.policy.success for result in results)


def test_a_healthy_prior_is_kept_and_saves_rollouts(runs: dict[str, list[Result]]):
    assert [result.fallback_step for result in runs["healthy"]] == [None] * NUM_SEEDS
    assert rollouts(runs["healthy"]) < 0.85 * rollouts(runs["base rate"])


def test_a_sabotaged_prior_is_caught_within_the_window(runs: dict[str, list[Result]]):
    for result in runs["flipped"]:
        assert result.fallback_step is not None
        assert result.fallback_step * PROMPTS_PER_STEP <= WINDOW


def test_it_then_ends_within_noise_of_the_base_rate_run(runs: dict[str, list[Result]]):
    assert success(runs["flipped"]) == pytest.approx(success(runs["base rate"]), abs=0.03)
    assert rollouts(runs["flipped"]) < 1.15 * rollouts(runs["base rate"])


def test_without_the_fallback_the_same_run_is_worse(runs: dict[str, list[Result]]):
    """It pays half as much again in rollouts, and after equally many its policy is behind in every seed."""
    assert rollouts(runs["flipped, no fallback"]) > 1.4 * rollouts(runs["flipped"])
    for saved, lost in zip(runs["flipped"], runs["flipped, no fallback"], strict=True):
        spent = min(saved.policy.num_rollouts, lost.policy.num_rollouts)
        assert lost.policy.success_after(spent) < saved.policy.success_after(spent) - 0.02
