"""A user who reaches a dashboard can run code on its cluster: none listens on a network unless something guards it."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
CLUSTERS = ROOT / "clusters"
TEXTS = sorted(
    path
    for pattern in ("*.md", "Makefile", "docs/*.md", "jobs/*", "clusters/**/*", "v05ray/**/*.py", "benchmarks/*.py")
    for path in ROOT.glob(pattern)
    if path.is_file() and "__pycache__" not in path.parts
)
START = re.compile(r"ray start(?:[^\n]*\\?\n\s+--)*[^\n]*")
"""A command with the lines that continue its options."""


def start_commands() -> list[tuple[Path, str]]:
    return [(path, found[0]) for path in TEXTS for found in START.finditer(path.read_text(errors="replace"))]


def test_every_head_that_is_started_keeps_its_dashboard_on_loopback():
    heads = [(path, command) for path, command in start_commands() if "--head" in command]
    assert {path.name for path, _ in heads} >= {"aws.yaml", "gcp.yaml"}
    for path, command in heads:
        assert "--dashboard-host=127.0.0.1" in command, path


def test_no_text_offers_a_dashboard_to_every_network():
    for path in TEXTS:
        for line in path.read_text(errors="replace").splitlines():
            assert "0.0.0.0" not in line, f"{path}: {line}"
            if "mlflow ui" in line or "mlflow server" in line:
                assert "--host" not in line, f"{path}: {line}"


def test_the_local_cluster_says_loopback():
    # That it is so on the socket, too: tests/e2e/submit.
    assert '"--dashboard-host=127.0.0.1"' in (CLUSTERS / "local-autoscaling" / "cluster.py").read_text()


def test_clusters_made_by_code_have_no_dashboard():
    made = 0
    for path in TEXTS:
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "ray.init":
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if given["address"] == "'local'":
                    made += 1
                    assert given["include_dashboard"] == "False", path
    assert made >= 2


def kuberay_specs() -> dict[str, dict[str, Any]]:
    cluster, job = (yaml.safe_load((CLUSTERS / name).read_text()) for name in ("raycluster.yaml", "rayjob.yaml"))
    return {"raycluster": cluster["spec"], "rayjob": job["spec"]["rayClusterSpec"]}


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_kuberays_dashboard_is_inside_the_cluster_and_asks_for_a_token(name: str):
    # KubeRay's operator and probes reach the head over the pod's address, so there it cannot be loopback.
    spec = kuberay_specs()[name]
    head = spec["headGroupSpec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert head["serviceType"] == "ClusterIP"
    assert not {"enableIngress", "headService"} & set(head)
    assert "dashboard-host" not in head["rayStartParams"]
    pod = head["template"]["spec"]
    assert "hostNetwork" not in pod
    assert not any("hostPort" in port for container in pod["containers"] for port in container["ports"])
