"""The generators of one process as one service that draws and scores.

Work goes to the generator with the shortest queue, and a lost draw is drawn by another.

A replica's states: STARTING -> STALE -> READY -> DRAINING -> GONE. Only a READY one gets work, and READY means that it
serves the pool's weight version. A lost or frozen replica is restarted, gets the current weights, and is READY again.

A draw is identified by its sample indices and seeds, so a redraw elsewhere is the same work: an answer that comes after
its draw was given away is dropped, never counted.
"""

import asyncio
import heapq
import itertools
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from v05ray.environments import SingleTurn, play_out
from v05ray.errors import ConfigError, RunError
from v05ray.ports import Environment, Generator, GeneratorLost, PendingCall, RewardPool, Served, UpdateReport, Weights
from v05ray.scheduling.scaling import WorkMeter
from v05ray.scheduling.snapshot import PoolSnapshot, ReplicaState
from v05ray.stopping.outstanding import Outstanding, WatchedRewards
from v05ray.types import DrawRequest, Prompt, Rollout, ScoredRollout
from v05ray.weights import difference

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
"""A prompt whose draw was lost this often is taken for the cause of the losses; the run ends and names it."""

MAX_RESTARTS = 3
"""A replica that fails this often without becoming READY in between is given up."""

QUEUE = "the queue for a generator"
"""Name, in pending calls, of draws that no generator has room for."""


@dataclass
class _Replica:
    generator: Generator
    state: ReplicaState = ReplicaState.STARTING
    outstanding_tokens: int = 0
    """Upper bound of the tokens it still has to process."""
    outstanding_seqs: int = 0
    """Rollouts it has been given and has not answered."""
    num_failures: int = 0
    """Restarts since it was last READY."""
    tasks: set[asyncio.Task] = field(default_factory=set)


class PoolExhausted(RunError):
    """No generator is left, or every one that tried a prompt was lost."""


class NoGeneratorLeft(PoolExhausted):
    """No replica is left, nor on its way."""

    def __init__(self, message: str, *, no_room: bool = False) -> None:
        """`no_room`: the last one was lost as `GeneratorLost.no_room` says."""
        super().__init__(message)
        self.no_room = no_room


class GeneratorPool:
    """Implements `drawing.Drawing` in this process: load balancing, weight versions and recovery."""

    def __init__(
        self,
        rewards: RewardPool,
        *,
        make_environment: Callable[[RewardPool], Environment] = SingleTurn,
        draw_timeout_s: float,
        load_timeout_s: float = 600.0,
        start_timeout_s: float = 1800.0,
        max_outstanding_seqs: int | None = None,
    ) -> None:
        """`rewards` scores. `make_environment` gets it, and what it makes decides when a rollout ends. A replica that
        takes longer than its timeout over a draw, a weight update or its start is restarted.

        `max_outstanding_seqs` holds back what a replica could only queue: later draws then go where there is room
        by then, and a lost replica loses less. None holds nothing back."""
        self._max_outstanding_seqs = max_outstanding_seqs
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        """Heap of (ticket, turn): a draw that found no room keeps its place."""
        self._tickets = itertools.count()
        self._draw_timeout_s = draw_timeout_s
        self._load_timeout_s = load_timeout_s
        self._start_timeout_s = start_timeout_s
        self._last_failure = GeneratorLost("none was ever started")
        self._fault: ConfigError | None = None
        """What a replica cannot be started or updated with; every other replica would refuse it too."""
        self._replicas: dict[str, _Replica] = {}
        self._weights: Weights | None = None
        self._changed = asyncio.Condition()
        self._version = 0
        self._meter = WorkMeter()
        self._given = Outstanding()
        self._rewards = WatchedRewards(rewards)
        self._environment = make_environment(self._rewards)
        self._num_lost_draws = 0
        self._num_restarts = 0
        self._served: list[Served] = []
        self._barred: list[str] = []
        self._num_barred = 0

    @property
    def version(self) -> int:
        """The weight version that draws are served at; 0 is the model that the engines start from."""
        return self._version

    async def snapshot(self) -> PoolSnapshot:
        """Every replica's state, the work so far and the losses."""
        states = {name: replica.state for name, replica in self._replicas.items()}
        counts = self._num_lost_draws, self._num_restarts, self._num_barred
        return PoolSnapshot(self._meter.read(), states, self._version, *counts)

    async def waiting(self) -> Sequence[PendingCall]:
        """Calls that replicas have not answered (draws, weight updates, their starts), and verdicts that are out."""
        return [*self._given.pending(), *await self._rewards.waiting()]

    def add(self, generators: Iterable[Generator]) -> None:
        """Takes replicas in; each gets work once it is up and serves the current version."""
        for generator in generators:
            replica = _Replica(generator)
            self._replicas[generator.generator_id] = replica
            self._spawn(replica, self._bring_up(replica, restart=False))

    async def drain(self, generator_id: str) -> None:
        """Gives the replica no more work and returns when it has finished what it had; one that is not up is GONE."""
        replica = self._replicas[generator_id]
        self._mark(replica, ReplicaState.DRAINING)  # at once: nothing on its way up may make it READY again
        for task in replica.tasks:
            task.cancel()
        await asyncio.gather(*replica.tasks, return_exceptions=True)
        await self._set(replica, ReplicaState.DRAINING)
        async with self._changed:
            await self._changed.wait_for(lambda: replica.outstanding_tokens == 0)
        await self._set(replica, ReplicaState.GONE)

    async def until_ready(self) -> None:
        """Returns when no replica is on its way up any more.

        Raises `PoolExhausted` if none made it, and at once the `ConfigError` of one that can never be up.
        """
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    self._fault
                    or all(r.state not in (ReplicaState.STARTING, ReplicaState.STALE) for r in self._replicas.values())
                )
            )
        self._require_hope()

    async def draw(self, request: DrawRequest, *, prefer: str | None = None) -> list[Rollout]:
        """All rollouts of a request, redrawn elsewhere as often as replicas are lost under it.

        `prefer` names the generator that holds the prompt's prefix in its cache; it is taken unless the queue in front
        of it costs more than the prefix saves.
        """
        work, num_tokens = len(request.sample_indices) * (len(request.token_ids) + request.sampling.max_tokens), None
        self._meter.asked(work)
        try:
            rollouts = await self._draw(request, prefer, work)
            num_tokens = sum(len(request.token_ids) + rollout.num_tokens for rollout in rollouts)
        finally:
            self._meter.ended(work, num_tokens, len(request.sample_indices))
        return rollouts

    async def draw_scored(
        self, prompt: Prompt, request: DrawRequest, *, prefer: str | None = None
    ) -> list[ScoredRollout]:
        """Draws all first turns together, then takes each rollout to its end; in the order of the sample indices."""

        async def draw(later: DrawRequest, holder: str) -> list[Rollout]:
            return await self.draw(later, prefer=holder)

        first = await self.draw(request, prefer=prefer)
        return await play_out(prompt, request, first, self._environment, draw)

    async def _draw(self, request: DrawRequest, prefer: str | None, work: int) -> list[Rollout]:
        num_seqs = len(request.sample_indices)
        for _ in range(MAX_ATTEMPTS):
            with self._given(QUEUE, "draw", count=num_seqs, prompt_id=request.prompt_id):
                replica = await self._pick(prefer, num_seqs, saved_tokens=len(request.token_ids))
            replica.outstanding_tokens += work
            replica.outstanding_seqs += num_seqs
            try:
                with self._given(replica.generator.generator_id, "draw", count=num_seqs, prompt_id=request.prompt_id):
                    rollouts = await asyncio.wait_for(replica.generator.draw(request), self._draw_timeout_s)
            except (GeneratorLost, TimeoutError) as error:
                self._lose(replica, request, error)
                continue
            finally:
                replica.outstanding_tokens -= work
                replica.outstanding_seqs -= num_seqs
                self._wake(1)
                if replica.state is ReplicaState.DRAINING:
                    async with self._changed:
                        self._changed.notify_all()
            if all(rollout.policy_version == self._version for rollout in rollouts):
                return rollouts
            self._lose(replica, request, f"served a version other than {self._version}")
        raise PoolExhausted(
            f"prompt {request.prompt_id!r}: {MAX_ATTEMPTS} generators were lost while drawing it "
            f"({len(request.token_ids)} prompt tokens); see the generators' logs"
        )

    async def abort(self, prompt_id: str) -> None:
        """Ends a prompt's work wherever it is; its draws must have been cancelled before."""
        live = [r.generator for r in self._replicas.values() if r.state in (ReplicaState.READY, ReplicaState.DRAINING)]
        answers = await asyncio.gather(
            *(self._abort(generator, prompt_id) for generator in live), return_exceptions=True
        )
        for answer in answers:  # one that is gone or frozen does no work; its next draw will show that
            if isinstance(answer, BaseException) and not isinstance(answer, GeneratorLost | TimeoutError):
                raise answer

    async def _abort(self, generator: Generator, prompt_id: str) -> None:
        with self._given(generator.generator_id, "abort", prompt_id=prompt_id):
            await asyncio.wait_for(generator.abort(prompt_id), self._draw_timeout_s)

    async def load_weights(self, weights: Weights) -> UpdateReport:
        """Every replica serves `weights`, as far as they are proved, or is out of service until it does.

        Returns when those that served have answered and one is READY: one that is on its way up is not waited for.
        """
        self._weights, self._version = weights, weights.version
        live = [r for r in self._replicas.values() if r.state is ReplicaState.READY]
        for replica in live:
            self._mark(replica, ReplicaState.STALE)
            self._spawn(replica, self._refresh(replica))
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    self._fault
                    or (all(r.state is not ReplicaState.STALE for r in live) and (self._ready() or not self._hope()))
                )
            )
        self._require_hope()
        report = UpdateReport(tuple(self._served), tuple(self._barred))
        self._served.clear()
        self._barred.clear()
        return report

    async def close(self) -> None:
        """Cancels starts and weight updates; the actors themselves are ended by the part that started them."""
        tasks = [task for replica in self._replicas.values() for task in replica.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pick(self, prefer: str | None, num_seqs: int, *, saved_tokens: int) -> _Replica:
        """A replica with room; first come, first served while there is none."""
        ticket, queued = next(self._tickets), bool(self._waiting)
        while True:
            self._require_hope()
            free = [] if queued else [r for r in self._ready() if self._has_room(r, num_seqs)]
            if free:
                break
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (ticket, turn))
            try:
                await turn
            except asyncio.CancelledError:
                self._wake(1)  # the turn may have come just now; it is the next one's
                raise
            queued = False
        self._wake(1)  # what is left over may do for the next one too
        least = min(free, key=lambda r: r.outstanding_tokens)
        kept = self._replicas.get(prefer) if prefer else None
        if kept in free and kept.outstanding_tokens - least.outstanding_tokens <= saved_tokens:
            return kept
        return least

    def _has_room(self, replica: _Replica, num_seqs: int) -> bool:
        limit = self._max_outstanding_seqs
        return limit is None or replica.outstanding_seqs == 0 or replica.outstanding_seqs + num_seqs <= limit

    def _wake(self, count: int) -> None:
        while count and self._waiting:
            _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                count -= 1

    def _ready(self) -> list[_Replica]:
        return [r for r in self._replicas.values() if r.state is ReplicaState.READY]

    def _hope(self) -> bool:
        return any(
            r.state in (ReplicaState.STARTING, ReplicaState.STALE, ReplicaState.READY) for r in self._replicas.values()
        )

    def _require_hope(self) -> None:
        if self._fault:
            raise self._fault
        if not self._hope():
            raise NoGeneratorLeft(
                f"no generator is left of {len(self._replicas)} (the last to fail: {self._last_failure}); "
                "see the generators' logs",
                no_room=self._last_failure.no_room,
            )

    def _lose(self, replica: _Replica, request: DrawRequest, why: object) -> None:
        self._num_lost_draws += len(request.sample_indices)
        log.warning(
            "%s lost %d rollouts of prompt %s (%s); redrawing",
            replica.generator.generator_id,
            len(request.sample_indices),
            request.prompt_id,
            str(why) or f"no answer within {self._draw_timeout_s:g} s",
        )
        if replica.state is ReplicaState.READY:  # the first of its draws to notice restarts it
            self._mark(replica, ReplicaState.STARTING)
            self._spawn(replica, self._bring_up(replica, restart=True))

    async def _bring_up(self, replica: _Replica, *, restart: bool) -> None:
        try:
            if restart:
                replica.num_failures += 1
                if replica.num_failures > MAX_RESTARTS:
                    last = self._last_failure
                    raise GeneratorLost(f"it failed {MAX_RESTARTS} times in a row, last: {last}", no_room=last.no_room)
                self._num_restarts += 1
                await replica.generator.restart()
            with self._given(replica.generator.generator_id, "start"):
                await asyncio.wait_for(replica.generator.ready(), self._start_timeout_s)
        except (GeneratorLost, TimeoutError) as error:
            self._last_failure = _lost(error, f"its start took longer than {self._start_timeout_s:g} s")
            log.error("%s is gone: %s", replica.generator.generator_id, self._last_failure)
            await self._set(replica, ReplicaState.GONE)
            return
        except ConfigError as error:
            await self._refuse(replica, error)
            return
        await self._set(replica, ReplicaState.STALE)
        await self._refresh(replica)

    async def _refresh(self, replica: _Replica) -> None:
        """Loads the current weights; a version published meanwhile is loaded too."""
        try:
            loaded: int | None = None  # version 0 is loaded too, once it has been published
            while self._weights is not None and loaded != self._weights.version:
                weights = self._weights
                with self._given(replica.generator.generator_id, f"load of version {weights.version}"):
                    served = await asyncio.wait_for(replica.generator.load_weights(weights), self._load_timeout_s)
                self._require_proof(replica, weights, served)
                loaded = served.version
        except (GeneratorLost, TimeoutError) as error:
            self._last_failure = _lost(error, f"a weight update took longer than {self._load_timeout_s:g} s")
            name = replica.generator.generator_id
            log.warning("%s failed to load version %d (%s)", name, self._version, self._last_failure)
            await self._set(replica, ReplicaState.STARTING)
            await self._bring_up(replica, restart=True)
            return
        except ConfigError as error:
            await self._refuse(replica, error)
            return
        replica.num_failures = 0
        self._mark(replica, ReplicaState.READY)  # at once: `load_weights` must find it READY, or still about to look
        await self._set(replica, ReplicaState.READY)

    def _require_proof(self, replica: _Replica, weights: Weights, served: Served) -> None:
        """Raises `GeneratorLost` where the replica serves something else than was sent."""
        wrong = None if served.version == weights.version else f"it answered as version {served.version}"
        if wrong is None and weights.proof is not None:
            found = served.proof
            wrong = difference(weights.proof, found, weights.tolerance_nats) if found else "it gave no proof"
        if wrong is None:
            self._served.append(served)
            return
        barred = f"{replica.generator.generator_id} does not serve version {weights.version}: {wrong}"
        self._num_barred += 1
        self._barred.append(f"{barred}; it is restarted")
        raise GeneratorLost(barred)

    async def _refuse(self, replica: _Replica, error: ConfigError) -> None:
        """Another try would meet the same error, so the pool reports it to all that wait for it."""
        self._fault = error
        log.error("%s cannot serve: %s", replica.generator.generator_id, error)
        await self._set(replica, ReplicaState.GONE)

    def _mark(self, replica: _Replica, state: ReplicaState) -> None:
        replica.state = state
        self._meter.ready(len(self._ready()))

    async def _set(self, replica: _Replica, state: ReplicaState) -> None:
        self._mark(replica, state)
        async with self._changed:
            self._changed.notify_all()
        self._wake(len(self._waiting))  # each checks for room again

    def _spawn(self, replica: _Replica, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        replica.tasks.add(task)
        task.add_done_callback(replica.tasks.discard)


def _lost(error: GeneratorLost | TimeoutError, too_long: str) -> GeneratorLost:
    return error if isinstance(error, GeneratorLost) else GeneratorLost(too_long)
