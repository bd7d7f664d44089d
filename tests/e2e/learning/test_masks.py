"""Tokens that an environment put into a response are context: against plain torch, one sequence at a time, float32."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.e2e.learning.plain import PlainLearner
from tests.e2e.learning.test_learner import CLOSE, OPTIONS, assert_close, weights
from tests.e2e.learning.tiny import make_samples
from v05ray.config import LearnerConfig
from v05ray.learning.learner import Learner
from v05ray.types import TrainSample

MakeLearner = Callable[..., Learner]


def with_observations(samples: list[TrainSample], seed: int = 0) -> list[TrainSample]:
    """Some responses get an observation in their middle, as a second turn has: log-probability 0, any advantage."""
    rng = random.Random(seed)
    masked = []
    for sample in samples:
        cut, size = len(sample.response_ids) // 2, rng.choice([0, 1, 3])
        observed = tuple(rng.randrange(4, 10) for _ in range(size))

        def put(values: tuple, between: tuple, cut: int = cut) -> tuple:
            return values[:cut] + between + values[cut:]

        masked.append(
            replace(
                sample,
                response_ids=put(sample.response_ids, observed),
                logprobs=put(sample.logprobs, (0.0,) * size),
                advantages=(sample.advantages[0],) * (len(sample.response_ids) + size),
                loss_mask=put(sample.loss_mask, (False,) * size),
            )
        )
    assert any(not all(sample.loss_mask) for sample in masked if any(sample.advantages))
    return masked


@pytest.mark.parametrize("kl_coefficient", [0.0, 0.2])
@pytest.mark.parametrize("share_prefix", [True, False])
def test_steps_on_masked_samples_equal_plain_torch(
    make_learner: MakeLearner, tied_folder: Path, share_prefix: bool, kl_coefficient: float
) -> None:
    options = {**OPTIONS, "kl_coefficient": kl_coefficient}
    learner = make_learner(tied_folder, share_prefix=share_prefix, **options)
    plain = PlainLearner(tied_folder, LearnerConfig.model_validate(options))
    for step in range(3):
        samples = with_observations(make_samples(6, seed=step), seed=step)
        expected = plain.step(samples)
        learner.accumulate(samples)
        metrics = learner.step()
        assert metrics["actor/grad_norm"] == pytest.approx(expected["actor/grad_norm"], rel=1e-4)
        assert metrics["actor/num_tokens"] == sum(sum(sample.loss_mask) for sample in samples)
    assert_close(weights(learner), dict(plain.model.named_parameters()), atol=CLOSE)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant_length"])
@pytest.mark.parametrize("loss", ["ppo", "gspo", "cispo"])
def test_loss_and_metrics_count_sampled_tokens_alone(
    make_learner: MakeLearner, tied_folder: Path, loss: str, aggregation: str
) -> None:
    """Importance cap off and equal weights: the ratio is pi_current / pi_sampled, and no clip binds this wide."""
    wide = {"importance_cap": None, "clip_low": 0.99, "clip_high": 1e6, "dual_clip": None}
    options = {**OPTIONS, "policy_loss": {"name": loss}, "aggregation": aggregation, **wide}
    learner = make_learner(tied_folder, max_response_tokens=8, **options)
    plain = PlainLearner(tied_folder, LearnerConfig.model_validate(OPTIONS))
    samples = [s for s in with_observations(make_samples(6)) if any(s.advantages)]
    total, log_ratios, entropies = torch.zeros(()), [], []
    for sample in samples:
        mask = torch.tensor(sample.loss_mask)
        ids = torch.tensor([sample.prompt_ids + sample.response_ids])
        with torch.no_grad():
            logits = plain.model(input_ids=ids).logits[0, len(sample.prompt_ids) - 1 : -1]
        distribution = torch.distributions.Categorical(logits=logits)
        current = distribution.log_prob(torch.tensor(sample.response_ids))[mask]
        log_ratio = current - torch.tensor(sample.logprobs)[mask]
        ratio = {"ppo": log_ratio, "gspo": log_ratio.mean().expand_as(log_ratio), "cispo": log_ratio}[loss].exp()
        ratio = ratio.clamp(min=0.01) if loss == "cispo" else ratio
        token_losses = -sample.advantages[0] * ratio * (current if loss == "cispo" else 1.0)
        if loss != "cispo":
            clipped = -sample.advantages[0] * ratio.clamp(min=0.01)
            token_losses = token_losses.maximum(clipped)
        length = {"token_mean": 1, "sequence_mean": int(mask.sum()), "constant_length": 8}[aggregation]
        total += token_losses.sum() / length
        log_ratios.append(log_ratio)
        entropies.append(distribution.entropy()[mask])
    divisor = sum(map(len, log_ratios)) if aggregation == "token_mean" else len(samples)
    learner.accumulate(samples)
    metrics = learner.step()
    assert metrics["actor/loss"] == pytest.approx(total.item() / divisor, rel=1e-4)
    assert metrics["actor/entropy"] == pytest.approx(torch.cat(entropies).mean().item(), rel=1e-4)
    assert metrics["actor/kl_sampled"] == pytest.approx(-torch.cat(log_ratios).mean().item(), rel=1e-4)
    assert metrics["actor/num_tokens_computed"] == sum(map(len, log_ratios))


def test_the_log_probabilities_are_those_of_the_sampled_tokens(make_learner: MakeLearner, tied_folder: Path) -> None:
    learner = make_learner(tied_folder, **OPTIONS)
    plain = PlainLearner(tied_folder, LearnerConfig.model_validate(OPTIONS))
    samples = with_observations(make_samples(4))
    found = learner.logprobs(samples, share_prefix=True)
    for index, sample in enumerate(samples):
        with torch.no_grad():
            expected = plain.logprobs(sample)[torch.tensor(sample.loss_mask)]
        assert found[index] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_trailing_observation_changes_nothing(make_learner: MakeLearner, tied_folder: Path) -> None:
    """The policy never continued from it, so no loss may depend on it."""
    samples = [s for s in make_samples(3) if any(s.advantages)]
    trailing = [
        replace(
            s,
            response_ids=(*s.response_ids, 5),
            logprobs=(*s.logprobs, 0.0),
            advantages=(*s.advantages, s.advantages[0]),
            loss_mask=(*s.loss_mask, False),
        )
        for s in samples
    ]
    results = []
    for batch in (samples, trailing):
        learner = make_learner(tied_folder, share_prefix=False, **OPTIONS)
        learner.accumulate(batch)
        results.append((learner.step(), weights(learner)))
    (one, before), (other, after) = results
    for name in ("actor/loss", "actor/grad_norm", "actor/entropy", "actor/num_tokens"):
        assert other[name] == pytest.approx(one[name], rel=1e-6), name
    assert_close(after, before, atol=CLOSE)
