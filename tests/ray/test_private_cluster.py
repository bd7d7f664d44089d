"""The private cluster of a run on one machine: who can reach it. In a process of its own, as this layer has its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys, tempfile
from pathlib import Path
import psutil, ray
from v05ray.config_files import make_config
from v05ray.launch import cluster

job = {"model": {"path": "m"}, "data": {"train": "jsonl"}, "cluster": {"num_cpus": 1, "object_store_mib": 128}}
config = make_config(job)
with cluster(config, Path(sys.argv[1]) / "logs"):
    where = ray.get(ray.remote(ray.util.get_node_ip_address).remote())
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [(p.name(), k.laddr.ip) for p in family for k in p.net_connections("inet") if k.status == "LISTEN"]
    folders = [path.name for path in Path(tempfile.gettempdir()).iterdir()]
print(json.dumps({"where": where, "listening": listening, "folders": folders}))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict:
    run = tmp_path_factory.mktemp("run")
    temporary = Path(f"/tmp/v05p-{os.getpid()}")  # Ray's sockets need a short path
    temporary.mkdir()
    env = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(run)], capture_output=True, text=True, env=env, timeout=120
    )
    left = [path.name for path in temporary.iterdir()]
    for path in temporary.iterdir():
        shutil.rmtree(path)
    temporary.rmdir()
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "left": left, "logs": run / "logs"}


def test_it_listens_on_loopback_alone(seen: dict):
    names = {name for name, _ in seen["listening"]}
    assert {"gcs_server", "raylet"} <= names
    assert {ip for _, ip in seen["listening"]} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert seen["where"] == "127.0.0.1"


def test_its_folder_goes_and_its_logs_stay_with_the_run(seen: dict):
    assert [name[:7] for name in seen["folders"]] == ["v05ray-"]
    assert seen["left"] == []
    assert not seen["logs"].is_symlink()
    assert (seen["logs"] / "raylet.out").is_file()
