"""The benchmark against TRL gives both sides the same work; what needs the engines or TRL is not run here."""

import argparse
import json
from pathlib import Path

import pytest
import yaml

from benchmarks import step_against_trl
from benchmarks.step_against_trl_rewards import REWARDS, distinct_reward, task_reward
from v05ray.job.config_files import load_config
from v05ray.rewards.verifiers import check_verifier, verifiers
from v05ray.types import Prompt


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """As without arguments, with a model folder and a TRL environment that are there."""
    model, python = tmp_path / "model", tmp_path / "python"
    model.mkdir()
    (model / "config.json").write_text("{}")
    python.touch()
    monkeypatch.chdir(step_against_trl.ROOT)
    return step_against_trl.parse(["--model", str(model), "--peer-python", str(python)])


@pytest.mark.parametrize("rewards", REWARDS)
def test_the_job_is_valid_and_is_the_work_that_was_asked_for(
    options: argparse.Namespace, tmp_path: Path, rewards: str
) -> None:
    options.rewards = rewards
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(step_against_trl.our_job(options, tmp_path / "data.jsonl", tmp_path / "runs")))
    config = load_config(job, [])
    assert (config.run.prompts_per_step, config.run.num_steps) == (16, options.steps + 1)
    assert (config.budget.rule.name, config.budget.rule.options) == ("fixed", {"n": 4})
    assert (config.learner.kl_coefficient, config.learner.aggregation) == (0.0, "sequence_mean")
    assert (config.model.dtype, config.sampling.max_tokens) == ("float32", 32)
    assert not config.data.shuffle
    assert not config.value.enabled
    check_verifier(config.rewards.verifier.name, config.rewards.verifier.options)


def test_no_prompt_is_there_twice() -> None:
    """v05ray drops a repeated question, and the sides would fall out of step."""
    entries = [{"question": question, "answer": "1"} for question in ("a", "b", "a", "c")]
    questions = [json.loads(line)["question"] for line in step_against_trl.different(entries, 3).splitlines()]
    assert questions == ["a", "b", "c"]
    with pytest.raises(SystemExit, match="4 different prompts"):
        step_against_trl.different(entries, 4)


@pytest.mark.parametrize("rewards", REWARDS)
def test_both_sides_score_a_response_alike(rewards: str) -> None:
    verify = verifiers.build("python", {"path": f"benchmarks.step_against_trl_rewards:{rewards}"})
    prompt = Prompt("p", "What is 3 + 4?", (), "7", "sums")
    for response in ("It is 7.", "8", ""):
        assert verify(prompt, response).reward == REWARDS[rewards]("7", response)


def test_the_task_is_solved_by_the_last_number() -> None:
    assert [task_reward("7", response) for response in ("3 + 4 = 7", "7 or 8", "")] == [1.0, -1.0, -1.0]


def test_responses_that_differ_have_rewards_of_their_own() -> None:
    rewards = [distinct_reward("7", f"response {i}") for i in range(100)]
    assert len(set(rewards)) == 100
    assert -1 <= min(rewards) < -0.8 < 0.8 < max(rewards) < 1
    assert distinct_reward("7", "response 0") == rewards[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--group", "1"], "--group must be at least 2"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--peer-micro-batch", "7"], "must divide 64 rollouts"),
        (["--model", "/nonexistent"], "no model in"),
        (["--peer-python", "/nonexistent"], "make bench-env"),
    ],
)
def test_what_cannot_be_measured_is_refused_first(
    options: argparse.Namespace, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    whole = ["--model", str(options.model), "--peer-python", str(options.peer_python), *arguments]
    with pytest.raises(SystemExit):
        step_against_trl.parse(whole)
    assert said in capsys.readouterr().err


def test_the_ratio_is_of_the_medians() -> None:
    ours = [step_against_trl.Step(seconds, 100, 0.5) for seconds in (2.0, 3.0, 40.0)]
    peer = [step_against_trl.Step(seconds, 100, 0.5) for seconds in (12.0, 18.0, 20.0)]
    assert step_against_trl.ratio_of({"v05ray": ours, "trl": peer}) == 6.0
    shorter = [step_against_trl.Step(step.seconds, 50, 0.5) for step in ours]
    assert step_against_trl.ratio_per_token({"v05ray": shorter, "trl": peer}) == 3.0
