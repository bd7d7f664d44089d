"""Generators, and value actors, that come and go: carries out what the scaling policy decides, or `v05ray scale` sets.

    wanted > present:  a place is asked for (an autoscaler may have to bring the node), then the replica is added to the
                       pool, which gives it the current weights, and then work
    wanted < present:  a place not there yet is given up; else the newest replica drains, ends, and its place goes

Written against Protocols: it runs on Ray and on fakes. No other part waits for it, and it waits for none.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from v05ray.scheduling.scaling import ScalingPolicy
from v05ray.scheduling.snapshot import PoolSnapshot, ReplicaState

Note = Callable[[str, Mapping[str, object]], None]
"""Records an event: its name and its fields."""
Replica = TypeVar("Replica")
Replica_co = TypeVar("Replica_co", covariant=True)
Replica_contra = TypeVar("Replica_contra", contravariant=True)


class Places(Protocol[Replica_co]):
    """Where replicas run: placement groups, or fakes."""

    async def take(self, name: str) -> Replica_co:
        """A replica in a place of its own; waits until there is one. Cancelled, it asks for none any more."""
        ...

    async def give_back(self, name: str) -> None:
        """Ends what runs in the place of that name; an autoscaler may take its node."""
        ...


class Pool(Protocol[Replica_contra]):
    """What the fleet asks of the scheduler, or of the value pool."""

    async def snapshot(self) -> PoolSnapshot:
        """The present state; a manual target is in one snapshot alone."""
        ...

    async def add(self, replica: Replica_contra, /) -> None:
        """Takes in one more replica, which gets work once it is up."""
        ...

    async def drain(self, name: str, /) -> None:
        """Gives the replica no more work and returns when it has finished what it had."""
        ...


@dataclass(frozen=True, slots=True)
class FleetState:
    """What a tick found, for `v05ray status` and the metrics: the pool's snapshot and what the fleet adds to it."""

    pool: PoolSnapshot
    wanted: int
    replicas: Mapping[str, str]
    """State by replica id; `placing` while a place is waited for. Those that are gone have left."""
    backlog_s: float | None
    """Predicted seconds until the READY generators have worked off what is outstanding; None before that is known."""
    tokens_per_s: float | None
    """Of one generator."""


@dataclass
class Fleet(Generic[Replica]):
    """Keeps as many replicas as are wanted; `present` are the ids of those that the pool starts with."""

    policy: ScalingPolicy
    pool: Pool[Replica]
    places: Places[Replica]
    present: list[str]
    """In the order of their arrival."""
    note: Note
    kind: str = "generator"
    """Its replicas are `KIND-0`, `KIND-1`, ..., and events call them so."""
    _coming: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Waiting for a place."""
    _arriving: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """On their way from their place into the pool."""
    _leaving: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _served: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._next_index = 1 + max((int(name.rpartition("-")[2]) for name in self.present), default=-1)

    async def tick(self) -> FleetState:
        """Looks, decides, begins what is to be done. To be called every second or so.

        Raises what a place or the pool raised since the last tick.
        """
        pool = await self.pool.snapshot()
        self._collect()
        before, by = self.policy.wanted, "backlog"
        wanted = self.policy.observe(pool.workload)
        if pool.manual_target is not None:
            self.policy.set(pool.manual_target)
            wanted, by = self.policy.wanted, "hand"
        backlog_s = self.policy.backlog_s(pool.workload, pool.num_ready)
        if wanted != before:
            rounded_s = None if backlog_s is None else round(backlog_s, 1)
            self.note("wanted", {f"{self.kind}s": wanted, "before": before, "by": by, "backlog_s": rounded_s})
        self._note_changes(pool.replicas)
        self._reconcile(wanted, pool.replicas)
        known = [name for name in (*self.present, *self._leaving) if name in pool.replicas]
        states = {name: pool.replicas[name].value for name in known}
        states |= dict.fromkeys(self._coming, "placing") | dict.fromkeys(self._arriving, "starting")
        return FleetState(pool, wanted, states, backlog_s, self.policy.tokens_per_s)

    async def close(self) -> None:
        """Ends what is under way; places that are taken are given back by the part that reserved them."""
        tasks = [*self._coming.values(), *self._arriving.values(), *self._leaving.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _reconcile(self, wanted: int, states: Mapping[str, ReplicaState]) -> None:
        # One that was given up counts: it would fail again. It is the first to go when fewer are wanted.
        excess = len(self.present) + len(self._arriving) + len(self._coming) - wanted
        for _ in range(-excess):
            name = f"{self.kind}-{self._next_index}"
            self._next_index += 1
            self.note("placing", {self.kind: name})
            self._coming[name] = self._spawn(self._come(name))
        for _ in range(excess):
            if self._coming:
                name, task = self._coming.popitem()
                task.cancel()
                self._leaving[name] = task
                self.note("place not needed any more", {self.kind: name})
                continue
            given_up = [name for name in self.present if states.get(name) is ReplicaState.GONE]
            name = (given_up or self.present)[-1]
            self.present.remove(name)
            self.note("draining", {self.kind: name})
            self._leaving[name] = self._spawn(self._leave(name))

    async def _come(self, name: str) -> None:
        replica = await self.places.take(name)
        self._arriving[name] = self._coming.pop(name)
        self.note("placed", {self.kind: name})
        await self.pool.add(replica)
        del self._arriving[name]
        self.present.append(name)

    async def _leave(self, name: str) -> None:
        await self.pool.drain(name)
        await self.places.give_back(name)
        self.note("gone", {self.kind: name})

    def _collect(self) -> None:
        """Forgets what has ended; raises what went wrong."""
        for name, task in list(self._leaving.items()):
            if task.done():
                del self._leaving[name]
                self._served.discard(name)
                if not task.cancelled():
                    task.result()
        for task in (*self._coming.values(), *self._arriving.values()):
            if task.done():
                task.result()

    def _note_changes(self, states: Mapping[str, ReplicaState]) -> None:
        for name in self.present:
            state = states.get(name)
            if state is ReplicaState.READY and name not in self._served:
                self._served.add(name)
                self.note("ready", {self.kind: name})
            elif state in (ReplicaState.STARTING, ReplicaState.GONE) and name in self._served:
                self._served.discard(name)
                self.note("restarting" if state is ReplicaState.STARTING else "given up", {self.kind: name})

    @staticmethod
    def _spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)
