"""`evaluate_only` from the prompts to the files, with fakes where the cluster would be."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from tests import fakes
from v05ray.errors import ConfigError
from v05ray.evaluation.responses import read_responses
from v05ray.job.config_files import make_config
from v05ray.launch import evaluation as evaluation_run
from v05ray.launch.evaluation import EvaluationStopped, evaluate_only
from v05ray.stopping.exit_codes import ExitCode
from v05ray.types import DrawRequest, Rollout

PROMPTS = [fakes.make_prompt(name, source="sums") for name in ("p1", "p2", "p3")]
SCRIPT = {"p1": [1, -1], "p2": [-1, -1], "p3": [1, 1]}


class Machine:
    """Where the actors would be; a signal comes after `stop_after` draws, where that is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.generator = fakes.FakeGenerator(SCRIPT)
        self.stop_after: int | None = None
        self.starts = 0
        monkeypatch.setattr(evaluation_run, "prepare_sets", lambda config: PROMPTS)
        monkeypatch.setattr(evaluation_run, "check_resources", lambda *arguments: None)
        monkeypatch.setattr(evaluation_run, "model_digest", lambda folder: "digest")
        monkeypatch.setattr(evaluation_run, "cluster", lambda *arguments: contextlib.nullcontext())
        monkeypatch.setattr(evaluation_run, "start_inference", self.start)

    @contextlib.asynccontextmanager
    async def start(self, config):
        self.starts += 1
        yield self, fakes.FakeRewardPool()

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        if self.stop_after is not None and len(self.generator.requests) >= self.stop_after:
            await asyncio.sleep(0.05)  # what was drawn before is scored and kept
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(5)
        return await self.generator.draw(request)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def config_of(folder: Path, *overrides: str):
    written = {
        "model": {"path": "m", "dtype": "float32"},
        "data": {"train": "jsonl"},
        "run": {"output_dir": str(folder)},
        "generators": {"num_threads": 1},
        "learner": {"num_threads": 1},
        "evaluation": {"samples_per_prompt": 2},
    }
    return make_config(written, overrides)


def test_it_names_the_folder_that_holds_responses_and_metrics(machine, tmp_path):
    done = evaluate_only(config_of(tmp_path), benchmarks=True)
    assert done.folder == tmp_path / "v05-eval"
    assert read_responses(done.folder / "responses.parquet") == list(done.report.rows)
    assert json.loads((done.folder / "metrics.json").read_text()) == done.report.metrics
    assert done.report.metrics["val/sums/mean_at_2"] == pytest.approx(0.5)


def test_given_again_a_finished_one_starts_nothing_and_another_is_refused(machine, tmp_path):
    out = tmp_path / "out"
    first = evaluate_only(config_of(tmp_path), benchmarks=True, out=out)
    assert evaluate_only(config_of(tmp_path), benchmarks=True, out=out) == first
    assert machine.starts == 1
    with pytest.raises(ConfigError, match=r"seed: 0 there, 1 here"):
        evaluate_only(config_of(tmp_path, "run.seed=1"), benchmarks=True, out=out)
    assert machine.starts == 1


def test_stopped_by_a_signal_it_says_what_is_kept_and_resumes_there(machine, tmp_path):
    out = tmp_path / "out"
    machine.stop_after = 4
    with pytest.raises(EvaluationStopped, match=rf"4 of 6 draws are kept in {out}.*--out") as stopped:
        evaluate_only(config_of(tmp_path), benchmarks=True, out=out)
    assert stopped.value.code is ExitCode.STOPPED
    machine.stop_after = None
    done = evaluate_only(config_of(tmp_path), benchmarks=True, out=out)
    assert len(machine.generator.requests) == 6
    assert done.report == evaluate_only(config_of(tmp_path), benchmarks=True).report
    assert not (out / "parts.jsonl").exists()
