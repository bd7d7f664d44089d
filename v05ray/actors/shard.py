"""A scheduler shard: a `GeneratorPool` in a process of its own, and the port that the scheduler draws through."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from v05ray.actors.lifeline import end_with_parent
from v05ray.actors.loss import pending_at
from v05ray.config import Config
from v05ray.machine.layout import SCHEDULER_CPUS
from v05ray.ports import Generator, PendingCall, RewardPool, UpdateReport, Weights
from v05ray.scheduling.snapshot import PoolSnapshot
from v05ray.types import DrawRequest, Prompt, Rollout, ScoredRollout

QUEUE_FACTOR = 2
"""Rollouts a generator is given per sequence it can run at once: its engine never waits for the next one to arrive."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One draw on its way to a shard."""

    number: int
    prompt: Prompt
    request: DrawRequest
    prefer: str | None


Answer = tuple[int, list[ScoredRollout] | Exception]
"""(ticket number, scored rollouts or the error)"""


def generator_pool(config: Config, rewards: RewardPool):
    """A pool that has no generators yet, with the config's limits."""
    from v05ray.scheduling.generators import GeneratorPool

    return GeneratorPool(
        rewards,
        draw_timeout_s=config.generators.draw_timeout_s,
        load_timeout_s=config.generators.load_timeout_s,
        start_timeout_s=config.generators.start_timeout_s,
        max_outstanding_seqs=QUEUE_FACTOR * config.generators.max_num_seqs,
    )


class ShardActor:
    """Owns its generators: it starts them, and they end with it."""

    def __init__(self, config: Config, rewards: RewardPool) -> None:
        self._pool = generator_pool(config, rewards)
        end_with_parent()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._answers: list[Answer] = []
        self._answered = asyncio.Event()

    async def add(self, generators: Sequence[Generator]) -> None:
        """Takes in more replicas; each gets work once it serves the current version."""
        self._pool.add(generators)

    async def drain(self, generator_id: str) -> None:
        """Gives the replica no more work and returns when it has finished what it had."""
        await self._pool.drain(generator_id)

    async def until_ready(self) -> None:
        """Returns when no replica is on its way up any more; `PoolExhausted` if none made it."""
        await self._pool.until_ready()

    async def take(self, tickets: Sequence[Ticket], cancelled: Sequence[int]) -> None:
        """Begins these draws and gives up those; answers come out of `collect`."""
        for ticket in tickets:
            self._tasks[ticket.number] = asyncio.create_task(self._serve(ticket))
        for number in cancelled:
            if task := self._tasks.get(number):
                task.cancel()

    async def collect(self) -> list[Answer]:
        """Every answer since the last call, as soon as there is one."""
        await self._answered.wait()
        self._answered.clear()
        answers, self._answers = self._answers, []
        return answers

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """The request's rollouts, not scored."""
        return await self._pool.draw(request)

    async def abort(self, prompt_id: str) -> None:
        """Ends a prompt's work on every generator of this shard."""
        await self._pool.abort(prompt_id)

    async def load_weights(self, weights: Weights) -> UpdateReport:
        """Every generator of this shard serves `weights`, or is out of service until it does."""
        return await self._pool.load_weights(weights)

    async def snapshot(self) -> PoolSnapshot:
        """The state of this shard's generators."""
        return await self._pool.snapshot()

    async def waiting(self) -> Sequence[PendingCall]:
        """Calls that generators and verifiers have not answered."""
        return await self._pool.waiting()

    async def _serve(self, ticket: Ticket) -> None:
        try:
            answer = await self._pool.draw_scored(ticket.prompt, ticket.request, prefer=ticket.prefer)
        except Exception as error:  # raised again where the draw was asked for
            answer = error
        finally:
            del self._tasks[ticket.number]
        self._answers.append((ticket.number, answer))
        self._answered.set()


class RayShard:
    """Implements `scheduling.drawing.Drawing` over the actor; draws of one turn of the event loop travel together."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._version = 0
        self._last = 0
        self._tickets: list[Ticket] = []
        self._cancelled: list[int] = []
        self._waiting: dict[int, asyncio.Future[list[ScoredRollout]]] = {}
        self._collector: asyncio.Task[None] | None = None
        self._added: set[asyncio.Task[None]] = set()

    @property
    def version(self) -> int:
        """The weight version last sent to the shard."""
        return self._version

    def add(self, generators: Iterable[Generator]) -> None:
        """Takes in more replicas; each gets work once it serves the current version."""
        task = asyncio.get_running_loop().create_task(_call(self._actor.add, list(generators)))
        self._added.add(task)

    async def drain(self, generator_id: str) -> None:
        """Gives the replica no more work and returns when it has finished what it had."""
        await _call(self._actor.drain, generator_id)

    async def until_ready(self) -> None:
        """Returns when no replica is on its way up any more; `PoolExhausted` if none made it."""
        added, self._added = self._added, set()
        await asyncio.gather(*added)
        await _call(self._actor.until_ready)

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """The request's rollouts, not scored."""
        return await _call(self._actor.draw, request)

    async def draw_scored(
        self, prompt: Prompt, request: DrawRequest, *, prefer: str | None = None
    ) -> list[ScoredRollout]:
        """The request's rollouts in order, all scored; cancelled, it gives the draw up."""
        loop = asyncio.get_running_loop()
        self._last += 1
        number, future = self._last, loop.create_future()
        self._waiting[number] = future
        self._soon(loop)
        self._tickets.append(Ticket(number, prompt, request, prefer))
        try:
            return await future
        except asyncio.CancelledError:
            self._soon(loop)
            self._cancelled.append(number)
            raise
        finally:
            del self._waiting[number]

    async def abort(self, prompt_id: str) -> None:
        """Ends a prompt's work on every generator of this shard."""
        await _call(self._actor.abort, prompt_id)

    async def load_weights(self, weights: Weights) -> UpdateReport:
        """Every generator of this shard serves `weights`, or is out of service until it does."""
        self._version = weights.version
        return await _call(self._actor.load_weights, weights)

    async def snapshot(self) -> PoolSnapshot:
        """The state of this shard's generators."""
        return await _call(self._actor.snapshot)

    async def waiting(self) -> Sequence[PendingCall]:
        """Calls that generators and verifiers have not answered."""
        return await pending_at(self._actor, "a scheduler shard")

    def _soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._tickets and not self._cancelled:
            loop.call_soon(self._send)

    def _send(self) -> None:
        self._actor.take.remote(self._tickets, self._cancelled)  # a lost actor is noticed by `collect`
        self._tickets, self._cancelled = [], []
        if self._collector is None:
            self._collector = asyncio.get_running_loop().create_task(self._collect())

    async def _collect(self) -> None:
        """Runs while a draw is pending."""
        try:
            while self._waiting:
                for number, answer in await _call(self._actor.collect):
                    future = self._waiting.get(number)
                    if future is None or future.done():
                        continue  # cancelled meanwhile
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
                await asyncio.sleep(0)  # callers with an answer continue now, and may draw more
        except RayError as error:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(error)
        finally:
            self._collector = None


async def _call(method: Any, *arguments: Any) -> Any:
    """One call of the actor; an error in its code comes back as what it is."""
    try:
        return await method.remote(*arguments)
    except RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise


def start_shards(config: Config, rewards: RewardPool, places: Sequence[Any]) -> list[RayShard]:
    """`generators.shards` actors, each in its place (a scheduling strategy), or anywhere if there are no places."""
    actor: Any = ray.remote(ShardActor).options(num_cpus=0, max_concurrency=10_000)
    if places:
        placed = [actor.options(num_cpus=SCHEDULER_CPUS, scheduling_strategy=place) for place in places]
    else:
        placed = [actor] * config.generators.shards
    return [RayShard(one.remote(config, rewards)) for one in placed]
