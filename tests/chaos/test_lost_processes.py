"""Processes of a real run are killed in the middle of it; the run goes on, and its ledger is whole."""

import json
from pathlib import Path

from tests.chaos.tiny_run import TinyRun, assert_whole

SETTINGS = ("evaluation.every=0", "run.checkpoint_every=2")


def test_killed_actors_that_come_back_cost_no_rollout(tiny_model: Path, tmp_path: Path):
    with TinyRun(tiny_model, tmp_path, *SETTINGS, "run.num_steps=10") as run:
        for step, victim in ((2, "ray::GeneratorActor"), (4, "ray::RewardActor"), (6, "ray::ValueActor")):
            run.wait_for_step(step)
            run.signal(victim)
        assert run.end() == 0, run.printed
    assert_whole(run.folder, range(1, 11))
    summary = json.loads((run.folder / "summary.json").read_text())
    assert (summary["step"], summary["restarts"]) == (10, 0)
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("v05ray")
    assert experiment is not None
    (recorded,) = client.search_runs([experiment.experiment_id])
    assert recorded.data.metrics["v05/generator_restarts"] == 1


def test_a_killed_learner_and_a_killed_scheduler_cost_the_steps_since_the_checkpoint(tiny_model: Path, tmp_path: Path):
    with TinyRun(tiny_model, tmp_path, *SETTINGS, "run.num_steps=8") as run:
        for step, victim, named in (
            (3, "ray::LearnerActor", "learner rank 0 was lost in"),
            (5, "ray::SchedulerActor", "the scheduler"),
        ):
            run.wait_for_step(step)
            killed = run.signal(victim)
            again = rf"fresh actors go on from the checkpoint of step {step - 1} \(restart 1 of 3\)"
            run.wait_for(rf"{named}.*{again}", after=killed)
            run.wait_for_step(step, after=killed)
        assert run.end() == 0, run.printed
    ledger = assert_whole(run.folder, range(1, 9))
    summary = json.loads((run.folder / "summary.json").read_text())
    assert (summary["step"], summary["restarts"]) == (8, 2)
    # What was scored after the checkpoint is still there to read, and counts nowhere.
    aside = [step for superseded in ledger.superseded for step in superseded.steps]
    assert {3, 5} <= set(aside)
    assert all(superseded.check_conservation().ok for superseded in ledger.superseded)
    assert summary["totals"]["num_rollouts"] == ledger.rollouts().num_rows
    assert run.children() == []
