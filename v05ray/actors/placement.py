"""Placement groups for the roles of `machine/layout.py`: reserved together before anything starts, with a deadline."""

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml
from ray._private.state import state
from ray.exceptions import AuthenticationError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from v05ray.errors import ConfigError
from v05ray.machine.layout import Node, NodeType, Role, outlook, place, total

log = logging.getLogger(__name__)
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts the account that a pod runs as."""
REACH_S = 10.0
"""Longest wait for a head that does not answer, in seconds."""
TOKEN_FIX = "if the head asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's"


def nodes() -> list[Node]:
    """The cluster's live nodes with all they have, busy or not."""
    # Several nodes may share an address, as those of a local cluster do.
    return [Node(f"{n['NodeManagerAddress']}/{n['NodeID'][:8]}", n["Resources"]) for n in ray.nodes() if n["Alive"]]


def join(address: str) -> None:
    """Joins a cluster that runs already.

    Raises:
        ConfigError: nothing listens there (said at once; Ray would try for minutes), or Ray cannot join it.
    """
    host, _, port = address.rpartition(":")
    if "://" not in address and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
        except OSError as error:
            raise ConfigError(
                f"cluster.address {address!r}: no answer ({error.strerror or error}); give the address that the head's "
                "`ray start` was given, usually HOST:6379, or `auto` on one of the cluster's nodes"
            ) from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, AuthenticationError) as error:
        # Given an address, Ray sends no token by itself, and reports a head that refuses it as a plain failure.
        fix = "" if os.environ.get("RAY_AUTH_MODE") == "token" else f"; {TOKEN_FIX}"
        raise ConfigError(f"cluster.address {address!r} cannot be joined from here: {error}{fix}") from error


def look_at(address: str) -> tuple[list[Node], list[NodeType] | None]:
    """(nodes, node types) of a cluster, joined for the look alone. Raises `ConfigError` where it cannot be joined."""
    join(address)
    try:
        return nodes(), node_types()
    finally:
        ray.shutdown()


def node_types() -> list[NodeType] | None:
    """What the cluster's autoscaler may bring; None where that cannot be known from here.

    On some platforms the cluster itself has them. Else the autoscaler's own configuration is read: of the process, if
    it runs on this machine (the head, for a submitted job), or of the RayCluster, if this is the head's pod under
    KubeRay.
    """
    configured = state.get_cluster_config()
    if configured is not None:
        return [NodeType(group.name, dict(group.resources), group.max_count) for group in configured.node_group_configs]
    gcs_address = ray.get_runtime_context().gcs_address
    config = _autoscaler_config(gcs_address) or kuberay_config(os.environ.get("RAY_CLUSTER_NAME"))
    return None if config is None else types_of(config)


def types_of(config: dict[str, Any]) -> list[NodeType]:
    """The node types of an autoscaler's configuration, but the head's and those of unknown resources."""
    kinds = config.get("available_node_types") or {}
    return [
        NodeType(name, kind["resources"], kind.get("max_workers", config.get("max_workers", 0)))
        for name, kind in kinds.items()
        if name != config.get("head_node_type") and kind.get("resources")
    ]


def kuberay_config(name: str | None, account: Path = SERVICE_ACCOUNT) -> dict[str, Any] | None:
    """What KubeRay's autoscaler makes of the RayCluster `name`, by its own code; None where it cannot be read here.

    The autoscaler is another container of the head's pod, and reads the RayCluster as the pod's service account, to
    which KubeRay allows that with `enableInTreeAutoscaling`. So this container may, too; a worker's may not.
    """
    namespace = account / "namespace"
    if not name or not namespace.is_file():
        return None
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

    try:
        found = KubernetesHttpApiClient(namespace.read_text().strip()).get(f"rayclusters/{name}")
    except (OSError, ValueError) as error:  # requests' errors are OSErrors: not allowed, not reachable
        log.warning("the RayCluster %s cannot be read (%s): what it may grow to is not known", name, error)
        return None
    if not found["spec"].get("enableInTreeAutoscaling"):
        return None
    return _derive_autoscaling_config_from_ray_cr(found)


def _autoscaler_config(gcs_address: str) -> dict[str, Any] | None:
    """The file that the autoscaler of that cluster was started with, if it runs on this machine."""
    for process in psutil.process_iter():
        try:
            options = dict(part.removeprefix("--").split("=", 1) for part in process.cmdline() if "=" in part)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # another user's, or gone meanwhile
        path = options.get("autoscaling-config")
        if path and options.get("gcs-address") == gcs_address and Path(path).is_file():
            return yaml.safe_load(Path(path).read_text())  # JSON is YAML
    return None


async def reserve(roles: Sequence[Role], *, wait_s: float) -> dict[str, PlacementGroup]:
    """One placement group per role, all of them ready.

    Raises:
        ConfigError: at once for what can never fit, else after `wait_s` seconds; names the roles without a place, what
            was asked, what is there and what may come.
    """
    types = node_types()
    look = outlook(roles, nodes(), types)
    if look.verdict == "never":
        raise ConfigError(look.text)
    groups = {role.name: request_group(role) for role in roles}
    pending = {name: asyncio.ensure_future(until_placed(group)) for name, group in groups.items()}
    done, late = await asyncio.wait(pending.values(), timeout=wait_s)
    if not late:
        for task in done:
            task.result()
        return groups
    unplaced = [role for role in roles if not pending[role.name].done()]
    for task in late:
        task.cancel()
    for group in groups.values():
        remove_placement_group(group)
    raise ConfigError(f"after {wait_s:g} s: {_why(roles, unplaced, types)}")


def _why(roles: Sequence[Role], unplaced: Sequence[Role], types: Sequence[NodeType] | None) -> str:
    """Why Ray has found no place for some roles."""
    present = nodes()
    if not place(roles, present)[1]:
        return (
            f"no place for {', '.join(role.name for role in unplaced)} (asked {total(unplaced)}): "
            "other jobs hold the cluster's resources; free them or raise cluster.wait_s"
        )
    look = outlook(roles, present, types, unplaced=unplaced)
    if look.verdict == "coming":
        return f"{look.text}, but have not come; see the autoscaler's monitor.log on the head, or raise cluster.wait_s"
    return look.text


def request_group(role: Role) -> PlacementGroup:
    """A placement group that may have to wait for nodes."""
    return placement_group([dict(b) for b in role.bundles], strategy=role.strategy, name=role.name)


async def until_placed(group: PlacementGroup) -> None:
    """Returns when every bundle has its node."""
    await group.ready()


def on(group: PlacementGroup, bundle: int = 0) -> PlacementGroupSchedulingStrategy:
    """The actor option `scheduling_strategy` that puts an actor into a bundle."""
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
