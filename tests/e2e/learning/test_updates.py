"""Several updates per batch of the real learner against plain torch, in float32."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.e2e.learning.plain_updates import PlainUpdates
from tests.e2e.learning.test_exactness import drawn_by
from tests.e2e.learning.test_learner import CLOSE, assert_close, weights
from tests.e2e.learning.tiny import make_samples
from v05ray.config import LearnerConfig
from v05ray.learning.learner import Learner
from v05ray.learning.mini_batches import split
from v05ray.seeding import derive_seed
from v05ray.types import TrainSample

MakeLearner = Callable[..., Learner]
OPTIONS = {
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "micro_batch_tokens": 64,
    "clip_low": 0.1,
    "clip_high": 0.15,
}
LONGEST = 8
LOSSES = {
    "ppo": {"policy_loss": "ppo"},
    "dual clip": {"policy_loss": "ppo", "dual_clip": 1.05},
    "gspo": {"policy_loss": "gspo", "aggregation": "sequence_mean"},
    "cispo": {"policy_loss": "cispo"},
}
THREE = {"three epochs of the whole": {"epochs": 3}, "three mini-batches": {"mini_batch_prompts": 3}}


def drawn(folder: Path, num_prompts: int, seed: int) -> list[TrainSample]:
    """Samples of the policy itself, with advantages of both signs and some of 0."""
    samples = make_samples(num_prompts, seed)
    exact = drawn_by(folder, samples)
    return [
        TrainSample(one.prompt_id, one.prompt_ids, one.response_ids, two.logprobs, one.advantages, one.loss_mask, 0)
        for one, two in zip(samples, exact, strict=True)
    ]


def assert_same_updates(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """Adam divides a gradient that is all rounding by its own size, so a few weights of many may be further apart."""
    assert left.keys() == right.keys()
    apart = torch.cat([(left[name] - right[name]).abs().flatten() for name in left])
    assert apart.quantile(0.999) < 0.1 * CLOSE
    assert apart.max() < 0.2 * OPTIONS["learning_rate"]


def compared(
    make_learner: MakeLearner, folder: Path, samples: list[TrainSample], options: dict[str, Any]
) -> tuple[Learner, dict[str, float]]:
    """One batch of three updates, by the learner and by plain torch: the same weights and metrics."""
    options = {**OPTIONS, **options}
    learner = make_learner(folder, max_response_tokens=LONGEST, **options)
    config = LearnerConfig.model_validate(options)
    plain = PlainUpdates(folder, config)
    mini_batches = split(samples, config.mini_batch_prompts, derive_seed("mini-batches", 1, 0))
    expected = plain.batch(mini_batches, config.epochs, LONGEST)
    learner.accumulate(samples[:7])  # of any number of pieces
    learner.accumulate(samples[7:])
    metrics = learner.step()
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert expected["actor/num_updates"] == 3
    assert_same_updates(weights(learner), dict(plain.model.named_parameters()))
    return learner, metrics


@pytest.mark.parametrize("updates", THREE)
@pytest.mark.parametrize("name", LOSSES)
def test_three_updates_equal_plain_torch(make_learner: MakeLearner, tied_folder: Path, name: str, updates: str) -> None:
    samples = drawn(tied_folder, 9, seed=0)
    _, metrics = compared(make_learner, tied_folder, samples, {**LOSSES[name], **THREE[updates]})
    assert metrics["actor/clip_fraction"] > 0.02
    assert metrics["actor/ppo_kl"] != 0
    assert metrics["actor/importance_capped_fraction"] == 0
    assert abs(metrics["actor/kl_sampled"]) < 1e-5  # the engine against the weights before the first update


@pytest.mark.parametrize("name", ["ppo", "dual clip", "cispo"])
def test_the_engines_mismatch_weighs_tokens_beside_the_clip(
    make_learner: MakeLearner, tied_folder: Path, name: str
) -> None:
    """Log-probabilities far from the learner's: the importance weight is of the old weights in every update."""
    _, metrics = compared(make_learner, tied_folder, make_samples(9), {**LOSSES[name], "epochs": 3})
    assert metrics["actor/importance_capped_fraction"] > 0.1
    assert 0.02 < metrics["actor/clip_fraction"] < 0.9


def test_without_a_cap_the_ratio_is_taken_against_the_engine(make_learner: MakeLearner, tied_folder: Path) -> None:
    samples = drawn(tied_folder, 9, seed=3)
    options = {"importance_cap": None, "mini_batch_prompts": 3}
    _, exact = compared(make_learner, tied_folder, samples, options)
    off = [replace(sample, logprobs=tuple(p - 0.2 for p in sample.logprobs)) for sample in samples]
    _, shifted = compared(make_learner, tied_folder, off, options)
    # e^.2 is above the upper clip: tokens of positive advantage are clipped in the first update already.
    assert shifted["actor/clip_fraction"] > exact["actor/clip_fraction"] + 0.1


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant_length"])
def test_aggregation_is_of_the_mini_batch_with_groups_of_uneven_size(
    make_learner: MakeLearner, tied_folder: Path, aggregation: str
) -> None:
    samples = drawn(tied_folder, 9, seed=1)
    assert len({sum(s.prompt_id == f"p{p}" for s in samples) for p in range(9)}) > 2
    compared(make_learner, tied_folder, samples, {"aggregation": aggregation, "mini_batch_prompts": 3})


@pytest.mark.parametrize("share_prefix", [True, False])
def test_the_entropy_bonus_equals_that_of_whole_distributions(
    make_learner: MakeLearner, untied_folder: Path, share_prefix: bool
) -> None:
    samples = drawn(untied_folder, 6, seed=2)
    bonus = {"entropy_coefficient": 0.3, "epochs": 3, "share_prefix": share_prefix}
    learner, metrics = compared(make_learner, untied_folder, samples, bonus)
    assert metrics["actor/num_sequences_skipped"] == 0  # what has no advantage has an entropy too
    without = make_learner(untied_folder, max_response_tokens=LONGEST, **OPTIONS, epochs=3)
    without.accumulate(samples)
    assert without.step()["actor/entropy"] < metrics["actor/entropy"]
    moved = [(weights(learner)[name] - tensor).abs().max().item() for name, tensor in weights(without).items()]
    assert max(moved) > 10 * CLOSE


def test_the_losses_differ_where_their_bounds_act_and_nowhere_else(
    make_learner: MakeLearner, tied_folder: Path
) -> None:
    samples = drawn(tied_folder, 9, seed=0)
    for epochs, differ in ((1, False), (3, True)):
        ends = []
        for options in LOSSES.values():
            learner = make_learner(
                tied_folder, **{**OPTIONS, **options, "aggregation": "sequence_mean", "epochs": epochs}
            )
            learner.accumulate(samples)
            assert (learner.step()["actor/clip_fraction"] > 0) is differ
            ends.append(torch.cat([tensor.flatten() for tensor in weights(learner).values()]))
        for i, one in enumerate(ends):
            for other in ends[:i]:
                assert ((one - other).abs().max().item() > 2 * CLOSE) is differ


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_settings_that_make_one_update_give_the_same_bits_as_none(
    make_learner: MakeLearner, tied_folder: Path, zero_stage: int
) -> None:
    plain = make_learner(tied_folder, zero_stage=zero_stage, **OPTIONS)
    asked = make_learner(tied_folder, zero_stage=zero_stage, mini_batch_prompts=6, **OPTIONS)
    for seed in range(3):
        for learner in (plain, asked):
            learner.accumulate(make_samples(6, seed))
        one, other = plain.step(), asked.step()
        assert {name for name in one if name.startswith("actor/") and one[name] != other[name]} == set()
        assert one["actor/num_updates"] == 1
    assert_close(weights(plain), weights(asked), atol=0)


@pytest.mark.parametrize(("dtype", "zero_stage"), [("float32", 1), ("bfloat16", 1), ("bfloat16", 3)])
def test_a_resumed_run_makes_the_same_updates_at_the_same_rates(
    make_learner: MakeLearner, tied_folder: Path, tmp_path: Path, dtype: str, zero_stage: int
) -> None:
    options = {
        **OPTIONS,
        "zero_stage": zero_stage,
        "mini_batch_prompts": 2,
        "epochs": 2,
        "warmup_steps": 2,
        "schedule": "linear",
        "schedule_steps": 6,
    }
    first = make_learner(tied_folder, dtype, **options)
    rates = []
    for seed in range(3):
        first.accumulate(make_samples(5, seed))
        rates.append(first.step()["actor/lr"])
    first.save(tmp_path)
    second = make_learner(tied_folder, dtype, **options)
    second.load(tmp_path)
    for seed in range(3, 5):
        metrics = []
        for learner in (first, second):
            learner.accumulate(make_samples(5, seed))
            metrics.append(learner.step())
        rates.append(metrics[0]["actor/lr"])
        actor = [{k: v for k, v in one.items() if k.startswith("actor/")} for one in metrics]
        assert actor[0] == actor[1]
        assert actor[0]["actor/num_updates"] == 6  # 5 prompts in 3 mini-batches, twice
    # A step of six updates is one unit of the schedule: 1/2, 1, then t = 0, 1/4, 2/4.
    assert rates == pytest.approx([0.5e-2, 1e-2, 1e-2, 0.75e-2, 0.5e-2])
    assert_close(weights(second), weights(first), atol=0)


def test_an_update_that_is_not_finite_is_skipped_and_the_others_are_made(
    make_learner: MakeLearner, tied_folder: Path
) -> None:
    bad = [
        TrainSample(
            s.prompt_id, s.prompt_ids, s.response_ids, s.logprobs, (float("inf"),) * len(s.advantages), s.loss_mask, 0
        )
        if s.prompt_id == "p0"
        else s
        for s in make_samples(3)
    ]
    learner = make_learner(tied_folder, mini_batch_prompts=1, **OPTIONS)
    before = weights(learner)
    learner.accumulate(bad)
    metrics = learner.step()
    assert (metrics["actor/num_updates"], metrics["actor/update_skipped"]) == (3, 1)
    assert 0 < metrics["actor/grad_norm"] < float("inf")
    moved = [(tensor - before[name]).abs().max().item() for name, tensor in weights(learner).items()]
    assert 0 < max(moved) < 1
