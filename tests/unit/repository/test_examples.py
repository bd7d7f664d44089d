"""The examples are used as their readers would: from a folder outside this one, through a config."""

import logging
import shutil
import sys
from pathlib import Path

import pytest
import torch

from v05ray import advantages, budget, losses
from v05ray.budget import BatchMachine
from v05ray.config import Config
from v05ray.data.rows import Row
from v05ray.data.sources import sources
from v05ray.errors import ConfigError
from v05ray.job.config_files import make_config, to_yaml
from v05ray.losses.base import LossInput
from v05ray.rewards.verifiers import verifiers
from v05ray.types import Draw, Prompt, Stop, SupportExample
from v05ray.value.model import ValueModel

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.py"))
JOB = {
    "model": {"path": "m"},
    "data": {"train": {"name": "python", "path": "sums:sums", "options": {"size": 5, "largest": 3}}},
    "advantage": {"name": "python", "path": "pseudo_count:PseudoCount", "options": {"strength": 2}},
    "budget": {"rule": {"name": "python", "path": "until_success:UntilSuccess", "options": {"n": 1, "n_max": 3}}},
    "learner": {"policy_loss": {"name": "python", "path": "soft_clip:SoftClip", "options": {"width": 0.5}}},
    "rewards": {"verifier": {"name": "python", "path": "close_enough:close_enough", "options": {"tolerance": 0.5}}},
    "value": {
        "min_support": 4,
        "backend": {"name": "python", "path": "like_lengths:LikeLengths", "options": {"neighbours": 2}},
    },
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    for example in EXAMPLES:
        shutil.copy(example, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for example in EXAMPLES:
        monkeypatch.delitem(sys.modules, example.stem, raising=False)
    return make_config(JOB)


def test_there_is_one_of_each_kind_and_none_is_long():
    assert len(EXAMPLES) == 6
    assert [one.name for one in EXAMPLES if len(one.read_text().splitlines()) > 40] == []


def test_the_estimator(config: Config):
    estimator = advantages.build(config.advantage.name, **config.advantage.options)
    (computed,) = estimator.compute([advantages.GroupView("p", (1.0, -1.0), prior=0.5)])
    # (2 * .5 - 1) / 3 = 0 and (2 * .5 + 1) / 3 = 2/3
    assert computed.values == pytest.approx((1.0, -1 - 2 / 3))


def test_the_rule(config: Config):
    rule = budget.build(config.budget.rule.name, config.budget.rule.options)
    machine = BatchMachine({"a": None, "b": None}, rule, halt_fraction=0)
    assert [d.action.num_rollouts for d in machine.start() if isinstance(d.action, Draw)] == [1, 1]
    (stopped,) = machine.observe("a", 1.0)
    assert isinstance(stopped.action, Stop)
    assert stopped.action.reason == "target_reached"
    for _ in range(2):
        (drawn,) = machine.observe("b", -1.0)
        assert drawn.action == Draw("b", 1)
    (stopped,) = machine.observe("b", -1.0)
    assert isinstance(stopped.action, Stop)
    assert (stopped.action.reason, machine.done) == ("cap", True)


def test_the_loss(config: Config):
    loss = losses.build(config.learner)
    current = torch.tensor([0.0, 0.0], requires_grad=True)
    advantages_N, sequence_N = torch.tensor([1.0, -2.0]), torch.tensor([0, 1])
    base = torch.tensor([0.0, -3.0])
    computed = loss(LossInput(current, base, base, advantages_N, sequence_N))
    assert computed.loss_N.tolist() == pytest.approx([-1.0, 3.0])  # r = 1 as it is; r = e^3 bounded by 1 + .5
    assert computed.clipped_N.tolist() == [False, True]
    computed.loss_N.sum().backward()
    assert current.grad is not None
    assert current.grad.tolist() == pytest.approx([-1.0, 0.0], abs=1e-6)


def test_the_verifier(config: Config):
    verify = verifiers.build(config.rewards.verifier.name, config.rewards.verifier.options)
    prompt = Prompt("p", "2 + 2 =", (), "4", "sums")
    assert [verify(prompt, text).reward for text in ("4", "5", "9", "none")] == [1.0, 0.0, -1.0, -1.0]


def test_the_source_gets_the_runs_seed(config: Config):
    spec = config.data.train[0]
    source = sources.build(spec.name, spec.options, offered={"seed": 7})
    questions = [row.question for row in source.rows if isinstance(row, Row)]
    assert (len(set(questions)), source.size) == (5, 5)
    again = sources.build(spec.name, spec.options, offered={"seed": 7})
    assert [row.question for row in again.rows if isinstance(row, Row)] == questions
    with pytest.raises(ConfigError, match=r"data source 'sums:sums': size must lie in \[1, 16\]"):
        sources.build("python", {"path": "sums:sums", "options": {"size": 17, "largest": 3, "seed": 1}})


def test_the_value_backend(config: Config):
    model = ValueModel.load(config.value, announce=False)
    assert model.choice == "value model: value backend 'like_lengths:LikeLengths', as value.backend says"
    support = [SupportExample(str(i), "x" * length, score, 0) for i, (length, score) in enumerate(SUPPORT)]
    short, long = Prompt("s", "xx", (), "", ""), Prompt("l", "x" * 9, (), "", "")
    priors = model.predict([short, long], support, policy_version=0, seed=0)
    # (1 + 1 + 1) / 4 and (0 + 0 + 1) / 4 as values in [-1, 1]
    assert [(prior.value, prior.origin) for prior in priors] == [(0.5, "v0"), (-0.5, "v0")]


SUPPORT = [(1, 1.0), (2, 1.0), (8, -1.0), (10, -1.0)]


def test_the_config_is_saved_and_read_back_and_names_the_code_before_it_runs(
    config: Config, caplog: pytest.LogCaptureFixture
):
    import yaml

    with caplog.at_level(logging.WARNING):
        assert make_config(yaml.safe_load(to_yaml(config))) == config
    named = [record.getMessage() for record in caplog.records]
    assert "code from outside of v05ray: learner.policy_loss runs soft_clip:SoftClip" in named
    assert len(named) == 4  # the verifier and the source are named where they are loaded


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("advantage.options.strength=0", "advantage 'pseudo_count:PseudoCount': strength must be > 0, got 0"),
        ("budget.rule.options.nmax=3", "budget rule 'until_success:UntilSuccess' has no option 'nmax'; did you mean"),
        (
            "learner.policy_loss.path=soft_clip:Soft",
            "module 'soft_clip' has no attribute 'Soft'; did you mean 'SoftClip'",
        ),
        ("value.backend.options.neighbors=3", "'like_lengths:LikeLengths' has no option 'neighbors'; did you mean"),
        ("value.backend=bundel", "unknown value backend 'bundel'; did you mean 'bundle'?"),
        ("learner.policy_loss=pp", "unknown policy loss 'pp'; did you mean 'ppo'?"),
        ("learner.policy_loss.options=3", "policy loss 'soft_clip:SoftClip': options must be a mapping"),
    ],
)
def test_a_config_with_a_part_that_cannot_be_used_is_refused(config: Config, override: str, message: str):
    with pytest.raises(ConfigError) as error:
        make_config(JOB, [override])
    assert message in str(error.value)
