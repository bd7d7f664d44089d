from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.value.worlds import world
from v05ray.errors import ConfigError
from v05ray.value.bundle import BundleInfo, load_bundle, save_bundle
from v05ray.value.features import FeatureMap
from v05ray.value.head import HeadConfig, ValueHead
from v05ray.value.predicting import predict_by_policy, probabilities
from v05ray.value.scores import log_losses
from v05ray.value.train import NotBetterThanBaseRate, fit, train
from v05ray.value.trainer import Trainer, TrainOptions, split_rows, task_loss

OPTIONS = TrainOptions(
    max_steps=60, head_learning_rate=3e-3, num_tasks=2, support_size=48, num_queries=16, evaluate_every=10, patience=4
)


def start() -> tuple[FeatureMap, ValueHead]:
    torch.manual_seed(0)
    features = FeatureMap(16, 4, bottleneck=4)
    head = ValueHead(HeadConfig(features.num_columns, width=16, num_layers=2, num_heads=2, num_thinking_rows=2))
    return features, head


def start_bundle(path: Path) -> Path:
    features, head = start()
    save_bundle(path, features, head, BundleInfo("hash", 16, 4, 4, head.head_config, (1.0, 0.0), False, 0, "a test"))
    return path


def quiet(text: str) -> None:
    """Takes progress lines and drops them."""


def test_the_split_is_by_text_and_complete():
    data = world(60)
    split = split_rows(data, OPTIONS)
    parts = [set(data.text_N[rows].tolist()) for rows in (split.train, split.validation, split.test)]
    assert len(parts[0] | parts[1] | parts[2]) == sum(map(len, parts))
    assert sorted(np.concatenate([split.train, split.validation, split.test]).tolist()) == list(range(120))
    assert len(parts[2]) == 12


def test_pairwise_loss_worked_by_hand():
    margins, rates = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    # One pair, margin difference -2: -log sigmoid(-2) = 2.126928; CE: (log 2 + 2.126928) / 2.
    assert float(task_loss(margins, rates, 1.0)) == pytest.approx(2.126928, abs=1e-5)
    assert float(task_loss(margins, rates, 0.0)) == pytest.approx((0.693147 + 2.126928) / 2, abs=1e-5)
    assert float(task_loss(margins, rates, 0.25)) == pytest.approx(0.25 * 2.126928 + 0.75 * 1.410038, abs=1e-5)
    equal = torch.tensor([[0.5, 0.5]])
    assert float(task_loss(margins, equal, 1.0)) == 0.0


def test_training_learns_what_is_hard_and_writes_a_bundle_that_predicts_it(tmp_path: Path):
    data = world(150, levels=(-1.0, 0.0, 1.0))
    out = tmp_path / "v0.safetensors"
    metrics = train(
        data, out, options=OPTIONS, command="test", start=start_bundle(tmp_path / "s.safetensors"), report=quiet
    )
    assert metrics["v0"]["log_loss"] < metrics["base_rate"]["log_loss"] - 0.05
    assert metrics["v0"]["auc"] > 0.8
    features, head, info = load_bundle(out)
    assert info.command == "test"
    assert info.notes["policies"] == ["world/m@0", "world/m@1", "world/m@2"]
    assert not out.with_name("v0.safetensors.resume").exists()
    split = split_rows(data, OPTIONS)
    support = np.concatenate([split.train, split.validation])
    margins, _ = predict_by_policy(features, head, data, support, split.test, support_size=48, seed=0)
    loss = log_losses(probabilities(margins, info.calibration), data.rate_N[split.test]).mean()
    assert float(loss) == pytest.approx(metrics["v0"]["log_loss"], abs=1e-5)


def test_what_does_not_beat_the_base_rate_is_not_written(tmp_path: Path):
    data = world(80)
    options = replace(OPTIONS, max_steps=20)
    test = split_rows(data, options).test
    data.rate_N[test] = 1 - data.rate_N[test]  # what was learnt is wrong for exactly these prompts
    out = tmp_path / "v0.safetensors"
    with pytest.raises(NotBetterThanBaseRate, match="no bundle was written"):
        train(data, out, options=options, command="", start=start_bundle(tmp_path / "s.safetensors"), report=quiet)
    assert not out.exists()


class Interrupted(RuntimeError):
    pass


def test_an_interrupted_training_resumes_and_ends_where_an_unbroken_one_does(tmp_path: Path):
    data = world(80)
    split = split_rows(data, OPTIONS)
    options = replace(OPTIONS, max_steps=12, evaluate_every=4, patience=100)
    whole = fit(start(), data, split, options, report=quiet)

    def interrupt(text: str) -> None:
        if text.startswith("step 8/"):
            raise Interrupted

    # The state of step 4 is on disk when step 8's report interrupts.
    with pytest.raises(Interrupted):
        fit(start(), data, split, options, report=interrupt, resume=tmp_path / "r")
    resumed = fit(start(), data, split, options, report=quiet, resume=tmp_path / "r")
    assert resumed.steps == whole.steps
    for one, other in ((whole.features, resumed.features), (whole.head, resumed.head)):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_resumed_training_with_other_options_is_refused(tmp_path: Path):
    data = world(60)
    split = split_rows(data, OPTIONS)
    options = replace(OPTIONS, max_steps=10)
    fit(start(), data, split, options, report=quiet, resume=tmp_path / "r")
    with pytest.raises(ConfigError, match="other options"):
        fit(start(), data, split, replace(options, seed=1), report=quiet, resume=tmp_path / "r")


def test_equal_seeds_train_equally():
    data = world(60)
    split = split_rows(data, OPTIONS)
    options = replace(OPTIONS, max_steps=5)
    one, other = (fit(start(), data, split, options, report=quiet) for _ in range(2))
    for name, tensor in one.head.state_dict().items():
        assert torch.equal(tensor, other.head.state_dict()[name])


def test_the_queries_difficulty_is_the_out_of_fold_one():
    """Otherwise the head learns to trust a column that knows the training prompts by heart."""
    data = world(80)
    split = split_rows(data, OPTIONS)
    features, head = start()
    features.fit(data.embeddings_UH, data.statistics_US)
    trainer = Trainer(features.eval(), head, data, split, replace(OPTIONS, noise=0.0))
    support, queries = split.train[:20], split.train[20:30]
    columns = trainer._noisy_columns(support, queries)
    assert torch.equal(columns[20:, 0], trainer._unseen_difficulty_U[data.text_N[queries]])
    fitted = features(data.embeddings_UH, data.statistics_US, data.ngrams_UG)[:, 0]
    assert not torch.allclose(columns[20:, 0], fitted[data.text_N[queries]])


def test_too_few_prompts_are_refused():
    with pytest.raises(ConfigError, match="4 prompts are too few"):
        split_rows(world(4), OPTIONS)
    data = world(30)
    with pytest.raises(ConfigError, match="no policy has 32 prompts"):
        fit(start(), data, split_rows(data, OPTIONS), OPTIONS, report=quiet)
