"""Processes of a real run are killed in the middle of it; the run resumes, and its ledger is whole.

One run suffers all of it: a start takes longer than the steps.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.tiny_run import TinyRun, assert_whole
from tests.chaos.world import SABOTAGE
from v05ray.ledger import LedgerReader

pytestmark = pytest.mark.timeout(600)
NUM_STEPS = 13
SETTINGS = (
    f"run.num_steps={NUM_STEPS}",
    "run.checkpoint_every=2",
    "data.eval=null",
    "rewards.memory_mib=512",
    "rewards.verifier={name: python, path: 'sabotaged_verifier:Verifier'}",
)


@dataclass(frozen=True)
class Survived:
    """The run after its end."""

    run: TinyRun
    ledger: LedgerReader
    comeback_s: float
    """When the last process was killed that comes back by itself, as the run's lines are timed."""

    @property
    def summary(self) -> dict:
        return json.loads((self.run.folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def survived(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Survived:
    output, sabotage = tmp_path_factory.mktemp("lost"), tmp_path_factory.mktemp("sabotage")
    path = os.pathsep.join([str(SABOTAGE), *filter(None, [os.environ.get("PYTHONPATH")])])
    with TinyRun(tiny_model, output, *SETTINGS, env={"PYTHONPATH": path, "V05RAY_SABOTAGE": str(sabotage)}) as run:
        at = 0.0
        for step, victim in ((2, "ray::GeneratorActor"), (4, "ray::RewardActor"), (6, "ray::ValueActor")):
            run.wait_for_step(step)
            at = run.signal(victim)
        run.wait_for_step(7)
        (sabotage / "eat-memory").touch()  # in step 8, whose checkpoint keeps it
        for step, victim, named in (
            (9, "ray::LearnerActor", "learner rank 0 was lost in"),
            (11, "ray::SchedulerActor", "the scheduler"),
        ):
            run.wait_for_step(step)
            killed = run.signal(victim)
            again = rf"fresh actors resume from the checkpoint of step {step - 1} \(restart 1 of 3\)"
            run.wait_for(rf"{named}.*{again}", after=killed)
            run.wait_for_step(step, after=killed)
        assert run.end() == 0, run.printed
    return Survived(run, assert_whole(run.folder, range(1, NUM_STEPS + 1)), at)


def test_killed_actors_that_come_back_cost_no_rollout(survived: Survived):
    first_restart = survived.run.wait_for("fresh actors resume")
    assert first_restart > survived.run.wait_for_step(8) > survived.comeback_s
    assert not [step for aside in survived.ledger.superseded for step in aside.steps if step < 9]
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{survived.run.folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("v05ray")
    assert experiment is not None
    (recorded,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(recorded.info.run_id, "v05/generator_restarts")
    assert {point.value for point in history if 3 < point.step < 9} == {1}


def test_a_verifier_that_eats_memory_costs_one_response_its_reward(survived: Survived):
    rows = survived.ledger.rollouts(columns=["step", "reward", "verdict"]).to_pylist()
    (refused,) = [row for row in rows if row["verdict"] == "error"]
    assert (refused["step"], refused["reward"]) == (8, -1)


def test_a_killed_learner_and_a_killed_scheduler_cost_the_steps_since_the_checkpoint(survived: Survived):
    assert (survived.summary["step"], survived.summary["restarts"]) == (NUM_STEPS, 2)
    # What was scored after the checkpoint is still there to read, and counts nowhere.
    aside = [step for superseded in survived.ledger.superseded for step in superseded.steps]
    assert {9, 11} <= set(aside)
    assert all(superseded.check_conservation().ok for superseded in survived.ledger.superseded)
    assert survived.summary["totals"]["num_rollouts"] == survived.ledger.rollouts().num_rows
    assert survived.run.children() == []
