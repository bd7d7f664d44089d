"""Asynchronous against rounds: the same prompts, priors, rewards and lengths, over numbers of generators.

With the halt off and no padding both modes draw just the same rollouts, so what differs is when.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from v05ray import budget
from v05ray.budget import BatchMachine
from v05ray.errors import ConfigError
from v05ray.simulate.cluster import Cluster, Timing, play
from v05ray.simulate.worlds import World


@dataclass(frozen=True, slots=True)
class ScalingRow:
    """One size of batch on one number of generators; sums over the repeats."""

    num_prompts: int
    num_generators: int
    async_s: float
    rounds_s: float
    bound_s: float
    work_bound_s: float
    """Mean of the batches' bound by work; where it is far below `bound_s`, the longest chain rules."""
    async_idle: float
    rounds_idle: float
    worst: float
    """The greatest makespan ratio async / rounds of any repeat."""

    @property
    def ratio(self) -> float:
        """Makespan async / rounds; below 1 async is faster."""
        return self.async_s / self.rounds_s


def scale(
    world: World,
    cluster: Cluster,
    *,
    generators: Sequence[int],
    batch_sizes: Sequence[int],
    rule: str = "osla",
    num_repeats: int = 3,
) -> list[ScalingRow]:
    """One row per batch size and number of generators; each repeat draws other responses."""
    rows = []
    for batch_size in batch_sizes:
        if batch_size > len(world.priors):
            raise ConfigError(f"a batch of {batch_size} prompts needs a world of as many, got {len(world.priors)}")
        for num_generators in generators:
            pairs = [
                both(world, replace(cluster, num_generators=num_generators), batch_size, rule, repeat)
                for repeat in range(num_repeats)
            ]
            rows.append(_row(batch_size, num_generators, pairs))
    return rows


def both(world: World, cluster: Cluster, batch_size: int, rule: str, repeat: int) -> tuple[Timing, Timing]:
    """(async, rounds) of the first prompts from number repeat * batch_size on, round the world and back."""
    names = list(world.priors)
    start = repeat * batch_size
    batch = [names[(start + i) % len(names)] for i in range(batch_size)]
    responses = world.responses(repeat)
    priors: dict[str, float | None] = {name: world.priors[name] for name in batch}

    def timing(mode: str) -> Timing:
        machine = BatchMachine(
            priors, budget.build(rule), halt_fraction=0, mode="rounds" if mode == "rounds" else "async"
        )
        return play(machine, responses, cluster).timing

    return timing("async"), timing("rounds")


def _row(num_prompts: int, num_generators: int, pairs: Sequence[tuple[Timing, Timing]]) -> ScalingRow:
    count = len(pairs)
    return ScalingRow(
        num_prompts=num_prompts,
        num_generators=num_generators,
        async_s=sum(a.makespan_s for a, _ in pairs) / count,
        rounds_s=sum(r.makespan_s for _, r in pairs) / count,
        bound_s=sum(a.bound_s for a, _ in pairs) / count,
        work_bound_s=sum(a.work_bound_s for a, _ in pairs) / count,
        async_idle=sum(a.idle_share for a, _ in pairs) / count,
        rounds_idle=sum(r.idle_share for _, r in pairs) / count,
        worst=max(a.makespan_s / r.makespan_s for a, r in pairs),
    )
