"""The parts in `examples/`, all of them in one run of the command: Ray's workers find them as the command does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from v05ray.ledger import LedgerReader

ROOT = Path(__file__).parents[3]
JOB = """
recipe: v05
run: {{name: parts, output_dir: {folder}/runs, num_steps: 2, prompts_per_step: 8}}
model: {{path: {model}, dtype: float32, max_length: 256}}
data:
  train: {{name: python, path: "sums:sums", options: {{size: 40, largest: 9}}}}
  chat_template: false
sampling: {{max_tokens: 8}}
advantage: {{name: python, path: "pseudo_count:PseudoCount", options: {{strength: 2}}}}
budget: {{rule: {{name: python, path: "until_success:UntilSuccess", options: {{n: 2, n_max: 5}}}}}}
learner:
  policy_loss: {{name: python, path: "soft_clip:SoftClip", options: {{width: 0.5}}}}
  learning_rate: 1.0e-4
  num_cpus: 0.75
  num_threads: 1
generators: {{num_cpus: 0.5, num_threads: 1}}
rewards:
  num_cpus: 0.25
  verifier: {{name: python, path: "close_enough:close_enough", options: {{tolerance: 0.5}}}}
value:
  num_cpus: 0.25
  min_support: 8
  fallback: false
  recalibrate: false
  backend: {{name: python, path: "like_lengths:LikeLengths", options: {{neighbours: 4}}}}
"""


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A job and the parts that it names, far from the tree."""
    shutil.copytree(ROOT / "examples", tmp_path / "parts")
    (tmp_path / "empty").mkdir()
    (tmp_path / "job.yaml").write_text(JOB.format(folder=tmp_path, model=tiny_model))
    return tmp_path


def run(folder: Path, command: str, *overrides: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "parts"), str(ROOT)])}
    arguments = [sys.executable, "-P", "-m", "v05ray.cli", command, str(folder / "job.yaml"), *overrides]
    return subprocess.run(arguments, capture_output=True, text=True, cwd=folder / "empty", env=env, timeout=280)


def test_two_steps_with_every_example(folder: Path):
    done = run(folder, "train")
    assert done.returncode == 0, done.stdout + done.stderr
    for named in ("advantage runs pseudo_count:PseudoCount", "data.train runs sums:sums"):
        assert f"code from outside of v05ray: {named}" in done.stderr
    ledger = LedgerReader(folder / "runs" / "parts" / "ledger")
    assert ledger.steps == (1, 2)
    for step in ledger.steps:
        groups = ledger.groups(step)
        assert {group.source for group in groups} == {"sums"}
        for group in groups:
            rewards, prior = group.rewards, group.prior
            assert prior is not None
            assert prior.origin == ("base_rate" if step == 1 else "v0")
            # The rule: two at least, then one by one until one is right (or in part), five at most.
            assert len(rewards) == 5 or (2 <= len(rewards) <= 5 and max(rewards) > 0)
            assert all(reward <= 0 for reward in rewards[2:-1])
            # The estimator: the others' rewards with two rollouts' worth of prior.
            for rollout in group.rollouts:
                baseline = (2 * prior.value + sum(rewards) - rollout.reward) / (2 + len(rewards) - 1)
                assert rollout.advantage == pytest.approx(rollout.reward - baseline)
        assert {rollout.verifier for group in groups for rollout in group.rollouts} == {"python"}
    # The verifier gives parts of the reward, which none of the built-in ones does.
    all_rewards = [reward for step in ledger.steps for group in ledger.groups(step) for reward in group.rewards]
    assert any(-1 < reward < 1 for reward in all_rewards)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "budget.rule.options.n=9",
            "budget rule 'until_success:UntilSuccess': needs 1 <= n <= n_max, got n=9, n_max=5",
        ),
        ("data.train.0.path=summs:sums", "data source 'python': cannot import 'summs:sums': No module named 'summs'"),
        ("rewards.verifier.options.tolerances=1", "has no option 'tolerances'; did you mean 'tolerance'?"),
    ],
)
def test_doctor_refuses_a_part_that_cannot_be_used(folder: Path, override: str, message: str):
    done = run(folder, "doctor", override)
    assert done.returncode != 0
    assert message in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stdout + done.stderr
