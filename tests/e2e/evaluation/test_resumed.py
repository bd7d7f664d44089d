"""`v05ray eval` over files of all six formats, stopped by Ctrl-C, then killed, then continued: the same to the byte."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from v05ray.evaluation.responses import read_responses
from v05ray.models.tiny import PREFIX

ROWS, SAMPLES = 30, 3
NUM_DRAWS = 6 * ROWS * 2
"""A greedy one and one of all samples for each prompt."""


def short(completions: list[str], **columns: object) -> list[float]:
    """In TRL's form: 1 for a response of two characters at most."""
    return [float(len(text) <= 2) for text in completions]


def sums() -> Iterator[tuple[str, int]]:
    """Questions that the tiny model knows, in an order of their own, again and again."""
    pairs = [(a, b) for a in range(10) for b in range(10)]
    while True:
        for a, b in Random(1).sample(pairs, len(pairs)):
            yield f"{PREFIX}{a} + {b} =", a + b


def write_six(folder: Path) -> list[str]:
    """A file of each benchmark in its own fields; returns the flags that name them."""
    made, asked = {}, sums()
    fields: dict[str, Callable[[int, str, int], dict[str, object]]] = {
        "aime24": lambda i, q, a: {"id": i, "problem": q, "solution": f"It is {a}.", "answer": str(a), "year": "2024"},
        "aime25": lambda i, q, a: {"problem": q, "answer": str(a), "id": str(i)},
        "amc23": lambda i, q, a: {"id": i, "question": q, "answer": float(a), "url": "none"},
        "math500": lambda i, q, a: {"problem": q, "solution": "Here.", "answer": rf"\frac{{{2 * a}}}{{2}}", "level": 2},
        "minerva": lambda i, q, a: {"question": q, "answer": str(a), "solution": f"It is {a}."},
        "olympiadbench": lambda i, q, a: {"id": i, "question": q, "final_answer": [str(a)], "solution": ["Add: 7."]},
    }
    for name, row in fields.items():
        rows = [row(i, *next(asked)) for i in range(ROWS)]
        made[name] = folder / (f"{name}.parquet" if name == "minerva" else f"{name}.jsonl")
        if name == "minerva":
            pq.write_table(pa.Table.from_pylist(rows), made[name])
        else:
            made[name].write_text("".join(json.dumps(one) + "\n" for one in rows))
    return [flag for name, path in made.items() for flag in ("--data", f"{name}={path}")]


@pytest.fixture(scope="module")
def command(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[str]]:
    flags = write_six(tmp_path_factory.mktemp("sets"))
    both = f"[math, {{name: python, path: '{__name__}:short', scale: zero_one, weight: 0.2}}]"
    overrides = ["model.dtype=float32", "data.suffix=", "data.eval.1.verifier=" + both]
    # Few at a time, so that they end one after another.
    overrides += ["generators.max_num_seqs=4", "generators.num_threads=1", "run.seed=5"]
    program = [sys.executable, "-m", "v05ray.cli", "eval", str(tiny_model)]
    sampling = ["--samples", str(SAMPLES), "--max-tokens", "24"]
    return lambda out: [*program, *flags, *sampling, *overrides, "--out", str(out)]


def finished(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def lines(out: Path) -> int:
    parts = out / "parts.jsonl"
    return parts.read_bytes().count(b"\n") if parts.exists() else 0


def started_until(command: list[str], out: Path, num_lines: int) -> "subprocess.Popen[str]":
    """The evaluation in a session of its own, with this many of its draws on disk."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    end = time.monotonic() + 100
    while lines(out) < num_lines and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()[0]
    assert lines(out) >= num_lines
    return process


@pytest.mark.timeout(400)
def test_stopped_and_killed_half_way_it_ends_with_the_numbers_of_one_go(command, tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finished(command(whole))

    process = started_until(command(broken), broken, NUM_DRAWS // 8)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to every process of the terminal's group
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert f"of {NUM_DRAWS} draws are kept in {broken}" in said
    assert "Traceback" not in said
    kept = lines(broken)
    assert NUM_DRAWS // 8 <= kept < NUM_DRAWS
    before = (broken / "parts.jsonl").read_bytes()

    process = started_until(command(broken), broken, kept + NUM_DRAWS // 8)
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in tree:
        one.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert (broken / "parts.jsonl").read_bytes().startswith(before)
    assert kept + NUM_DRAWS // 8 <= lines(broken) < NUM_DRAWS
    assert not (broken / "responses.parquet").exists()

    said = finished(command(broken))
    assert f"of {NUM_DRAWS} draws are there already" in said
    for name in ("metrics.json", "responses.parquet", "fingerprint.json"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes(), name

    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["val/all/num_prompts"] == 6 * ROWS
    assert 0 < metrics[f"val/all/mean_at_{SAMPLES}"] < 1
    assert -1 < metrics["val/aime25/rewards/short/greedy"] <= 1
    rows = read_responses(whole / "responses.parquet")
    assert {row.verifier for row in rows} == {"math", "math + short"}
    assert all(len(row.components) == (2 if row.source == "aime25" else 0) for row in rows)
