"""The command, as a person runs it: real Ray, vLLM, DeepSpeed, V0, MLflow, on the tiny model."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
from safetensors.numpy import load_file

from v05ray.cli import main
from v05ray.ledger import LedgerReader
from v05ray.stopping.exit_codes import ExitCode

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "tiny_cpu.yaml"
SECRETS = {
    "HF_TOKEN": "hf-not-for-any-file",
    "MLFLOW_TRACKING_USERNAME": "somebody",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-not-for-any-file",
    "AWS_SECRET_ACCESS_KEY": "aws-not-for-any-file",
}
"""In the environment of the whole run."""


def command(model: Path, output: Path, *overrides: str) -> list[str]:
    program = [sys.executable, "-m", "v05ray.cli", "train", str(JOB)]
    return [*program, f"model.path={model}", f"run.output_dir={output}", *overrides]


def train(model: Path, output: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **SECRETS}
    done = subprocess.run(command(model, output, *overrides), capture_output=True, text=True, timeout=280, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def whole_run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("whole")
    done = train(tiny_model, output)
    return output / "tiny", done.stdout + done.stderr


def test_the_tiny_run_learns(whole_run: tuple[Path, str]):
    run, _ = whole_run
    summary = json.loads((run / "summary.json").read_text())
    assert summary["step"] == 20
    assert [entry["step"] for entry in summary["curve"]] == [0, 5, 10, 15, 20]
    ledger = LedgerReader(run / "ledger")
    # Per prompt and then over prompts: a prompt that was topped up counts once, like any other.
    reward = [
        np.mean([np.mean([one.reward for one in group.rollouts]) for group in ledger.groups(step)])
        for step in ledger.steps
    ]
    # 160 prompts on either side: the standard error of the difference is about .07.
    assert np.mean(reward[-5:]) > np.mean(reward[:5]) + 0.2


def test_learner_and_engine_are_compared_before_it_trains(whole_run: tuple[Path, str]):
    _, printed = whole_run
    said = re.search(r"learner and engine agree: (\S+) nats a token on average \(largest \S+, (\d+) tokens\)", printed)
    assert said is not None
    assert float(said[1]) < 0.1  # the bound in bfloat16; the job's dtype goes by the machine
    assert int(said[2]) >= 16
    assert printed.index(said[0]) < printed.index("evaluation after step 0") < printed.index("step 1/")


def test_a_run_whose_parts_disagree_stops_before_it_trains(random_tiny_model: Path, tmp_path: Path):
    # No machine rounds to this: what differs is real, and above the bound that was given.
    done = subprocess.run(
        command(random_tiny_model, tmp_path, "model.agreement_nats=1e-12"), capture_output=True, text=True, timeout=280
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "learner and engine disagree at policy version 0: " in last, done.stderr
    assert "where 1e-12 is the bound" in last
    assert "Traceback" not in done.stderr
    assert "step 1/" not in done.stdout + done.stderr


def test_its_ledger_is_whole_and_its_budgets_differ_by_prompt(whole_run: tuple[Path, str]):
    ledger = LedgerReader(whole_run[0] / "ledger")
    assert ledger.check_conservation().ok
    counts: dict[tuple[int, str], int] = {}
    for row in ledger.rollouts(columns=["step", "prompt_id"]).to_pylist():
        key = (row["step"], row["prompt_id"])
        counts[key] = counts.get(key, 0) + 1
    assert min(counts.values()) == 4
    assert 4 < max(counts.values()) <= 16


def test_the_value_model_gives_the_priors_once_its_support_is_large_enough(whole_run: tuple[Path, str]):
    origins = [
        set(LedgerReader(whole_run[0] / "ledger").decisions(step, ["prior_origin"])["prior_origin"].to_pylist())
        for step in (1, 2)
    ]
    assert origins == [{"base_rate"}, {"v0"}]


def test_it_prints_the_table_and_leaves_model_curve_config_and_logs(whole_run: tuple[Path, str]):
    run, printed = whole_run
    for row in ("held-out accuracy, greedy", "rollouts drawn", "mean rollouts per prompt", "peak memory", "MLflow"):
        assert row in printed
    for name in ("config.yaml", "summary.md", "curve.svg", "model/config.json", "logs"):
        assert (run / name).exists()
    for name in ("prior-skill.svg", "prior-reliability.svg", "rollouts-by-prior.svg"):
        assert "<svg" in (run / name).read_text()
        assert f"figure: {run / name}" in printed
    assert not (run / "logs").is_symlink()


def test_mlflow_has_the_runs_metrics_and_parameters(whole_run: tuple[Path, str]):
    import mlflow

    run, _ = whole_run
    client = mlflow.MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("v05ray")
    assert experiment is not None
    (recorded,) = client.search_runs([experiment.experiment_id])
    assert recorded.info.status == "FINISHED"
    assert recorded.data.params["advantage.name"] == "v05"
    history = client.get_metric_history(recorded.info.run_id, "critic/score/mean")
    assert [point.step for point in history] == list(range(1, 21))


def test_no_secret_of_its_environment_is_in_anything_it_leaves_or_prints(whole_run: tuple[Path, str]):
    run, printed = whole_run
    files = [path for path in run.parent.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    # Ray's, vLLM's and DeepSpeed's words, MLflow's database and the checkpoints are among them.
    assert {"mlflow.db", "raylet.out", "gcs_server.out", "config.yaml", "state.json", "manifest.json"} <= names
    assert any(path.suffix == ".parquet" for path in files)
    for value in SECRETS.values():
        if value != "somebody":
            assert value not in printed
            assert [path for path in files if value.encode() in path.read_bytes()] == []


@pytest.mark.timeout(600)
def test_a_run_interrupted_at_step_2_and_resumed_ends_where_an_uninterrupted_one_does(tiny_model: Path, tmp_path: Path):
    overrides = ("run.num_steps=4", "evaluation.every=0", "run.checkpoint_every=0", "budget.mode=rounds")
    train(tiny_model, tmp_path / "whole", *overrides)

    broken = tmp_path / "broken"
    with subprocess.Popen(
        command(tiny_model, broken, *overrides), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line)
            if line.startswith("step 1/"):
                process.send_signal(signal.SIGINT)
                break
        printed += process.stdout.readlines()
    assert process.returncode == 75, "".join(printed)
    assert json.loads((broken / "tiny" / "summary.json").read_text())["step"] == 2, "".join(printed)
    # Where a run runs may change, and never what it learns: the engine shares the learner's place from here on.
    train(tiny_model, broken, *overrides, "cluster.colocate=true", "--resume")

    one, other = weights(tmp_path / "whole" / "tiny"), weights(broken / "tiny")
    assert one.keys() == other.keys()
    start = weights_of_start(tiny_model)
    moved = max(float(np.abs(one[name] - start[name]).max()) for name in one)
    apart = max(float(np.abs(one[name] - other[name]).max()) for name in one)
    assert moved > 1e-4
    assert apart <= 1e-6, f"apart {apart}, moved {moved}"


def weights_of_start(model: Path) -> dict[str, np.ndarray]:
    return load_file(model / "model.safetensors")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.path=nowhere", "is not a Hugging Face model folder"),
        ("data.eval=[jsonl, parquet]", "'jsonl' needs path"),
        ("model.max_length=4096", "exceeds the model's context of"),
        ("model.max_length=32", "tokens"),
        ("generators.count=9", "no room for"),
        ("learner.num_gpus=64", "GPU: asked 64"),
        ("generators.num_gpus=64", "an engine that is not split runs on one GPU at most"),
        ("generators.tensor_parallel=3", "which does not divide the model's"),
        ("rewards.verifier=mathh", "did you mean 'math'?"),
        ("data.train.task=chain_sun", "chain_su"),
        ("learner.learning_rat=1", "did you mean 'learning_rate'?"),
        ("cluster.object_store_mib=100000000", "MiB of memory"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_heavy_starts(
    random_tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], override: str, message: str
):
    # In this process: in one of its own each would spend seconds on importing the same libraries.
    assert main(command(random_tiny_model, tmp_path, override)[3:]) == ExitCode.USER_ERROR
    printed = capfd.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "tiny").exists()
    assert not ray.is_initialized()


def test_a_refusal_is_the_end_of_the_process(random_tiny_model: Path, tmp_path: Path):
    refused = command(random_tiny_model, tmp_path, "data.train.size=20")
    done = subprocess.run(refused, capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 2, done.stderr
    assert "fewer than run.prompts_per_step 32" in done.stderr
    assert not (tmp_path / "tiny").exists()
    assert "Traceback" not in done.stderr
