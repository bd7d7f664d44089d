"""What a reservation says of a cluster whose autoscaler runs on this machine (here: a process that looks like it)."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.util.placement_group import placement_group_table

from v05ray.actors.placement import node_types, reserve
from v05ray.errors import ConfigError
from v05ray.machine.layout import NodeType, Role

CONFIG = {
    "head_node_type": "head",
    "max_workers": 2,
    "available_node_types": {
        "head": {"resources": {"CPU": 4}, "max_workers": 0},
        "large": {"resources": {"CPU": 8}, "max_workers": 1},
        "unknown": {},
    },
}


@pytest.fixture
def autoscaler(tmp_path: Path) -> Iterator[None]:
    path = tmp_path / "autoscaling.json"
    path.write_text(json.dumps(CONFIG))
    options = [f"--gcs-address={ray.get_runtime_context().gcs_address}", f"--autoscaling-config={path}"]
    monitor = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *options])
    try:
        yield
    finally:
        monitor.kill()
        monitor.wait()


@pytest.mark.usefixtures("autoscaler")
async def test_what_no_node_type_holds_is_refused_at_once_and_nothing_is_left_behind():
    assert node_types() == [NodeType("large", {"CPU": 8}, 1)]
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"no node, present or obtainable, holds giant \(CPU 9\)"):
        await reserve([Role("giant", ({"CPU": 9.0},), "PACK")], wait_s=60.0)
    assert time.monotonic() - start < 10
    assert not [row for row in placement_group_table().values() if row["name"] == "giant"]


@pytest.mark.usefixtures("autoscaler")
async def test_what_may_come_is_waited_for_and_only_who_has_no_place_is_named():
    roles = [Role("here", ({"CPU": 1.0},), "PACK"), Role("there", ({"CPU": 6.0},), "PACK")]
    with pytest.raises(ConfigError) as caught:
        await reserve(roles, wait_s=1.0)
    said = str(caught.value)
    assert "after 1 s: no room for there yet (CPU: asked 7, present 4, obtainable 8)" in said
    assert "nodes are coming (1 large), but have not come" in said
