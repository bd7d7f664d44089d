"""Roles to placement bundles: arithmetic only, no Ray.

Every generator replica is a placement group of its own, so replicas come and go one by one; the learner ranks are one
gang; the value pool, the reward pool and the scheduler have groups of their own. With `cluster.colocate` a replica has
no group but is in a rank's bundle, which then holds what both ask for and so shares one device.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
    """One machine and its resources."""

    name: str
    resources: Bundle


@dataclass(frozen=True, slots=True)
class NodeType:
    """A kind of machine that an autoscaler may bring."""

    name: str
    resources: Bundle
    most: int
    """Most nodes of this kind at a time."""


Verdict = Literal["fits", "coming", "never", "unknown"]
"""There is room | an autoscaler can bring it | not even all it may bring is enough | unknown."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """Whether what is asked for will find room."""

    verdict: Verdict
    text: str
    """One sentence: roles without room, what is asked, present and obtainable, and the fix. Empty where all fits."""


def _bundle(num_cpus: float, num_gpus: float = 0.0) -> Bundle:
    return {"CPU": num_cpus, **({"GPU": num_gpus} if num_gpus else {})}


NODE_TYPE_SHARE = 0.001
"""Of a node type's own resource, for each bundle that belongs on such a node: so small that a thousand fit."""


def _on(config: Config, node_type: str, bundle: Bundle) -> Bundle:
    return {**bundle, node_type: NODE_TYPE_SHARE} if config.cluster.node_types else bundle


def generator_role(config: Config, index: int) -> Role:
    """The placement group of one generator replica: one bundle, with what all its tensor-parallel parts need.

    One, for an actor cannot span bundles, and the processes of the parts live where the actor that starts them does;
    so all parts are on one node.
    """
    g = config.generators
    bundle = _bundle(g.num_cpus * g.tensor_parallel, g.num_gpus * g.tensor_parallel)
    return Role(f"generator-{index}", (_on(config, "generator", bundle),), "STRICT_PACK")


def value_role(config: Config, name: str = "value", *, count: int = 1) -> Role:
    """The placement group of `count` value actors: those that a run starts with, or one that came later."""
    return Role(name, (_on(config, "value", _bundle(config.value.num_cpus)),) * count, "SPREAD")


def num_shard_actors(config: Config) -> int:
    """Shards that are actors of their own; a single one is part of the scheduler."""
    return config.generators.shards if config.generators.shards > 1 else 0


def roles(config: Config) -> tuple[Role, ...]:
    """Every placement group a run asks for at its start."""
    learner, value, rewards = config.learner, config.value, config.rewards
    asked = [
        Role("learner", tuple(_rank_bundle(config, rank) for rank in range(learner.num_ranks)), "PACK"),
        Role("scheduler", (_bundle(SCHEDULER_CPUS),) * (1 + num_shard_actors(config)), "SPREAD"),
        Role("rewards", (_bundle(rewards.num_cpus),), "PACK"),
    ]
    if value.enabled:
        asked.append(value_role(config, count=value.pool_size))
    if not config.cluster.colocate:
        asked += [generator_role(config, index) for index in range(config.generators.count)]
    return tuple(asked)


def _rank_bundle(config: Config, rank: int) -> Bundle:
    """A learner rank's, with the generator replica that is colocated with it."""
    both: list[Bundle] = [_bundle(config.learner.num_cpus, config.learner.num_gpus)]
    if config.cluster.colocate and rank < config.generators.count:
        both.append(_bundle(config.generators.num_cpus, config.generators.num_gpus))
    return _on(config, "learner", _sum(both))


def inference_roles(config: Config) -> tuple[Role, ...]:
    """What evaluation alone needs: drawing and scoring, without a device shared with another role."""
    learner_free = config.model_copy(update={"cluster": config.cluster.model_copy(update={"colocate": False})})
    return tuple(role for role in roles(learner_free) if role.name.startswith(("scheduler", "rewards", "generator-")))


def total(asked: Sequence[Role]) -> dict[str, float]:
    """Sum over all bundles, by resource."""
    return _sum(bundle for role in asked for bundle in role.bundles)


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
    taken: list[tuple[str, Bundle]] = []
    for need in _units(role):
        node = next((name for name, have in free.items() if _holds(have, need)), None)
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
    figures = _figures(total(asked), {"present": _sum(node.resources for node in nodes)})
    return f"no room for {', '.join(role.name for role in unplaced)} ({figures}); {_FIX}"


def outlook(
    asked: Sequence[Role],
    nodes: Sequence[Node],
    types: Sequence[NodeType] | None,
    *,
    unplaced: Sequence[Role] | None = None,
) -> Outlook:
    """What will become of `asked` on `nodes` and what an autoscaler can add; `types` None: that is unknown.

    `never` is said only where it can be proved: more bundles than places for them, or a sum that is not reached.
    `unplaced` are those of `asked` that have no place, where that is known; else they are computed.
    """
    if unplaced is None:
        _, unplaced = place(asked, nodes)
    if not unplaced:
        return Outlook("fits", "")
    lacking = f"no room for {', '.join(role.name for role in unplaced)}"
    if types is None:
        figures = _figures(total(asked), {"present": _sum(node.resources for node in nodes)})
        return Outlook("unknown", f"{lacking} ({figures}), unless an autoscaler brings more; {_FIX}")
    more = [Node(t.name, t.resources) for t in types for _ in range(max(0, t.most - _there(t, nodes)))]
    present, obtainable = (_sum(node.resources for node in group) for group in (nodes, more))
    figures = _figures(total(asked), {"present": present, "obtainable": obtainable})
    for role in unplaced:
        for need in _units(role):
            slots = sum(_slots(node.resources, need) for node in (*nodes, *more))
            if slots == 0:
                return Outlook("never", f"no node, present or obtainable, holds {role.name} ({_amounts(need)}); {_FIX}")
            alike = sum(unit == need for other in asked for unit in _units(other))
            if slots < alike:
                return Outlook("never", f"{lacking} ({figures}): {slots} such places for {alike} at most; {_FIX}")
    short = {r: a - present.get(r, 0) - obtainable.get(r, 0) for r, a in total(asked).items()}
    short = {resource: amount for resource, amount in short.items() if amount > 1e-9}
    if short:
        return Outlook("never", f"{lacking} ({figures}): {_amounts(short)} short at the cluster's largest; {_FIX}")
    named = [Node(f"{node.name} {index}", node.resources) for index, node in enumerate(more)]
    placed, _ = place(unplaced, named)
    kinds = Counter(name.rpartition(" ")[0] for name in {name for names in placed.values() for name in names})
    coming = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "other nodes"
    return Outlook("coming", f"{lacking} yet ({figures}): nodes are coming ({coming})")


_FIX = "lower generators.count, *.num_cpus or *.num_gpus, or take a larger cluster"


def _units(role: Role) -> list[Bundle]:
    """The bundles, or sums of bundles, that each have to be on one node."""
    return [total([role])] if role.strategy == "STRICT_PACK" else list(role.bundles)


def _holds(resources: Bundle, need: Bundle) -> bool:
    return all(resources.get(resource, 0) + 1e-9 >= amount for resource, amount in need.items())


def _slots(resources: Bundle, need: Bundle) -> int:
    """How often `need` fits on one node."""
    return int(min(resources.get(resource, 0) / amount + 1e-9 for resource, amount in need.items() if amount))


def _there(kind: NodeType, nodes: Sequence[Node]) -> int:
    """Nodes that look as if they were of this type; their memory is not compared, for each measures its own."""
    compared = {r: a for r, a in kind.resources.items() if "memory" not in r}
    return sum(all(node.resources.get(r) == a for r, a in compared.items()) for node in nodes)


def _sum(bundles: Iterable[Bundle]) -> dict[str, float]:
    summed: dict[str, float] = {}
    for bundle in bundles:
        for resource, amount in bundle.items():
            summed[resource] = summed.get(resource, 0.0) + amount
    return summed


def _figures(asked: Bundle, having: Mapping[str, Bundle]) -> str:
    return "; ".join(
        f"{resource}: "
        + ", ".join(f"{n} {a:g}" for n, a in [("asked", amount), *((n, h.get(resource, 0)) for n, h in having.items())])
        for resource, amount in sorted(asked.items())
    )


def _amounts(bundle: Bundle) -> str:
    return ", ".join(f"{resource} {amount:g}" for resource, amount in sorted(bundle.items()))
