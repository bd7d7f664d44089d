"""Roles to placement bundles: arithmetic only, no Ray.

Every generator replica is a placement group of its own, so replicas come and go one by one; the learner ranks are one
gang; the value pool, the reward pool and the scheduler have groups of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from v05ray.config import Config

Strategy = Literal["PACK", "STRICT_PACK", "SPREAD"]
Bundle = Mapping[str, float]
"""Resource name (`CPU`, `GPU`) to amount."""

SCHEDULER_CPUS = 0.25
"""The scheduler, or a shard of it, waits far more than it works."""


@dataclass(frozen=True, slots=True)
class Role:
    """One placement group."""

    name: str
    bundles: tuple[Bundle, ...]
    strategy: Strategy


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine has."""

    name: str
    resources: Bundle


def _bundle(num_cpus: float, num_gpus: float = 0.0) -> Bundle:
    return {"CPU": num_cpus, **({"GPU": num_gpus} if num_gpus else {})}


NODE_TYPE_SHARE = 0.001
"""Of a node type's own resource, for each bundle that belongs on such a node: so small that a thousand fit."""


def _on(config: Config, node_type: str, bundle: Bundle) -> Bundle:
    return {**bundle, node_type: NODE_TYPE_SHARE} if config.cluster.node_types else bundle


def generator_role(config: Config, index: int) -> Role:
    """The placement group of one generator replica."""
    g = config.generators
    return Role(f"generator-{index}", (_on(config, "generator", _bundle(g.num_cpus, g.num_gpus)),), "STRICT_PACK")


def num_shard_actors(config: Config) -> int:
    """Shards that are actors of their own; a single one is part of the scheduler."""
    return config.generators.shards if config.generators.shards > 1 else 0


def roles(config: Config) -> tuple[Role, ...]:
    """Every placement group a run asks for at its start."""
    learner, value, rewards = config.learner, config.value, config.rewards
    rank = _on(config, "learner", _bundle(learner.num_cpus, learner.num_gpus))
    asked = [
        Role("learner", (rank,) * learner.num_ranks, "PACK"),
        Role("scheduler", (_bundle(SCHEDULER_CPUS),) * (1 + num_shard_actors(config)), "SPREAD"),
        Role("rewards", (_bundle(rewards.num_cpus),), "PACK"),
    ]
    if value.enabled:
        asked.append(Role("value", (_on(config, "value", _bundle(value.num_cpus)),) * value.pool_size, "SPREAD"))
    asked += [generator_role(config, index) for index in range(config.generators.count)]
    return tuple(asked)


def total(asked: Sequence[Role]) -> dict[str, float]:
    """Sum over all bundles, by resource."""
    summed: dict[str, float] = {}
    for role in asked:
        for bundle in role.bundles:
            for resource, amount in bundle.items():
                summed[resource] = summed.get(resource, 0.0) + amount
    return summed


def place(asked: Sequence[Role], nodes: Sequence[Node]) -> tuple[dict[str, list[str]], list[Role]]:
    """First fit, largest bundle first: (role name -> node name per bundle, roles that do not fit).

    A sufficient check before start-up, not Ray's own scheduler: what fits here fits there.
    """
    free = {node.name: dict(node.resources) for node in nodes}
    placed: dict[str, list[str]] = {}
    unplaced: list[Role] = []
    for role in sorted(asked, key=lambda r: -max(b.get("GPU", 0) * 1000 + b.get("CPU", 0) for b in r.bundles)):
        chosen = _place_role(role, free)
        if chosen is None:
            unplaced.append(role)
        else:
            placed[role.name] = chosen
    return placed, unplaced


def _place_role(role: Role, free: dict[str, dict[str, float]]) -> list[str] | None:
    """Takes the role's bundles from `free`, or leaves `free` untouched and returns None."""
    groups = [[total([role])]] if role.strategy == "STRICT_PACK" else [[dict(b)] for b in role.bundles]
    taken: list[tuple[str, Bundle]] = []
    for (need,) in groups:
        node = next((n for n, have in free.items() if all(have.get(r, 0) + 1e-9 >= a for r, a in need.items())), None)
        if node is None:
            for name, bundle in taken:
                for resource, amount in bundle.items():
                    free[name][resource] += amount
            return None
        for resource, amount in need.items():
            free[node][resource] -= amount
        taken.append((node, need))
    return [node for node, _ in taken] * (len(role.bundles) if role.strategy == "STRICT_PACK" else 1)


def shortfall(asked: Sequence[Role], nodes: Sequence[Node]) -> str | None:
    """None if everything fits on `nodes`, else one sentence that names what is asked, what is there, and the fix."""
    _, unplaced = place(asked, nodes)
    if not unplaced:
        return None
    want, have = total(asked), {}
    for node in nodes:
        for resource, amount in node.resources.items():
            have[resource] = have.get(resource, 0.0) + amount
    figures = ", ".join(f"{r}: asked {a:g}, present {have.get(r, 0):g}" for r, a in sorted(want.items()))
    names = ", ".join(role.name for role in unplaced)
    return (
        f"no room for {names} ({figures}); lower generators.count, *.num_cpus or *.num_gpus, or join a larger cluster"
    )
