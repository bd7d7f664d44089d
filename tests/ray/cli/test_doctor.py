"""`v05ray doctor JOB cluster.address=...` against a head that was started as its user starts one."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from v05ray.cli import main

ROOT = Path(__file__).parents[3]
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_AUTH", "RAY_ADDRESS"))}
    return {**kept, "RAY_USAGE_STATS_ENABLED": "0", **variables}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A head of four CPUs that asks for a token."""
    port, folder = free_port(), Path(f"/tmp/v05d-{os.getpid()}")  # Ray's sockets need a short path
    options = [f"--port={port}", "--num-cpus=4", f"--temp-dir={folder}", "--object-store-memory=200000000"]
    options += [
        "--include-dashboard=false",
        f"--ray-client-server-port={free_port()}",
        "--dashboard-agent-listen-port=0",
    ]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(**TOKEN)
    ) as head:
        assert head.stdout is not None
        said = []
        for line in head.stdout:
            said.append(line)
            if "Ray runtime started" in line:
                break
        try:
            assert "Ray runtime started" in said[-1], "".join(said)
            yield f"127.0.0.1:{port}"
        finally:
            head.send_signal(signal.SIGTERM)
            head.communicate(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


def doctor(model: Path, address: str, *overrides: str, **variables: str) -> "subprocess.Popen[str]":
    arguments = ["doctor", str(ROOT / "jobs" / "tiny_cpu.yaml"), f"model.path={model}", f"cluster.address={address}"]
    command = [sys.executable, "-m", "v05ray.cli", *arguments, *overrides]
    env = environment(COLUMNS="200", **variables)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def test_it_says_what_is_there_and_what_has_no_place(random_tiny_model: Path, address: str):
    # Side by side: most of it is imports on one core, and Ray tries for a while to get in without a token.
    stranger = doctor(random_tiny_model, address)
    fits = doctor(random_tiny_model, address, **TOKEN)
    large = doctor(random_tiny_model, address, "generators.count=9", "generators.num_cpus=1", **TOKEN)
    said, _ = fits.communicate(timeout=100)
    assert fits.returncode == 0, said
    assert "all is well" in said
    assert ["present", "4", "0"] in [[cell.strip() for cell in line.split("│")[1:4]] for line in said.splitlines()]

    said, _ = large.communicate(timeout=100)
    assert "CPU: asked 10.5, present 4" in said, said
    assert "Traceback" not in said

    said, _ = stranger.communicate(timeout=100)
    assert stranger.returncode == 1
    assert "cannot be joined from here" in said
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" in " ".join(said.split())
    assert "Traceback" not in said


def test_a_port_without_a_cluster_is_reported_at_once(random_tiny_model: Path):
    start = time.monotonic()
    done = doctor(random_tiny_model, f"127.0.0.1:{free_port()}")
    said, _ = done.communicate(timeout=60)
    assert done.returncode == 1
    assert "no answer (Connection refused)" in said
    assert "HOST:6379" in said
    assert time.monotonic() - start < 45


def test_a_job_for_this_machine_is_looked_at_whole(
    random_tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """Machine, sources, a prompt as the model sees it, an estimate; and what cannot be used, each in one line."""
    arguments = ["doctor", str(ROOT / "jobs" / "tiny_cpu.yaml")]
    arguments += [f"model.path={random_tiny_model}", f"run.output_dir={tmp_path}"]
    command = [sys.executable, "-m", "v05ray.cli", *arguments, "model.dtype=auto"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment(COLUMNS="200"))
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "GFLOP/s on one thread" in text
    assert "model.dtype float32" in text or "model.dtype bfloat16" in text
    assert "training and 40 held-out prompts" in text
    assert "the first prompt, as the model sees it:" in text
    assert "tokens/s (guessed), so about" in text
    assert "all is well" in text
    assert "dry verdict, chain_sum: the reference of" in text

    monkeypatch.setenv("COLUMNS", "200")

    def said(*overrides: str) -> tuple[int, str]:
        code = main([*arguments, *overrides])
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    columns = (
        "{name: python, path: 'tests.unit.rewards.borrowed:trl_columns', scale: as_is, label: graded, weight: 0.5}"
    )
    code, text = said(f"rewards.verifier=[last_integer, {columns}]")
    assert code == 1
    assert "error (last_integer +1, graded error); graded: TypeError: " in " ".join(text.split())
    assert "missing a verdict of chain_sum: error: graded: TypeError" in " ".join(text.split())

    code, text = said("run.keep_checkpoints=1000000000", "rewards.verifier=no_such")
    assert code == 1
    assert "Traceback" not in text
    assert "free some, take another disk, or lower run.keep_checkpoints" in " ".join(text.split())
