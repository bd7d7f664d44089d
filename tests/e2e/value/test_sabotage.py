"""A policy learns sums with the real value model's priors; in some runs the support's labels are turned around.

The policy is a success logit per number length, raised by policy gradient; rollouts are coin flips of its true rates,
drawn and weighed exactly as V0.5 does (cold start 4, top-ups by the OSLA rule, fused baseline).
"""

import math
import random
from dataclasses import dataclass, replace
from statistics import fmean

import pytest

from v05ray import advantages
from v05ray.config import ValueConfig
from v05ray.stats.osla import target_rollouts
from v05ray.stats.shrinkage import fuse
from v05ray.support import SupportBuffer
from v05ray.types import Prior, Prompt, SupportExample
from v05ray.value.embedding import torch_threads
from v05ray.value.model import ValueModel
from v05ray.value.trust import Outcome, PriorTrust

COLD_START, N_MAX, COST = 4, 16, 1 / 256
NUM_STEPS, PROMPTS_PER_STEP, WINDOW = 24, 32, 256


@dataclass(frozen=True)
class Result:
    success: float
    """Mean success rate of the policy at the end."""
    rollouts_per_prompt: float
    fallback_step: int | None


def make_prompts() -> list[tuple[Prompt, int]]:
    rng = random.Random(0)
    prompts = []
    for index in range(192):
        digits = 1 + index % 5
        low = 10 ** (digits - 1)
        text = f"What is {rng.randrange(low, 10 * low)} + {rng.randrange(low, 10 * low)}?"
        prompts.append((Prompt(f"p{index}", text, (), "", "sum"), digits))
    return prompts


class ToyRun:
    def __init__(self, model: ValueModel, trust: PriorTrust, seed: int, *, flipped: bool) -> None:
        self._model, self._trust, self._flipped = model, trust, flipped
        self._rng = random.Random(seed)
        self._logits = {digits: 2.5 - 1.25 * (digits - 1) for digits in range(1, 6)}
        self._support = SupportBuffer(512)
        self._estimator = advantages.get("v05")
        self._num_drawn = 0

    def _priors(self, prompts: list[Prompt], step: int) -> list[Prior]:
        pairs = self._support.sample(10**6, random.Random(0))
        if self._flipped:
            pairs = [replace(pair, score=-pair.score) for pair in pairs]
        return self._model.predict(prompts, pairs, policy_version=step, seed=step)

    def _group(self, prior: float, rate: float) -> list[float]:
        def draw(count: int) -> list[float]:
            return [1.0 if self._rng.random() < rate else -1.0 for _ in range(count)]

        rewards = draw(COLD_START)
        while (target := target_rollouts(fuse(prior, rewards).bias_squared, COST, N_MAX)) > len(rewards):
            rewards += draw(target - len(rewards))
        self._num_drawn += len(rewards)
        return rewards

    def step(self, step: int, pool: list[tuple[Prompt, int]]) -> None:
        batch = self._rng.sample(pool, PROMPTS_PER_STEP)
        raw_priors = self._priors([prompt for prompt, _ in batch], step)
        gradient = dict.fromkeys(self._logits, 0.0)
        outcomes = []
        for (prompt, digits), raw in zip(batch, raw_priors, strict=True):
            prior = self._trust.transform(raw).value
            rate = 1 / (1 + math.exp(-self._logits[digits]))
            rewards = self._group(prior, rate)
            first = fmean(rewards[:COLD_START])
            outcomes.append(Outcome(raw.value if raw.origin == "v0" else None, first, COLD_START))
            self._support.add(SupportExample(prompt.prompt_id, prompt.text, first, step))
            for reward, advantage in zip(rewards, self._estimator(rewards, prior=prior), strict=True):
                slope = (1 - rate) if reward > 0 else -rate
                gradient[digits] += advantage * slope / len(rewards) / PROMPTS_PER_STEP
        for digits, value in gradient.items():
            self._logits[digits] += 2.0 * value
        self._trust.observe(outcomes)

    def run(self, pool: list[tuple[Prompt, int]]) -> Result:
        fallback_step = None
        for step in range(NUM_STEPS):
            self.step(step, pool)
            if fallback_step is None and not self._trust.trusted:
                fallback_step = step
        success = fmean(1 / (1 + math.exp(-logit)) for logit in self._logits.values())
        return Result(success, self._num_drawn / NUM_STEPS / PROMPTS_PER_STEP, fallback_step)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Result]]:
    """Three seeds each. Recalibration is off, so that the fallback alone makes the difference."""
    v0 = ValueModel.load(ValueConfig(), cache=tmp_path_factory.mktemp("cache") / "e.sqlite")
    base = ValueModel.load(ValueConfig(backend="base_rate"))
    pool = make_prompts()

    def repeat(model: ValueModel, *, flipped: bool, fallback: bool) -> list[Result]:
        return [
            ToyRun(model, PriorTrust(window=WINDOW, recalibrate=False, fallback=fallback), seed, flipped=flipped).run(
                pool
            )
            for seed in range(3)
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
    return fmean(result.success for result in results)


def test_a_healthy_prior_is_kept_and_saves_rollouts(runs: dict[str, list[Result]]):
    assert [result.fallback_step for result in runs["healthy"]] == [None] * 3
    assert rollouts(runs["healthy"]) < 0.85 * rollouts(runs["base rate"])


def test_a_sabotaged_prior_is_caught_within_the_window(runs: dict[str, list[Result]]):
    for result in runs["flipped"]:
        assert result.fallback_step is not None
        assert result.fallback_step * PROMPTS_PER_STEP <= WINDOW


def test_it_then_ends_within_noise_of_the_base_rate_run(runs: dict[str, list[Result]]):
    assert success(runs["flipped"]) == pytest.approx(success(runs["base rate"]), abs=0.03)
    assert rollouts(runs["flipped"]) < 1.15 * rollouts(runs["base rate"])


def test_without_the_fallback_the_same_run_is_worse(runs: dict[str, list[Result]]):
    """It reaches no higher and pays half as much again in rollouts."""
    assert success(runs["flipped, no fallback"]) < success(runs["base rate"]) + 0.03
    assert rollouts(runs["flipped, no fallback"]) > 1.4 * rollouts(runs["flipped"])
