"""The KL penalty of the real learner against plain torch, where the frozen start is a second whole model."""

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

MakeLearner = Callable[..., Learner]


def penalised(estimator: str = "k3", **options: object) -> dict:
    return {**OPTIONS, "kl_coefficient": 0.5, "kl_estimator": estimator, **options}


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_steps_equal_plain_torch(
    make_learner: MakeLearner, tied_folder: Path, estimator: str, share_prefix: bool
) -> None:
    options = penalised(estimator, share_prefix=share_prefix)
    learner = make_learner(tied_folder, **options)
    plain = PlainLearner(tied_folder, LearnerConfig.model_validate(options))
    unpenalised = PlainLearner(tied_folder, LearnerConfig.model_validate(OPTIONS))
    for step in range(3):
        samples = make_samples(6, seed=step)
        expected = plain.step(samples)
        unpenalised.step(samples)
        learner.accumulate(samples)
        metrics = learner.step()
        assert metrics["actor/grad_norm"] == pytest.approx(expected["actor/grad_norm"], rel=1e-4)
        assert metrics["actor/num_tokens_computed"] == metrics["actor/num_tokens"]
        assert metrics["actor/num_sequences_skipped"] == 0  # what has no advantage is still pulled back
    assert_close(weights(learner), dict(plain.model.named_parameters()), atol=CLOSE)
    moved = zip(plain.model.parameters(), unpenalised.model.parameters(), strict=True)
    assert max((a - b).abs().max().item() for a, b in moved) > 10 * CLOSE  # else the penalty would not be tested


@pytest.mark.parametrize("zero_stage", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_start_is_at_no_distance_from_itself(
    make_learner: MakeLearner, tied_folder: Path, dtype: str, zero_stage: int
) -> None:
    learner = make_learner(tied_folder, dtype, **penalised(zero_stage=zero_stage))
    learner.accumulate(make_samples(4))
    first = learner.step()
    assert (first["actor/kl"], first["actor/kl_loss"]) == (0, 0)
    learner.accumulate(make_samples(4))
    second = learner.step()
    assert second["actor/kl"] > 1e-3
    assert second["actor/kl_loss"] == pytest.approx(0.5 * second["actor/kl"], rel=1e-6)  # token_mean: the same mean


def test_metrics_by_definition(make_learner: MakeLearner, tied_folder: Path) -> None:
    options = penalised("k2", aggregation="sequence_mean")
    learner = make_learner(tied_folder, **options)
    plain = PlainLearner(tied_folder, LearnerConfig.model_validate({**options, "aggregation": "token_mean"}))
    moving, samples = make_samples(4, seed=1), make_samples(4)
    flat = [replace(sample, advantages=(0.0,) * len(sample.advantages)) for sample in samples]
    learner.accumulate(moving)
    learner.step()
    plain.model.load_state_dict(weights(learner), strict=False)  # tied weights have one name here
    with torch.no_grad():
        penalties = [plain.penalty(sample) for sample in flat]
    learner.accumulate(flat)
    metrics = learner.step()
    assert metrics["actor/kl"] == pytest.approx(torch.cat(penalties).mean().item(), rel=1e-3)
    mean = sum(penalty.mean().item() for penalty in penalties) / len(penalties)
    assert metrics["actor/kl_loss"] == pytest.approx(0.5 * mean, rel=1e-3)
    assert metrics["actor/loss"] == pytest.approx(metrics["actor/kl_loss"])  # no advantage, so nothing else


def test_a_resumed_run_is_measured_from_the_same_start(
    make_learner: MakeLearner, tied_folder: Path, tmp_path: Path
) -> None:
    first = make_learner(tied_folder, **penalised())
    for seed in range(2):
        first.accumulate(make_samples(3, seed))
        first.step()
    first.save(tmp_path)
    second = make_learner(tied_folder, **penalised())
    second.load(tmp_path)
    results = []
    for learner in (first, second):
        learner.accumulate(make_samples(3, 2))
        results.append(learner.step())
    assert results[0]["actor/kl"] > 1e-3
    for name in ("actor/kl", "actor/kl_loss", "actor/grad_norm"):
        assert results[1][name] == results[0][name]
    assert_close(weights(second), weights(first), atol=0)


def test_without_a_coefficient_there_is_no_second_model(make_learner: MakeLearner, tied_folder: Path) -> None:
    learner = make_learner(tied_folder, **OPTIONS)
    learner.accumulate(make_samples(2))
    assert not {"actor/kl", "actor/kl_loss"} & learner.step().keys()
