"""The private cluster of a run on one machine: who can reach it, and that nothing of it is left.

In processes of their own, as this layer has a cluster of its own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

SCRIPT = """
import json, sys, tempfile
from pathlib import Path
import psutil, ray
from v05ray.job.config_files import make_config
from v05ray.launch.training import cluster

job = {"model": {"path": "m"}, "data": {"train": "jsonl"}, "cluster": {"num_cpus": 1, "object_store_mib": 128}}
config = make_config(job)
with cluster(config, Path(sys.argv[1]) / "logs"):
    where = ray.get(ray.remote(ray.util.get_node_ip_address).remote())
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [(p.name(), k.laddr.ip) for p in family for k in p.net_connections("inet") if k.status == "LISTEN"]
    commands = [" ".join(process.cmdline()) for process in family]
    folders = [path.name for path in Path(tempfile.gettempdir()).iterdir()]
print(json.dumps({"where": where, "listening": listening, "commands": commands, "folders": folders}))
"""


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    """Ray's sockets need a short path."""
    folder = Path(f"/tmp/v05p-{os.getpid()}")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, temporary: Path) -> dict:
    run = tmp_path_factory.mktemp("run")
    env = {**os.environ, "TMPDIR": str(temporary), "HOME": "/proc/nobody"}  # a home that not even root can write to
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(run)], capture_output=True, text=True, env=env, timeout=120
    )
    left = [path.name for path in temporary.iterdir()]
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "left": left, "logs": run / "logs"}


def test_it_listens_on_loopback_alone(seen: dict):
    names = {name for name, _ in seen["listening"]}
    assert {"gcs_server", "raylet"} <= names
    assert {ip for _, ip in seen["listening"]} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert seen["where"] == "127.0.0.1"


def test_what_is_not_used_is_not_started(seen: dict):
    found = [command for command in seen["commands"] if "monitor.py" in command or "dashboard/dashboard.py" in command]
    assert found == []
    assert any("raylet" in command for command in seen["commands"])


def test_its_folder_goes_and_its_logs_stay_with_the_run(seen: dict):
    assert [name[:7] for name in seen["folders"]] == ["v05ray-"]
    assert seen["left"] == []
    assert not seen["logs"].is_symlink()
    assert (seen["logs"] / "raylet.out").is_file()


LATE = """
import sys, time
from pathlib import Path
import ray
from ray._private import services
from v05ray.job.config_files import make_config
from v05ray.launch.training import cluster

def not_there(*arguments):
    raise RuntimeError("no node")

services.get_node = not_there  # what Ray asks until its node is there
clock, time.monotonic = time.monotonic, lambda: 60 * clock()
job = {"model": {"path": "m"}, "data": {"train": "jsonl"}, "cluster": {"num_cpus": 1, "object_store_mib": 128}}
with cluster(make_config(job), Path(sys.argv[1]) / "logs"):
    pass
"""


def test_a_node_that_does_not_come_up_in_time_is_an_error_of_the_run_and_its_logs_are_kept(
    tmp_path: Path, temporary: Path
):
    env = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-c", LATE, str(tmp_path)], capture_output=True, text=True, env=env, timeout=120
    )
    assert "RunError: Ray did not start on this machine: " in done.stderr.splitlines()[-1]
    assert f"Ray's logs are in {tmp_path / 'logs'}" in done.stderr
    assert (tmp_path / "logs" / "raylet.out").is_file()
    assert list(temporary.iterdir()) == []


STUBBORN = """
import os, signal, subprocess, sys
from pathlib import Path
import psutil, ray
from v05ray.job.config_files import make_config
from v05ray.launch.training import cluster

job = {"model": {"path": "m"}, "data": {"train": "jsonl"}, "cluster": {"num_cpus": 2, "object_store_mib": 128}}

@ray.remote(num_cpus=1)
class Stubborn:
    def start_another(self):
        # Its parent is gone at once, and with it all that Ray knows of.
        return os.getpid(), int(subprocess.check_output(["sh", "-c", "setsid sleep 600 > /dev/null & echo $!"]))

with cluster(make_config(job), Path(sys.argv[1]) / "logs"):
    actor = Stubborn.remote()
    hung, orphan = ray.get(actor.start_another.remote())
    os.kill(hung, signal.SIGSTOP)  # no exit of its own ends, whatever Ray asks of it
    print(hung, orphan, *(p.pid for p in psutil.Process().children(recursive=True)), flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["done", "killed"])
def test_no_process_outlives_it_not_even_one_that_hangs(tmp_path: Path, temporary: Path, end: str):
    env = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-c", STUBBORN, str(tmp_path), end], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == (0 if end == "done" else -signal.SIGKILL), done.stderr
    family = [int(word) for word in done.stdout.split()]
    assert len(family) >= 6
    if end == "done":
        assert "killed what did not leave at the end of the run: " in done.stderr
        assert "sleep 600" in done.stderr
    else:
        deadline = time.monotonic() + 20
        while any(map(lives, family)) and time.monotonic() < deadline:
            time.sleep(0.2)
    assert [number for number in family if lives(number)] == []


def lives(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
