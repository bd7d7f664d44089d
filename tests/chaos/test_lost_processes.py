"""Processes of a real run are killed in the middle of it; the run goes on, and its ledger is whole."""

import json
from pathlib import Path

import pytest

from tests.chaos.tiny_run import TinyRun, assert_whole

LENGTH = ("run.num_steps=6", "evaluation.every=0", "run.checkpoint_every=2")


@pytest.mark.parametrize(
    ("victim", "metric"),
    [("ray::GeneratorActor", "v05/generator_restarts"), ("ray::RewardActor", None), ("ray::ValueActor", None)],
)
def test_a_killed_actor_costs_no_rollout(tiny_model: Path, tmp_path: Path, victim: str, metric: str | None):
    with TinyRun(tiny_model, tmp_path, *LENGTH) as run:
        run.wait_for_step(2)
        run.signal(victim)
        assert run.end() == 0, run.printed
    assert_whole(run.folder, range(1, 7))
    summary = json.loads((run.folder / "summary.json").read_text())
    assert (summary["step"], summary["restarts"]) == (6, 0)
    if metric is not None:
        import mlflow

        client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("v05ray")
        assert experiment is not None
        (recorded,) = client.search_runs([experiment.experiment_id])
        assert recorded.data.metrics[metric] == 1


@pytest.mark.parametrize(
    ("victim", "named"), [("ray::LearnerActor", "learner rank 0 was lost in"), ("ray::SchedulerActor", "the scheduler")]
)
def test_a_killed_learner_or_scheduler_costs_the_steps_since_the_checkpoint(
    tiny_model: Path, tmp_path: Path, victim: str, named: str
):
    with TinyRun(tiny_model, tmp_path, *LENGTH) as run:
        run.wait_for_step(3)
        killed = run.signal(victim)
        run.wait_for(rf"{named}.*fresh actors go on from the checkpoint of step 2 \(restart 1 of 3\)", after=killed)
        run.wait_for_step(3, after=killed)
        assert run.end() == 0, run.printed
    ledger = assert_whole(run.folder, range(1, 7))
    summary = json.loads((run.folder / "summary.json").read_text())
    assert (summary["step"], summary["restarts"]) == (6, 1)
    # What was scored after the checkpoint is still there to read, and counts nowhere.
    aside = [step for superseded in ledger.superseded for step in superseded.steps]
    assert 3 in aside
    assert all(superseded.check_conservation().ok for superseded in ledger.superseded)
    assert summary["totals"]["num_rollouts"] == ledger.rollouts().num_rows
    assert run.children() == []
