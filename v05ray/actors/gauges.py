"""What a run shows to Prometheus, through Ray's metrics; `clusters/grafana-dashboard.json` draws it.

Ray puts `ray_` before every name and `_total` after a counter's. Each has the tag `run`, the name of the run's folder.
"""

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from v05ray.scheduling.snapshot import PoolSnapshot, ReplicaState
from v05ray.storage.status import RunStatus

GAUGES: Mapping[str, tuple[str, str]] = {
    "v05ray_step": ("", "Last step done; the weight version in service."),
    "v05ray_generators": ("life", "Generators in each state between their start and their end."),
    "v05ray_generators_wanted": ("", "Generators that there should be."),
    "v05ray_outstanding_tokens": ("", "Upper bound of the tokens asked for and not answered."),
    "v05ray_backlog_seconds": ("", "Predicted seconds until the generators have worked that off."),
    "v05ray_generator_tokens_per_second": ("", "What one generator gets through, prompts included."),
    "v05ray_actor_memory_mib": ("role", "Resident memory of an actor and its children, in MiB."),
    "v05ray_nodes": ("type", "Live nodes of the cluster."),
}
"""Name -> (tag besides `run`, help)"""

COUNTERS: Mapping[str, str] = {
    "v05ray_rollouts": "Rollouts that generators answered with.",
    "v05ray_tokens": "Tokens of these, prompts included.",
    "v05ray_lost_rollouts": "Rollouts lost with a generator, and drawn again.",
    "v05ray_generator_restarts": "Restarts of generators.",
}
"""Name -> help"""


class Gauges:
    """Sets them all from what the fleet and the run's status say."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges = {
            name: Gauge(name, description=text, tag_keys=("run", tag) if tag else ("run",))
            for name, (tag, text) in GAUGES.items()
        }
        self._counters = {name: Counter(name, description=text, tag_keys=("run",)) for name, text in COUNTERS.items()}
        self._counted = dict.fromkeys(COUNTERS, 0)
        self._shown: dict[str, set[str]] = {}

    def show(self, status: RunStatus, pool: PoolSnapshot) -> None:
        """Sets every metric to its present value; counters grow by what is new."""
        self._set("v05ray_step", status.step)
        self._set("v05ray_generators_wanted", status.wanted)
        self._set("v05ray_outstanding_tokens", status.outstanding_tokens)
        self._set("v05ray_backlog_seconds", status.backlog_s)
        self._set("v05ray_generator_tokens_per_second", status.tokens_per_s)
        states = list(status.generators.values())
        kinds = ("placing", *(state.value for state in ReplicaState))
        self._set_each("v05ray_generators", {kind: states.count(kind) for kind in kinds})
        self._set_each("v05ray_actor_memory_mib", status.memory_mib)
        self._set_each("v05ray_nodes", status.nodes)
        self._count("v05ray_rollouts", pool.workload.answered_rollouts)
        self._count("v05ray_tokens", pool.workload.answered_tokens)
        self._count("v05ray_lost_rollouts", pool.num_lost_draws)
        self._count("v05ray_generator_restarts", pool.num_restarts)

    def _set(self, name: str, value: float | None) -> None:
        if value is not None:
            self._gauges[name].set(value, {"run": self._run})

    def _set_each(self, name: str, values: Mapping[str, float]) -> None:
        """One value for each value of the tag; 0 for those that have gone, which would else stay as they were."""
        tag = GAUGES[name][0]
        gone = self._shown.get(name, set()) - set(values)
        for key, value in {**dict.fromkeys(gone, 0.0), **values}.items():
            self._gauges[name].set(value, {"run": self._run, tag: key})
        self._shown[name] = set(values)

    def _count(self, name: str, total: int) -> None:
        if total > self._counted[name]:
            self._counters[name].inc(total - self._counted[name], {"run": self._run})
            self._counted[name] = total
