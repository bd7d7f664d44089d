"""`v05ray value` from the command line, on recorded scores of made-up policies and the real backbone."""

import json
from pathlib import Path

import numpy as np
import pytest

from v05ray.cli import main
from v05ray.value.bundle import load_bundle
from v05ray.value.pretrain import pretrain


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of two policies on 200 sums: longer numbers are harder, and the second policy is better."""
    folder = tmp_path_factory.mktemp("value")
    rng = np.random.default_rng(0)
    prompts, rows = {}, []
    for index in range(200):
        digits = 1 + index % 5
        low = 10 ** (digits - 1)
        prompts[f"sum_{index}"] = f"What is {rng.integers(low, 10 * low)} + {rng.integers(low, 10 * low)}? ({index})"
        for step in (0, 10):
            rate = 1 / (1 + np.exp(1.2 * (digits - 3) - 0.1 * step))
            score = 2 * rng.binomial(8, rate) / 8 - 1
            rows.append({"id": index, "score": score, "model": "toy", "step": step, "dataset": "sum"})
    (folder / "prompts.json").write_text(json.dumps(prompts))
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "context.jsonl").write_text("\n".join(json.dumps(row) for row in rows if row["id"] < 150))
    (folder / "queries.jsonl").write_text("\n".join(json.dumps(row) for row in rows if row["id"] >= 140))
    return folder


def value(folder: Path, verb: str, *arguments: str) -> int:
    return main(["value", verb, *arguments, "--cache", str(folder / "cache.sqlite")])


def test_train_writes_a_bundle_that_beats_the_base_rate(folder: Path, capsys: pytest.CaptureFixture[str]):
    out = folder / "trained.safetensors"
    data = ("--data", str(folder / "data.jsonl"), "--prompts", str(folder / "prompts.json"))
    assert value(folder, "train", *data, "--out", str(out), "--steps", "20") == 0
    _, _, info = load_bundle(out)
    test = info.notes["test"]
    assert test["v0"]["mse_v"] < 0.6 * test["base_rate"]["mse_v"]
    assert "on held-out prompts:" in capsys.readouterr().out


def test_train_on_scores_that_prompts_do_not_explain_writes_nothing_and_exits_with_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    """Every score is 0: the base rate is exact, so nothing can beat it."""
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    noise = [{**row, "score": 0.0} for row in rows]
    (folder / "noise.jsonl").write_text("\n".join(map(json.dumps, noise)))
    out = folder / "noise.safetensors"
    data = ("--data", str(folder / "noise.jsonl"), "--prompts", str(folder / "prompts.json"))
    code = value(folder, "train", *data, "--out", str(out), "--steps", "10", "--seed", "1")
    said = capsys.readouterr()
    assert (code, out.exists()) == (1, False)
    assert "no bundle was written" in said.err


def test_eval_with_a_context_counts_what_leaks_and_prints_json(folder: Path, capsys: pytest.CaptureFixture[str]):
    plot = folder / "plot.svg"
    code = value(
        folder, "eval", "--data", str(folder / "queries.jsonl"), "--prompts", str(folder / "prompts.json"),
        "--context", str(folder / "context.jsonl"), "--resamples", "20", "--json", "--plot", str(plot),
    )  # fmt: skip
    assert code == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["num_leaking"] == 20
    assert report["num_queries"] == 100
    assert report["methods"]["v0"]["auc"]["value"] > report["methods"]["base_rate"]["auc"]["value"] + 0.1
    assert {"knn", "gp", "logistic", "logistic_shifted"} <= set(report["methods"])
    assert plot.read_text().startswith("<svg")


def test_eval_of_held_out_prompts_prints_the_table(folder: Path, capsys: pytest.CaptureFixture[str]):
    code = value(
        folder, "eval", "--data", str(folder / "data.jsonl"), "--prompts", str(folder / "prompts.json"),
        "--splits", "1", "--resamples", "5", "--unseen-policies",
    )  # fmt: skip
    assert code == 0
    out = capsys.readouterr().out
    assert "held-out prompts: 80 queries, 2 policies" in out
    assert "unseen policies: 80 queries, 2 policies" in out


def test_predict_ranks_prompts_for_one_policy(folder: Path, capsys: pytest.CaptureFixture[str]):
    code = value(
        folder, "predict", "--context", str(folder / "context.jsonl"), "--prompts", str(folder / "prompts.json"),
        "--policy", "sum/toy@10",
    )  # fmt: skip
    assert code == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    success = {row["id"]: row["success"] for row in rows}
    assert len(success) == 200
    assert {row["origin"] for row in rows} == {"v0"}
    easy, hard = (np.mean([success[f"sum_{i}"] for i in range(digits, 200, 5)]) for digits in (0, 4))
    assert easy > hard + 0.2


def test_mistakes_are_named_and_exit_with_2(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert value(folder, "eval", "--data", str(folder / "data.jsonl")) == 2
    assert "give --prompts FILE" in capsys.readouterr().err
    data = ("--data", str(folder / "data.jsonl"), "--prompts", str(folder / "prompts.json"))
    assert value(folder, "eval", *data, "--context", str(folder / "context.jsonl"), "--train") == 2
    assert "leave --context away" in capsys.readouterr().err
    assert value(folder, "train", *data, "--out", "x.safetensors", "--start", str(folder / "none")) == 2
    assert "does not exist" in capsys.readouterr().err


def test_pretrain_makes_the_same_small_bundle_twice(folder: Path):
    one, other = folder / "one.safetensors", folder / "other.safetensors"
    for out in (one, other):
        cache = folder / "cache.sqlite"
        pretrain(out, seed=3, steps=2, questions_per_family=2, cache=cache, report=lambda text: None)
    assert one.read_bytes() == other.read_bytes()
    assert load_bundle(one)[2].command == "v05ray value pretrain --seed 3 --steps 2"
