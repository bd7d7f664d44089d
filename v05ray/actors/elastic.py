"""The numbers of generators and value actors during a run: places, the fleets' ticks, and what is reported of them."""

import asyncio
import contextlib
import hashlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from v05ray.actors.census import Census
from v05ray.actors.gauges import Gauges
from v05ray.actors.generator import RayGenerator
from v05ray.actors.placement import nodes, on, request_group, until_placed
from v05ray.actors.scheduler import RayScheduler
from v05ray.config import Config
from v05ray.machine import layout
from v05ray.ports import Generator
from v05ray.scheduling.fleet import Fleet, FleetState, Places
from v05ray.scheduling.predictors import Predictor, PredictorPool
from v05ray.scheduling.scaling import ScalingPolicy
from v05ray.storage.status import RunStatus, StatusWriter

log = logging.getLogger(__name__)

TICK_S = 1.0
CENSUS_TICKS = 5
"""Ticks between two measurements of memory."""
LAST_SNAPSHOT_S = 5.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where `v05ray scale` finds a run's scheduler actor."""

    namespace: str
    name: str

    @classmethod
    def of(cls, folder: Path) -> "Address":
        """The folder's namespace; the name is of this attempt alone, for a lost scheduler may still hold its name."""
        digest = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
        return cls(f"v05ray-{folder.name}-{digest}", f"scheduler-{uuid4().hex[:8]}")


class RayPlaces:
    """Implements `scheduling.fleet.Places`: a placement group per replica, for which an autoscaler brings nodes."""

    def __init__(self, config: Config, groups: MutableMapping[str, PlacementGroup], namespace: str) -> None:
        """`groups` holds the replicas that there are, by role name, and is kept up to date."""
        self._config, self._groups, self._namespace = config, groups, namespace

    async def take(self, name: str) -> Generator:
        """Waits as long as it takes; cancelled, it withdraws the request."""
        group = request_group(layout.generator_role(self._config, int(name.rpartition("-")[2])))
        self._groups[name] = group
        try:
            await until_placed(group)
        except BaseException:
            await self.give_back(name)
            raise
        return RayGenerator(name, self._config, on(group), self._namespace)

    async def give_back(self, name: str) -> None:
        """Ends the replica by removing its placement group."""
        remove_placement_group(self._groups.pop(name))


@contextlib.asynccontextmanager
async def elastic(
    config: Config,
    scheduler: RayScheduler,
    places: Places[Generator],
    present: Sequence[str],
    *,
    census: Census,
    folder: Path,
    address: Address,
    values: tuple[PredictorPool, Places[Predictor]] | None = None,
) -> AsyncIterator[None]:
    """While this lasts there are as many generators and value actors as are wanted, and the run reports its status.

    `present` are the ids of the generators that the scheduler has already; `census` is kept up to date meanwhile;
    `values` is the value pool with the places for its newcomers.
    """
    writer, settings = StatusWriter(folder), config.generators
    blank = RunStatus(
        time=time.time(),
        state="running",
        step=0,
        num_steps=config.run.num_steps,
        wanted=settings.count,
        fewest=settings.fewest,
        most=settings.most,
        ray_address=ray.get_runtime_context().gcs_address,
        namespace=address.namespace,
        scheduler=address.name,
    )
    fleet = Fleet(ScalingPolicy(settings), scheduler, places, list(present), writer.event)
    value_fleet = None
    if values:
        pool, value_places = values
        ids = list((await pool.snapshot()).replicas)
        value_fleet = Fleet(ScalingPolicy(config.value), pool, value_places, ids, writer.event, kind="value")
        blank = replace(blank, fewest_values=config.value.fewest, most_values=config.value.most)
    watch = _Watch(fleet, value_fleet, writer, blank, census, Gauges(folder.name))
    task = asyncio.create_task(watch.run())
    task.add_done_callback(watch.ended)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await fleet.close()
        if value_fleet:
            await value_fleet.close()
        await watch.close()


class _Watch:
    """Ticks the fleets, and writes status, events and metrics."""

    def __init__(
        self,
        fleet: Fleet[Generator],
        values: Fleet[Predictor] | None,
        writer: StatusWriter,
        status: RunStatus,
        census: Census,
        gauges: Gauges,
    ) -> None:
        self._fleet, self._values, self._writer, self._status = fleet, values, writer, status
        self._census, self._gauges = census, gauges

    async def run(self) -> None:
        """Until it is cancelled, or the scheduler is lost: then the run itself ends or restarts."""
        with contextlib.suppress(RayActorError):
            for number in itertools.count():
                state = await self._fleet.tick()
                values = await self._values.tick() if self._values else None
                if number % CENSUS_TICKS == 0:
                    await self._census.measure()
                kinds = node_kinds(await asyncio.to_thread(nodes))
                if kinds != self._status.nodes:
                    self._writer.event("nodes", {"nodes": kinds})
                self._status = self._status_of(state, values, kinds)
                self._gauges.show(self._status, state.pool)
                await asyncio.to_thread(self._writer.write, self._status)
                await asyncio.sleep(TICK_S)

    def ended(self, task: asyncio.Task[None]) -> None:
        """A fault here ends the scaling, not the run; it is reported at once."""
        if not task.cancelled() and (error := task.exception()):
            log.error("the number of generators and value actors is no longer adjusted", exc_info=error)
            self._writer.event("fleet failed", {"error": f"{type(error).__name__}: {error}"})

    async def close(self) -> None:
        """Writes the status of an ended run, which stays in the folder."""
        self._census.close()
        with contextlib.suppress(RayActorError, TimeoutError):  # lost or frozen: the last tick's step is kept
            last = await asyncio.wait_for(self._fleet.pool.snapshot(), LAST_SNAPSHOT_S)
            self._status = replace(self._status, step=last.version)
        self._writer.write(
            replace(
                self._status,
                time=time.time(),
                state="ended",
                generators={},
                values={},
                outstanding_tokens=0,
                backlog_s=None,
            )
        )

    def _status_of(self, state: FleetState, values: FleetState | None, kinds: Mapping[str, int]) -> RunStatus:
        return replace(
            self._status,
            time=time.time(),
            step=state.pool.version,
            generators=state.replicas,
            wanted=state.wanted,
            values=values.replicas if values else {},
            wanted_values=values.wanted if values else 0,
            outstanding_tokens=state.pool.workload.outstanding_tokens,
            backlog_s=state.backlog_s,
            tokens_per_s=state.tokens_per_s,
            memory_mib={role: round(mib, 1) for role, mib in self._census.latest().items()},
            nodes=kinds,
        )


def node_kinds(found: list[layout.Node]) -> dict[str, int]:
    """How many nodes there are of each type, by the resource that `clusters/` gives each; `node` without any."""
    kinds = ("head", "generator", "learner", "value")
    return dict(sorted(Counter(next((k for k in kinds if k in n.resources), "node") for n in found).items()))
