"""What the launcher decides by itself; that it works is shown on real runs (tests/e2e, tests/chaos)."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from v05ray.errors import ConfigError, RunError
from v05ray.job.config_files import make_config
from v05ray.job.preflight import outside_code
from v05ray.launch import evaluation as evaluation_run
from v05ray.launch import training as launch
from v05ray.launch.training import Restarts


def test_restarts_in_a_row_are_limited_and_progress_forgives_them():
    restarts = Restarts(limit=2)
    restarts.count(5, "learner rank 0 was lost")
    restarts.count(4, "learner rank 0 was lost")  # lost again on the way back
    assert restarts.in_a_row == 2
    restarts.count(6, "the scheduler is gone")  # step 6 got done: it does recover
    assert (restarts.in_a_row, restarts.total) == (1, 3)
    restarts.count(6, "the scheduler is gone")
    with pytest.raises(
        RunError, match="the scheduler is gone, after 2 fresh starts that got no further; fix the cause"
    ):
        restarts.count(6, "the scheduler is gone")


def test_without_restarts_the_first_loss_is_the_end():
    with pytest.raises(RunError, match=r"learner rank 1 was lost; .* raise run.max_restarts \(now 0\)"):
        Restarts(limit=0).count(3, "learner rank 1 was lost")


def test_code_from_outside_is_named():
    job: dict[str, dict[str, Any]] = {"model": {"path": "m"}, "data": {"train": "jsonl"}}
    assert outside_code(make_config(job)) == []
    job["rewards"] = {"verifier": {"name": "python", "path": "mine.verifiers:strict"}}
    job["model"]["trust_remote_code"] = True
    assert outside_code(make_config(job)) == [
        "rewards.verifier runs mine.verifiers:strict",
        "model.trust_remote_code: code in m runs",
    ]


@pytest.mark.parametrize(
    ("module", "command"), [(launch, "run"), (evaluation_run, "evaluate_only")], ids=["run", "evaluate_only"]
)
def test_an_output_dir_that_cannot_be_written_is_refused_first(
    module: ModuleType, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def heavy(*args: object, **kwargs: object) -> None:
        raise AssertionError("the machine was measured, or prompts were loaded, for a run that has no folder")

    for name in ("fit_to_machine", "prepare"):
        monkeypatch.setattr(module, name, heavy)
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "runs", Path("/proc/runs")):
        job = {
            "model": {"path": "m"},
            "data": {"train": "jsonl"},
            "run": {"output_dir": str(place)},
        }
        with pytest.raises(ConfigError, match=r"run\.output_dir .* cannot be made or written to"):
            getattr(module, command)(make_config(job))
