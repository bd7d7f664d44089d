import argparse
import json
import random
from pathlib import Path

import pytest

from v05ray.cli.simulate import add_parser
from v05ray.errors import ConfigError
from v05ray.simulate.cluster import Cluster
from v05ray.simulate.report import Report, describe, write_figures
from v05ray.simulate.scaling import scale
from v05ray.simulate.worlds import World, u_shaped


def simulate(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["simulate", *arguments])
    return parsed.run(parsed)


def test_the_whole_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = simulate(
        *("--world", "u", "--prompts", "96", "--prior-rms", "0,.2", "--compare", "v05_eb@fixed:n=4,grpo"),
        *("--generators", "1,8", "--batches", "32", "--repeats", "1", "--theorems", "--out", str(tmp_path)),
    )
    text = capsys.readouterr().out
    assert code == 0
    assert "prior off by 0.2 rms" in text
    assert "v05_eb@fixed:n=4" in text
    assert "async/rounds" in text
    assert "Theorem 3.4" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "makespan-32.svg",
        "mse-by-prior.svg",
        "mse-by-rollouts-0.2.svg",
        "mse-by-rollouts-0.svg",
        "report.json",
    ]
    assert (tmp_path / "mse-by-prior.svg").read_text().startswith("<svg")


def test_json_is_the_whole_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = tmp_path / "scores.jsonl"
    scores.write_text("".join(json.dumps({"score": round(s / 5 - 1, 1)}) + "\n" for s in range(11)))
    assert simulate("--world", "recorded", "--data", str(scores), "--compare", "grpo,remax", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_prompts"] == 11
    assert report["benchmark_mse"] == pytest.approx(sum(4 * i * (10 - i) / 100 for i in range(11)) / 16 / 11)
    assert [(row["name"], row["prior_rms"]) for row in report["comparison"]] == [("grpo", 0.2), ("remax", 0.2)]
    assert report["scaling"] == []


def test_beta_worlds_and_no_contenders(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--world", "beta", "--beta", "2,6", "--prompts", "40", "--compare", "none")
    assert simulate(*arguments, "--generators", "2", "--batches", "40", "--repeats", "1") == 0
    assert "40 prompts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--world", "recorded"], "needs --data"),
        (["--world", "beta", "--beta", "2"], "two numbers"),
        (["--prior-rms", "a"], "needs numbers"),
        (["--prior-rms", "-1"], "prior_rms"),
        (["--prompts", "0"], ">= 1"),
        (["--compare", "grp"], "did you mean"),
        (["--prompts", "8", "--generators", "1", "--batches", "64", "--compare", "none"], "a world of as many"),
        (["--prompts", "64", "--generators", "0", "--compare", "none"], "generator"),
        (["--generators", "1", "--repeats", "0"], "repeats"),
    ],
)
def test_what_cannot_be_used_is_said(arguments: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        simulate(*arguments)


def test_a_scaling_row_says_what_bounds_it(tmp_path: Path) -> None:
    world = World.of(u_shaped(64, random.Random(1)), prior_rms=0.4)
    rows = scale(world, Cluster(), generators=[1, 64], batch_sizes=[64], num_repeats=2)
    assert [row.num_generators for row in rows] == [1, 64]
    assert all(row.bound_s <= row.async_s * (1 + 1e-9) and row.async_s < row.rounds_s for row in rows)
    assert all(row.ratio <= row.worst < 1 for row in rows)
    text = describe(Report("u", 64, {}, scaling=rows))
    assert "chain" in text
    assert [path.name for path in write_figures(Report("u", 64, {}, scaling=rows), tmp_path)] == ["makespan-64.svg"]
