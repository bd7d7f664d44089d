"""A training job on Ray's real autoscaler: generators and their nodes come by backlog and go, and nothing is lost."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from v05ray.actors.gauges import COUNTERS, GAUGES
from v05ray.ledger import LedgerReader
from v05ray.models.tiny import prepare
from v05ray.storage.status import read_events, read_status, timeline

ROOT = Path(__file__).parents[3]
LOCAL = ROOT / "clusters" / "local-autoscaling" / "cluster.py"


@dataclass(frozen=True)
class Cluster:
    address: str
    folder: Path

    def metrics(self) -> set[str]:
        """Names of the project's metrics that the cluster's nodes export now, found as Prometheus finds them."""
        found: set[str] = set()
        listed = self.folder / "ray" / "prom_metrics_service_discovery.json"
        for target in json.loads(listed.read_text())[0]["targets"] if listed.is_file() else ():
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as page:
                found |= set(re.findall(r"^(ray_v05ray_\w+)\{", page.read().decode(), re.MULTILINE))
        return found


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """One head that may have three generator nodes; ended by what started it."""
    folder = Path(f"/tmp/v05a-{os.getpid()}")  # Ray's sockets need a short path
    command = [sys.executable, str(LOCAL)]
    options = ["--dashboard-port", "0", "--head-cpus", "3", "--generators", "3", "--idle-s", "5"]
    up = subprocess.run(
        [*command, "up", "--folder", str(folder), *options], capture_output=True, text=True, timeout=200
    )
    assert up.returncode == 0, up.stderr
    try:
        found = re.search(r"http://\S+", up.stdout)
        assert found
        yield Cluster(found[0], folder)
    finally:
        subprocess.run([*command, "down", "--folder", str(folder)], capture_output=True, timeout=60, check=True)


def test_generators_and_their_nodes_come_by_backlog_and_go_again(cluster: Cluster, tmp_path: Path):
    model, output = tmp_path / "tiny", tmp_path / "output"
    prepare(model)
    command = [sys.executable, "-m", "v05ray.cli", "submit", "jobs/elastic_cpu.yaml", "--address", cluster.address]
    command += ["--follow", f"model.path={model}", f"run.output_dir={tmp_path / 'runs'}"]
    exported: set[str] = set()
    with output.open("w") as file:
        job = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT)
        deadline = time.monotonic() + 900
        while job.poll() is None:
            assert time.monotonic() < deadline, output.read_text()[-4000:]
            exported |= cluster.metrics()
            time.sleep(2)
    assert job.returncode == 0, output.read_text()[-4000:]
    counters = COUNTERS.keys() - {"v05ray_lost_rollouts", "v05ray_generator_restarts"}  # nothing was lost
    assert exported == {f"ray_{name}" for name in GAUGES} | {f"ray_{name}_total" for name in counters}

    folder = tmp_path / "runs" / "elastic"
    events = read_events(folder)
    print(timeline(events))
    wanted = [event["generators"] for event in events if "generators" in event and event["event"] == "wanted"]
    peak = wanted.index(4)
    assert wanted[: peak + 1] == sorted(wanted[: peak + 1])
    assert 1 in wanted[peak:]
    assert {event["by"] for event in events if event["event"] == "wanted"} == {"backlog"}
    nodes = [event["nodes"].get("generator", 0) for event in events if event["event"] == "nodes"]
    assert nodes[0] == 0
    assert 0 in nodes[nodes.index(3) :]  # all of them had gone before the run ended
    ready = [event["generator"] for event in events if event["event"] == "ready" and "generator" in event]
    assert {"generator-0", "generator-1", "generator-2", "generator-3"} <= set(ready)
    assert {event["event"] for event in events} & {"restarting", "given up", "fleet failed"} == set()

    status = read_status(folder)
    assert (status.state, status.step) == ("ended", 150)
    ledger = LedgerReader(folder / "ledger")
    assert ledger.steps == tuple(range(1, 151))
    conservation = ledger.check_conservation()
    assert conservation.ok, conservation.problems
