from v05ray.scheduling.scaling import Workload
from v05ray.scheduling.snapshot import PoolSnapshot, ReplicaState


def test_ready_ones_get_work_and_all_but_those_that_are_gone_are_present():
    states = {f"generator-{index}": state for index, state in enumerate((*ReplicaState, ReplicaState.READY))}
    snapshot = PoolSnapshot(Workload(), states, version=3)
    assert (snapshot.num_ready, snapshot.num_present) == (2, 5)


def test_shards_snapshots_add_up():
    one = PoolSnapshot(Workload(10, True, 2.0, 30.0), {"a": ReplicaState.READY}, 1, num_lost_draws=2, num_restarts=1)
    other = PoolSnapshot(Workload(5, True, 3.0, 7.0), {"b": ReplicaState.STALE}, 2, num_lost_draws=3)
    assert PoolSnapshot.combined([one, other], 2) == PoolSnapshot(
        Workload(15, True, 3.0, 37.0),
        {"a": ReplicaState.READY, "b": ReplicaState.STALE},
        version=2,
        num_lost_draws=5,
        num_restarts=1,
    )
