"""The state of a pool of replicas at one moment: generators of one process or of all shards, or value actors.

One record from where it is measured to where it is used: every pool makes it, the scheduler adds what only it knows,
the fleet decides from it, and the run's status and metrics are made of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from v05ray.scheduling.scaling import Workload


class ReplicaState(Enum):
    """Where a replica is between its start and its end; only a READY one gets work."""

    STARTING = "starting"
    STALE = "stale"
    """Up, but not yet at the pool's weight version."""
    READY = "ready"
    DRAINING = "draining"
    """Finishes what it has and gets no more."""
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """`PoolSnapshot(Workload(), {"generator-0": ReplicaState.READY}, version=3)`"""

    workload: Workload
    """Up to now; what the scaling policy decides from."""
    replicas: Mapping[str, ReplicaState]
    """By replica id; also of those that are GONE."""
    version: int
    """The weight version in service, which is the last step done; 0 for value actors, whose model is frozen."""
    num_lost_draws: int = 0
    """Rollouts lost with a generator and drawn again, since the start."""
    num_restarts: int = 0
    """Since the start."""
    num_barred: int = 0
    """Weight updates after which a replica served something else, since the start."""
    manual_target: int | None = None
    """Generators that `v05ray scale` asked for since the last snapshot; only the scheduler knows it."""

    @property
    def num_ready(self) -> int:
        """Replicas that work is given to."""
        return sum(state is ReplicaState.READY for state in self.replicas.values())

    @property
    def num_present(self) -> int:
        """Replicas in any state but GONE."""
        return sum(state is not ReplicaState.GONE for state in self.replicas.values())

    @staticmethod
    def combined(parts: Iterable["PoolSnapshot"], version: int) -> "PoolSnapshot":
        """Of pools that work on the same batches, side by side, and are to serve `version`."""
        parts = list(parts)
        return PoolSnapshot(
            Workload.combined(part.workload for part in parts),
            {name: state for part in parts for name, state in part.replicas.items()},
            version,
            sum(part.num_lost_draws for part in parts),
            sum(part.num_restarts for part in parts),
            sum(part.num_barred for part in parts),
        )
