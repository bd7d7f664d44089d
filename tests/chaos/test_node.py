"""A node is taken away under a real run, as a spot market does; another one comes, and the run goes on there."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.chaos.tiny_run import TinyRun, assert_whole
from v05ray.status import read_events

GENERATOR_NODE = {"num_cpus": 1, "resources": {"generator": 1}}
QUICK_DEATH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head with room for all but the generator, on nodes that are processes of this machine."""
    temp_dir = tempfile.mkdtemp(prefix="v05n-")
    monkeypatch.setenv("RAY_TMPDIR", temp_dir)
    head = {
        "num_cpus": 3,
        "resources": {"learner": 1, "value": 1},
        "include_dashboard": False,
        "_system_config": QUICK_DEATH,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()
    shutil.rmtree(temp_dir, ignore_errors=True)


def test_a_generator_whose_node_is_taken_away_comes_back_on_another(cluster: Cluster, tiny_model: Path, tmp_path: Path):
    taken = cluster.add_node(**GENERATOR_NODE)
    joined = (f"cluster.address={cluster.address}", "cluster.node_types=true", "cluster.wait_s=60")
    with TinyRun(tiny_model, tmp_path, *joined, "run.num_steps=5", "evaluation.every=0") as run:
        run.wait_for_step(2)
        cluster.remove_node(taken, allow_graceful=False)
        cluster.add_node(**GENERATOR_NODE)
        assert run.end() == 0, run.printed
    assert_whole(run.folder, range(1, 6))
    summary = json.loads((run.folder / "summary.json").read_text())
    assert (summary["step"], summary["restarts"]) == (5, 0)
    told = [(event["event"], event.get("generator")) for event in read_events(run.folder)]
    assert told.count(("ready", "generator-0")) == 2
    assert ("restarting", "generator-0") in told
