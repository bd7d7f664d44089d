"""Processes of a real run are killed in the middle of it; the run goes on, and its ledger is whole."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from v05ray.ledger import LedgerReader

ROOT = Path(__file__).parents[2]


def kill(process: subprocess.Popen[str], name: str) -> None:
    """Kills the run's worker process of this name with SIGKILL."""
    for child in psutil.Process(process.pid).children(recursive=True):
        if name in "".join(child.cmdline()):
            child.kill()
            return
    raise AssertionError(f"no process {name!r} to kill")


@pytest.mark.parametrize(
    ("victim", "metric"),
    [("ray::GeneratorActor", "v05/generator_restarts"), ("ray::RewardActor", None), ("ray::ValueActor", None)],
)
def test_a_killed_actor_costs_no_rollout(tiny_model: Path, tmp_path: Path, victim: str, metric: str | None):
    job = ROOT / "jobs" / "tiny_cpu.yaml"
    program = [sys.executable, "-m", "v05ray.cli", "train", str(job), f"model.path={tiny_model}"]
    overrides = [f"run.output_dir={tmp_path}", "run.num_steps=6", "evaluation.every=0"]
    with subprocess.Popen([*program, *overrides], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        printed = []
        for line in run.stdout:
            printed.append(line)
            if line.startswith("step 2/"):
                kill(run, victim)
    assert run.returncode == 0, "".join(printed)
    ledger = LedgerReader(tmp_path / "tiny" / "ledger")
    assert list(ledger.steps) == [1, 2, 3, 4, 5, 6]
    conservation = ledger.check_conservation()
    assert conservation.ok, conservation.problems
    versions = {
        (r["step"], r["policy_version"]) for r in ledger.rollouts(columns=["step", "policy_version"]).to_pylist()
    }
    assert versions == {(step, step - 1) for step in range(1, 7)}
    assert json.loads((tmp_path / "tiny" / "summary.json").read_text())["step"] == 6
    if metric is not None:
        import mlflow

        client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("v05ray")
        assert experiment is not None
        (recorded,) = client.search_runs([experiment.experiment_id])
        assert recorded.data.metrics[metric] == 1
