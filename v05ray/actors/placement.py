"""Placement groups for the roles of `layout.py`: reserved together before anything starts, with a deadline."""

import asyncio
from collections.abc import Sequence

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from v05ray.layout import Node, Role, shortfall, total
from v05ray.registry import ConfigError


def nodes() -> list[Node]:
    """The cluster's live nodes with all they have, busy or not."""
    return [Node(n["NodeManagerAddress"], n["Resources"]) for n in ray.nodes() if n["Alive"]]


async def reserve(roles: Sequence[Role], *, wait_s: float) -> dict[str, PlacementGroup]:
    """One placement group per role, all of them ready.

    Raises:
        ConfigError: after `wait_s` seconds, naming the roles without a place, what was asked and what is there.
    """
    groups = {
        role.name: placement_group([dict(b) for b in role.bundles], strategy=role.strategy, name=role.name)
        for role in roles
    }
    pending = {name: asyncio.ensure_future(_ready(group)) for name, group in groups.items()}
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
    reason = shortfall(roles, nodes()) or (
        f"no place for {', '.join(role.name for role in unplaced)} (asked {total(roles)}): "
        "other jobs hold the cluster's resources; free them or raise cluster.wait_s"
    )
    raise ConfigError(f"after {wait_s:g} s: {reason}")


async def _ready(group: PlacementGroup) -> None:
    await group.ready()


def on(group: PlacementGroup, bundle: int = 0) -> PlacementGroupSchedulingStrategy:
    """The actor option `scheduling_strategy` that puts an actor into a bundle."""
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
