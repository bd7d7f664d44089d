"""Ray's Jobs API for real: a head in processes of its own, jobs that only speak, the commands as a person runs them."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from v05ray.submit.client import Jobs, connect, submit
from v05ray.submit.request import Request
from v05ray.submit.working_dir import Shipment

ROOT = Path(__file__).parents[3]
LOCAL = ROOT / "clusters" / "local-autoscaling" / "cluster.py"
HEAD_FOLDER = Path(f"/tmp/v05s-{os.getpid()}")  # Ray's sockets need a short path
SECRET = "not-for-the-head"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A head with its dashboard, on ports and in a folder of its own; ended by what started it."""
    folder = HEAD_FOLDER
    command = [sys.executable, str(LOCAL)]
    options = ["--folder", str(folder), "--dashboard-port", "0", "--generators", "1"]
    up = subprocess.run([*command, "up", *options], capture_output=True, text=True, timeout=200)
    assert up.returncode == 0, up.stderr
    try:
        found = re.search(r"http://\S+", up.stdout)
        assert found
        yield found[0]
    finally:
        down = subprocess.run([*command, "down", "--folder", str(folder)], capture_output=True, text=True, timeout=60)
    assert down.returncode == 0, down.stderr
    assert not folder.exists()


@pytest.fixture(scope="module")
def head(address: str) -> Jobs:
    return connect(address, {})


def v05ray(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "v05ray.cli.submit", *arguments]
    env = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT, env=env)


def start(head: Jobs, script: str, tmp_path: Path) -> str:
    """A job that runs `script` from its working directory."""
    file = tmp_path / "job.py"
    file.write_text(script)
    variables = {"SAID": "hello-from-here", "RAY_JOB_STOP_WAIT_TIME_S": "20"}
    return submit(head, Request(Shipment({"job.py": file}, 1), "python job.py", variables, {"run": "test"}, "test"))


def test_a_job_is_followed_to_its_good_end(head: Jobs, address: str, tmp_path: Path):
    job = start(head, "import os, sys\nprint(os.environ['SAID'], os.listdir('.'))\n", tmp_path)
    done = v05ray("jobs", "logs", job, "--follow", "--address", address)
    assert done.returncode == 0, done.stderr
    assert "hello-from-here ['job.py']" in done.stdout
    assert f"job {job}: SUCCEEDED" in done.stderr
    status = v05ray("jobs", "status", job, "--address", address)
    assert "SAID" in status.stdout
    assert "hello-from-here" not in status.stdout
    # What the documentation says of passed variables: Ray keeps their values.
    assert head.get_job_info(job).runtime_env["env_vars"]["SAID"] == "hello-from-here"


def test_a_failure_and_a_stop_end_with_1_and_a_stopped_job_may_finish_its_step(
    head: Jobs, address: str, tmp_path: Path
):
    patient = (
        "import signal, sys, time\n"
        "def last(*_):\n    time.sleep(5)\n    print('checkpoint written', flush=True)\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, last)\nprint('running', flush=True)\ntime.sleep(300)\n"
    )
    running = start(head, patient, tmp_path)
    failed = start(head, "import sys\nprint('no')\nsys.exit(3)\n", tmp_path)
    done = v05ray("jobs", "logs", failed, "--follow", "--address", address)
    assert done.returncode == 3
    assert "FAILED" in done.stderr
    assert "exit code 3" in done.stderr
    deadline = time.monotonic() + 60
    while "running" not in head.get_job_logs(running) and time.monotonic() < deadline:
        time.sleep(0.3)
    stopped = v05ray("jobs", "stop", running, "--address", address, "--wait-s", "60")
    assert stopped.returncode == 0, stopped.stderr
    # Ray's own patience is 3 seconds.
    assert "checkpoint written" in head.get_job_logs(running)
    assert head.get_job_info(running).status == "STOPPED"


def test_the_head_refuses_a_job_it_does_not_know(address: str):
    done = v05ray("jobs", "stop", "nobody", "--address", address)
    assert done.returncode == 2
    assert "the cluster knows no job 'nobody'" in done.stderr


def test_a_training_job_travels_and_reaches_its_command(head: Jobs, address: str, tmp_path: Path):
    # The model folder is missing on purpose: the job is whole when `v05ray train` itself says so, from the cluster.
    arguments = ["submit", "jobs/tiny_cpu.yaml", "--address", address, "--follow", f"run.output_dir={tmp_path}"]
    done = v05ray(*arguments, f"model.path={tmp_path}/absent", HF_TOKEN=SECRET, AWS_SECRET_ACCESS_KEY=SECRET)
    assert done.returncode == 2, done.stderr
    assert "is not a Hugging Face model folder" in done.stdout
    assert "exit code 2" in done.stderr
    # Of what the head keeps and shows, nothing holds a secret of the submitter.
    assert SECRET not in done.stdout + done.stderr + repr(head.get_job_info(done.stdout.split()[0]))
    kept = {path: path.read_bytes() for path in HEAD_FOLDER.rglob("*") if path.is_file()}
    assert [path for path, content in kept.items() if SECRET.encode() in content] == []
    assert [path for path in kept if path.name.startswith("job-driver")]


def test_the_dashboard_listens_on_loopback_alone(address: str):
    port = int(address.rpartition(":")[2])
    places = [tuple(it.laddr) for it in psutil.net_connections("tcp") if it.status == psutil.CONN_LISTEN]
    assert [place[0] for place in places if place[1] == port] == ["127.0.0.1"]
