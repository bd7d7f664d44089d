"""Every file of clusters/ against the schema of what reads it, and against the lock."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.clusters import kuberay

ROOT = Path(__file__).parents[3]
CLUSTERS = ROOT / "clusters"
ROLES = {"generator", "learner", "value"}
RAY_UP = ("aws", "gcp")
LOCAL = CLUSTERS / "local-autoscaling"


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def locked(package: str, lock: str = "gpu") -> str:
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "requirements" / f"{lock}.txt").read_text(), re.MULTILINE)
    assert found, package
    return found[1]


def group_specs() -> list[tuple[str, dict[str, Any]]]:
    job = load(CLUSTERS / "rayjob.yaml")["spec"]["rayClusterSpec"]
    return [("raycluster", load(CLUSTERS / "raycluster.yaml")["spec"]), ("rayjob", job)]


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_files_pass_rays_own_checks(name: str):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(load(CLUSTERS / f"{name}.yaml"))
    validate_config(config)
    assert set(config["available_node_types"]) == ROLES | {"head"}
    assert config["head_node_type"] == "head"
    for role in ROLES:
        kind = config["available_node_types"][role]
        assert kind["resources"][role] == 1
        assert kind["min_workers"] == 0 < kind["max_workers"] <= config["max_workers"]


def test_the_local_cluster_passes_rays_own_checks():
    from ray.autoscaler._private.util import prepare_config, validate_config

    configuration = runpy.run_path(str(LOCAL / "cluster.py"))["configuration"]
    config = configuration("10.0.0.1:1234", most={"generator": 4, "learner": 1, "value": 0}, head_cpus=3, idle_s=30)
    validate_config(prepare_config(config))
    types = config["available_node_types"]
    assert set(types) == ROLES | {"ray.head.default"}
    assert {role: types[role]["max_workers"] for role in ROLES} == {"generator": 4, "learner": 1, "value": 0}
    assert config["max_workers"] == 5
    assert config["idle_timeout_minutes"] == 0.5
    assert config["provider"]["gcs_address"] == "10.0.0.1:1234"


@pytest.mark.parametrize(("name", "kind"), [("raycluster", "RayCluster"), ("rayjob", "RayJob")])
def test_kuberay_files_use_the_fields_of_its_v1_resources(name: str, kind: str):
    document = load(CLUSTERS / f"{name}.yaml")
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", kind)
    assert kuberay.problems(document) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda spec: spec.update(enableAutoscaling=True), "spec: no field enableAutoscaling"),
        (lambda spec: spec["workerGroupSpecs"][0].pop("groupName"), "spec.workerGroupSpecs[0]: groupName is required"),
        (lambda spec: spec["workerGroupSpecs"][1].update(maxReplicas="2"), "maxReplicas: expected int, got '2'"),
        (lambda spec: spec["autoscalerOptions"].update(upscalingMode="Fast"), "upscalingMode: 'Fast' is none of"),
    ],
)
def test_the_kuberay_check_finds_what_is_wrong(change: Any, problem: str):
    document = load(CLUSTERS / "raycluster.yaml")
    change(document["spec"])
    assert any(problem in found for found in kuberay.problems(document))


@pytest.mark.parametrize(("name", "spec"), group_specs())
def test_kuberay_clusters_scale_every_role_from_nothing(name: str, spec: dict[str, Any]):
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["authOptions"] == {"mode": "token"}
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert set(groups) == ROLES
    for role, group in groups.items():
        assert group["minReplicas"] == 0 < group["maxReplicas"]
        assert yaml.safe_load(yaml.safe_load(group["rayStartParams"]["resources"])) == {role: 1}


def test_both_kuberay_files_describe_the_same_cluster():
    (_, cluster), (_, job) = group_specs()
    assert cluster == job


def test_versions_are_those_of_the_lock():
    ray = locked("ray")
    assert ray == locked("ray", "cpu")
    image = f"rayproject/ray:{ray}-py311-gpu"
    dockerfile = (CLUSTERS / "Dockerfile").read_text()
    assert f"FROM {image}\n" in dockerfile
    assert "requirements/gpu.txt" in dockerfile
    for name in RAY_UP:
        config = load(CLUSTERS / f"{name}.yaml")
        assert config["docker"]["image"] == image
        assert config["file_mounts"] == {"/home/ray/requirements.txt": "requirements/gpu.txt"}
        assert config["setup_commands"] == ["pip install --no-deps -r /home/ray/requirements.txt"]
    for _, spec in group_specs():
        assert spec["rayVersion"] == ray
        images = {
            container["image"]
            for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
            for container in group["template"]["spec"]["containers"]
        }
        assert images == {f"REGISTRY/v05ray:ray{ray}"}
        assert f"v05ray:ray{ray}" in dockerfile


@pytest.mark.parametrize("name", RAY_UP)
def test_dashboards_listen_on_loopback(name: str):
    start = " ".join(load(CLUSTERS / f"{name}.yaml")["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda path: path.name)
def test_job_files_name_both_ways_to_submit_them(path: Path):
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"v05ray submit jobs/{path.name} --address" in head
    assert "ray job submit --address" in head
    assert f"-- python -m v05ray.cli train jobs/{path.name} cluster.address=auto" in head
