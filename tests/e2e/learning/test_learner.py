from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.e2e.learning.plain import PlainLearner
from tests.e2e.learning.tiny import make_samples, model_config
from v05ray.config import LearnerConfig
from v05ray.errors import ConfigError
from v05ray.learning.learner import Learner

MakeLearner = Callable[..., Learner]
OPTIONS = {
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "micro_batch_tokens": 64,
}
CLOSE = 2e-4
"""2 % of one update: Adam divides small gradients by their own size, and so magnifies rounding."""


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.export_weights()}


def assert_close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], atol: float) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_steps_equal_plain_torch(
    make_learner: MakeLearner, tied_folder: Path, untied_folder: Path, tied: bool, share_prefix: bool
) -> None:
    folder = tied_folder if tied else untied_folder
    learner = make_learner(folder, share_prefix=share_prefix, **OPTIONS)
    plain = PlainLearner(folder, LearnerConfig.model_validate(OPTIONS))
    for step in range(3):
        samples = make_samples(6, seed=step)
        expected = plain.step(samples)
        learner.accumulate(samples)
        metrics = learner.step()
        assert metrics["actor/grad_norm"] == pytest.approx(expected["actor/grad_norm"], rel=1e-4)
        assert metrics["actor/grad_norm"] > OPTIONS["max_grad_norm"]  # else clipping would not be tested
        assert metrics["actor/lr"] == pytest.approx(expected["actor/lr"])
        assert metrics["actor/num_tokens"] == sum(len(sample.response_ids) for sample in samples)
        assert metrics["actor/update_skipped"] == 0
    assert_close(weights(learner), dict(plain.model.named_parameters()), atol=CLOSE)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant_length"])
def test_streaming_in_pieces_equals_one_call(
    make_learner: MakeLearner, tied_folder: Path, zero_stage: int, aggregation: str
) -> None:
    pieces = [make_samples(2, seed) for seed in range(4)]
    whole = make_learner(tied_folder, zero_stage=zero_stage, aggregation=aggregation, **OPTIONS)
    parts = make_learner(tied_folder, zero_stage=zero_stage, aggregation=aggregation, **OPTIONS)
    for _ in range(2):
        whole.accumulate([sample for piece in pieces for sample in piece])
        for piece in pieces:
            parts.accumulate(piece)
        one, many = whole.step(), parts.step()
        for name in ("actor/loss", "actor/grad_norm", "actor/entropy", "actor/kl_sampled"):
            assert many[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name
    assert_close(weights(parts), weights(whole), atol=CLOSE)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_bfloat16_has_the_true_norm_and_learns(make_learner: MakeLearner, untied_folder: Path, zero_stage: int) -> None:
    learner = make_learner(untied_folder, "bfloat16", zero_stage=zero_stage, **OPTIONS)
    plain = PlainLearner(untied_folder, LearnerConfig.model_validate(OPTIONS))
    for seed in range(3):
        samples = make_samples(6, seed)
        expected = plain.step(samples)
        learner.accumulate(samples[:5])
        learner.accumulate(samples[5:])
        assert learner.step()["actor/grad_norm"] == pytest.approx(expected["actor/grad_norm"], rel=0.05)
    for name, parameter in plain.model.named_parameters():
        tensor = weights(learner)[name]
        assert tensor.dtype == torch.bfloat16
        assert (tensor.float() - parameter).abs().mean() < 4e-3, (
            name
        )  # half of bfloat16 spacing at 1; the three updates moved 3e-2


def test_loss_and_metrics_by_definition(make_learner: MakeLearner, tied_folder: Path) -> None:
    learner = make_learner(tied_folder, importance_cap=1.5, **OPTIONS)
    plain = PlainLearner(tied_folder, LearnerConfig.model_validate(OPTIONS))
    samples = make_samples(4)
    computed = [sample for sample in samples if any(sample.advantages)]
    with torch.no_grad():
        logps = [plain.logprobs(sample) for sample in computed]
    log_ratio = torch.cat([logp - torch.tensor(s.logprobs) for logp, s in zip(logps, computed, strict=True)])
    advantages = torch.tensor([a for sample in computed for a in sample.advantages])
    num_tokens = sum(len(sample.response_ids) for sample in samples)
    learner.accumulate(samples)
    metrics = learner.step()
    assert len(computed) < len(samples)
    assert metrics["actor/loss"] == pytest.approx(
        -(log_ratio.exp().clamp(max=1.5) * advantages).sum().item() / num_tokens, rel=1e-4
    )
    assert metrics["actor/kl_sampled"] == pytest.approx(-log_ratio.mean().item(), rel=1e-4)
    assert metrics["actor/importance_capped_fraction"] == pytest.approx((log_ratio.exp() > 1.5).float().mean().item())
    assert metrics["actor/num_tokens_computed"] == len(log_ratio)
    assert metrics["actor/num_sequences_skipped"] == len(samples) - len(computed)
    separate = sum(len(sample.prompt_ids) + len(sample.response_ids) - 1 for sample in computed)
    assert metrics["perf/prefix_sharing"] == pytest.approx(separate / metrics["actor/num_input_tokens"])
    assert metrics["perf/prefix_sharing"] > 1.2


def test_all_advantages_zero_still_moves_by_momentum(make_learner: MakeLearner, tied_folder: Path) -> None:
    learner = make_learner(tied_folder, **OPTIONS)
    plain = PlainLearner(tied_folder, LearnerConfig.model_validate(OPTIONS))
    samples = make_samples(3)
    flat = [replace(sample, advantages=(0.0,) * len(sample.advantages)) for sample in samples]
    for batch in (samples, flat):
        plain.step(batch)
        learner.accumulate(batch)
        metrics = learner.step()
    assert metrics["actor/grad_norm"] == 0
    assert_close(weights(learner), dict(plain.model.named_parameters()), atol=CLOSE)


def test_a_parameter_that_no_pass_reached_moves_by_momentum_as_with_a_gradient_of_zero(
    make_learner: MakeLearner, tied_folder: Path
) -> None:
    after = []
    for reached in (True, False):
        learner = make_learner(tied_folder, **OPTIONS)
        learner.accumulate(make_samples(2))
        learner.step()
        learner.accumulate(make_samples(2, 1))
        parameter = next(learner._policy.parameters())
        before = parameter.detach().clone()
        parameter.grad = torch.zeros_like(parameter) if reached else None
        learner.step()
        assert not torch.equal(parameter, before)
        after.append(weights(learner))
    assert_close(after[0], after[1], atol=0)


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(
    make_learner: MakeLearner, tied_folder: Path
) -> None:
    for dtype in ("float32", "bfloat16"):
        learner = make_learner(tied_folder, dtype, **OPTIONS)
        before = weights(learner)
        bad = make_samples(1)[0]
        learner.accumulate([replace(bad, advantages=(float("inf"),) * len(bad.advantages))])
        assert learner.step()["actor/update_skipped"] == 1
        assert_close(weights(learner), before, atol=0)
        learner.accumulate(make_samples(2))
        assert learner.step()["actor/update_skipped"] == 0


@pytest.mark.parametrize(("dtype", "zero_stage"), [("float32", 1), ("bfloat16", 1), ("float32", 2), ("bfloat16", 3)])
def test_resume_is_bit_exact(
    make_learner: MakeLearner, tied_folder: Path, tmp_path: Path, dtype: str, zero_stage: int
) -> None:
    options = {**OPTIONS, "warmup_steps": 4, "zero_stage": zero_stage}
    first = make_learner(tied_folder, dtype, **options)
    for seed in range(2):
        first.accumulate(make_samples(3, seed))
        first.step()
    torch.manual_seed(5)
    np.random.seed(6)
    first.save(tmp_path)
    numbers = (torch.rand(1).item(), np.random.rand())
    first.accumulate(make_samples(3, 2))
    expected = first.step()
    second = make_learner(tied_folder, dtype, **options)
    second.load(tmp_path)
    assert (torch.rand(1).item(), np.random.rand()) == numbers
    second.accumulate(make_samples(3, 2))
    metrics = second.step()
    assert metrics["actor/lr"] == expected["actor/lr"] == pytest.approx(0.75e-2)
    assert metrics["actor/grad_norm"] == expected["actor/grad_norm"]
    assert_close(weights(second), weights(first), atol=0)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("zero_stage", [1, 3])
def test_export_is_a_model_folder(
    make_learner: MakeLearner, tied_folder: Path, untied_folder: Path, tmp_path: Path, tied: bool, zero_stage: int
) -> None:
    folder = tied_folder if tied else untied_folder
    learner = make_learner(folder, zero_stage=zero_stage, **OPTIONS)
    learner.accumulate(make_samples(3))
    learner.step()
    learner.export_hf(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert_close(weights(learner), dict(loaded.named_parameters()), atol=0)
    assert ("lm_head.weight" in weights(learner)) is not tied
    assert AutoTokenizer.from_pretrained(tmp_path).encode("1+1") == AutoTokenizer.from_pretrained(folder).encode("1+1")


def test_misuse_is_refused(make_learner: MakeLearner, tied_folder: Path, tmp_path: Path) -> None:
    learner = make_learner(tied_folder, **OPTIONS)
    with pytest.raises(RuntimeError, match="no batch to learn from"):
        learner.step()
    with pytest.raises(ConfigError, match="no learner checkpoint for rank 0"):
        learner.load(tmp_path)
    learner.save(tmp_path)
    with pytest.raises(ConfigError, match="made with DeepSpeed's ZeRO stage=0, this run has 2"):
        make_learner(tied_folder, zero_stage=2, **OPTIONS).load(tmp_path)
    learner.accumulate(make_samples(1))
    with pytest.raises(RuntimeError, match="would lose gradients"):
        learner.save(tmp_path)
    model = model_config(tied_folder).model_copy(update={"max_length": 512})
    with pytest.raises(ConfigError, match=r"micro_batch_tokens=64 cannot hold .*max_length=512"):
        Learner(0, 1, model, LearnerConfig(micro_batch_tokens=64), seed=0)
    with pytest.raises(ConfigError, match=r"no config\.json in"):
        Learner(0, 1, model_config(tmp_path / "nowhere"), LearnerConfig(), seed=0)
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        Learner(0, 1, model_config(tied_folder), LearnerConfig(num_gpus=1), seed=0)
