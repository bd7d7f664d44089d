"""The `RewardPool` port over worker processes that are killed at their deadline and replaced.

    score() --> waiting --> one serving task per worker: takes a few, sends them, reads a reply for each
                  ^                 |  deadline missed, or process gone twice: that verdict is `timeout` or `crash`,
                  '-----------------'  the rest of the few goes back to the front, and a new worker is started

Each verdict's deadline runs from the reply before it (or from sending, for the first), so a start-up or a queue never
counts. Several requests travel together, for one round trip each would cost more than a cheap verdict.
"""

import asyncio
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from v05ray.config import RewardsConfig
from v05ray.errors import ConfigError
from v05ray.rewards.by_source import check_verifiers, take_apart
from v05ray.rewards.process import WorkerDied, WorkerProcess, encode
from v05ray.types import FAILURES, ComponentScore, Prompt, Rollout, ScoredRollout, Verdict

log = logging.getLogger(__name__)

_SEND_TOGETHER = 16
_LOGGED_FAILURES = 10
"""Of each verdict, this many failures are logged as warnings; a broken verifier would fill the log."""
_KEPT_FAILURES = 200
GROW_AFTER_S = 1.0
"""Another worker is started when the first in the queue has waited GROW_AFTER_S seconds, and again while it waits."""
IDLE_S = 60.0
"""A worker above `num_workers` that found nothing to do for IDLE_S seconds ends."""
_DEATHS_TO_BLAME = 2
"""A response is a `crash` once this many workers died over it: one may have been killed from outside."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A verdict that could not be given."""

    prompt_id: str
    sample_index: int
    verdict: Verdict
    message: str


@dataclass(eq=False, slots=True)
class _Job:
    rollout: Rollout
    request: bytes
    verifier: str
    """What judges it, as it is shown."""
    result: asyncio.Future[ScoredRollout]
    num_deaths: int = 0
    """Workers that died over it."""
    asked_at: float = field(default_factory=time.monotonic)


@dataclass
class VerifierPool:
    """`num_workers` verifier processes behind one queue, and up to `max_workers` while the queue is long.

    Belongs to the event loop that first awaits `start` or `score`; `close` may be called from any thread.
    """

    config: RewardsConfig
    failures: deque[Failure] = field(default_factory=lambda: deque(maxlen=_KEPT_FAILURES))
    """The latest verdicts that say nothing about the response; see `types.FAILURES`."""
    grow_after_s: float = GROW_AFTER_S
    idle_s: float = IDLE_S

    def __post_init__(self) -> None:
        check_verifiers(self.config)
        default, by_label = take_apart(self.config.verifier)
        self._shown = default.shown
        self._shown_by_label = {label: verifier.shown for label, verifier in by_label.items()}
        self._waiting: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._verdicts: Counter[str] = Counter()
        self._num_restarts = 0
        self._workers: set[WorkerProcess] = set()
        self._servers: list[asyncio.Task[None]] = []
        self._tending: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def start(self) -> None:
        """Starts all workers and waits until their verifiers are built; `ConfigError` if one cannot be. Idempotent."""
        self._check_open()
        if self._starting is None:
            self._loop = asyncio.get_running_loop()
            self._starting = asyncio.create_task(self._start())
        try:
            await asyncio.shield(self._starting)
        except asyncio.CancelledError:
            if self._closed:
                raise RuntimeError("the verifier pool was closed while it started") from None
            raise

    async def score(self, prompt: Prompt, rollout: Rollout) -> ScoredRollout:
        """The verdict; a verifier that fails gives reward -1 with one of `types.FAILURES`.

        Starts the pool if need be. Raises `ConfigError` if the verifier cannot be built at all, `TypeError` for
        metadata that are not JSON, `RuntimeError` once the pool is closed.
        """
        self._check_open()
        if not self._servers:
            await self.start()
        verifier = self._shown_by_label.get(prompt.source, self._shown)
        job = _Job(rollout, _request(prompt, rollout), verifier, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._arrived.set()
        return await job.result

    def stats(self) -> dict[str, int]:
        """Counts since the start by verdict, and `restarts`; of now, `workers` and `queue_length` (not sent yet)."""
        counts = {verdict: self._verdicts[verdict] for verdict in get_args(Verdict)}
        now = {"workers": len(self._servers), "queue_length": len(self._waiting)}
        return {**counts, "restarts": self._num_restarts, **now}

    def close(self) -> None:
        """Ends all workers and what they started, and waits for that; requests still waiting raise. Idempotent."""
        self._closed = True
        for worker in tuple(self._workers):
            worker.kill()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)
        else:
            for worker in self._workers:
                worker.hang_up()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the verifier pool is closed")

    def _end(self) -> None:
        for task in (*self._servers, self._starting, self._tending):
            if task is not None:
                task.cancel()
        while self._waiting:
            self._raise_closed(self._waiting.popleft())
        for worker in self._workers:
            worker.hang_up()

    @staticmethod
    def _raise_closed(job: _Job) -> None:
        if not job.result.done():
            job.result.set_exception(RuntimeError("the verifier pool was closed before this verdict"))

    async def _start(self) -> None:
        spawned = await asyncio.gather(*(self._spawn() for _ in range(self.config.num_workers)), return_exceptions=True)
        workers = [one for one in spawned if isinstance(one, WorkerProcess)]
        if len(workers) < len(spawned):
            for worker in workers:
                self._discard(worker)
            error = next(one for one in spawned if isinstance(one, BaseException))
            if isinstance(error, OSError | TimeoutError | WorkerDied):
                name = self.config.verifier.shown
                raise ConfigError(f"verifier {name!r} could not be started: {error}; try it on its own") from error
            raise error
        for worker in workers:
            self._employ(worker)
        if self.config.most_workers > self.config.num_workers:
            self._tending = asyncio.create_task(self._tend())

    def _employ(self, worker: WorkerProcess, *, idle_s: float | None = None) -> None:
        server = asyncio.create_task(self._serve(worker, idle_s))
        self._servers.append(server)
        server.add_done_callback(self._server_ended)

    async def _tend(self) -> None:
        """One more worker whenever the queue does not get shorter by those that there are."""
        while True:
            await asyncio.sleep(self.grow_after_s / 2)
            oldest = self._waiting[0].asked_at if self._waiting else math.inf
            late = time.monotonic() - oldest > self.grow_after_s
            if late and len(self._servers) < self.config.most_workers:
                worker = await self._spawn_or_log()
                if worker is not None:
                    self._employ(worker, idle_s=self.idle_s)

    def _server_ended(self, server: asyncio.Task[None]) -> None:
        """Beyond `num_workers` they end when idle; an error is a fault here, and no caller may wait indefinitely."""
        self._servers.remove(server)
        if not server.cancelled() and (error := server.exception()) is not None:
            log.error("the verifier pool is broken", exc_info=error)
            self.close()

    async def _spawn(self) -> WorkerProcess:
        worker = WorkerProcess()
        self._workers.add(worker)
        try:
            # `close` may have run in another thread since: either it saw this worker, or this sees it closed.
            self._check_open()
            await worker.greet(self.config)
        except BaseException:
            self._discard(worker)
            raise
        return worker

    def _discard(self, worker: WorkerProcess) -> None:
        worker.kill()
        worker.hang_up()
        self._workers.discard(worker)

    async def _serve(self, worker: WorkerProcess | None, idle_s: float | None) -> None:
        """One worker's work, and its successors', until there has been none for `idle_s`; None: indefinitely."""
        while True:
            if worker is None or not worker.alive:
                worker = await self._replace(worker)
            try:
                async with asyncio.timeout(idle_s):
                    jobs = await self._take()
            except TimeoutError:
                if worker is not None:
                    self._discard(worker)
                return
            if worker is not None and worker.alive:
                if not await self._judge(worker, jobs):
                    worker = await self._replace(worker)
            elif (worker := await self._replace(worker)) is not None:
                self._put_back(jobs)
            else:
                for job in jobs:
                    self._fail(job, "crash", "no worker could be started")

    async def _replace(self, worker: WorkerProcess | None) -> WorkerProcess | None:
        """A fresh worker; None if it could not be started."""
        if worker is not None:
            self._discard(worker)
        self._num_restarts += 1
        return await self._spawn_or_log()

    async def _spawn_or_log(self) -> WorkerProcess | None:
        """None if it could not be started; the first ones could, so the machine is at fault: log it."""
        try:
            return await self._spawn()
        except (ConfigError, OSError, TimeoutError, WorkerDied) as error:
            log.error("a verifier process could not be started: %s", error)
            return None

    async def _take(self) -> list[_Job]:
        """The next few jobs, such that other workers find some too; waits for at least one."""
        while True:
            while self._waiting and self._waiting[0].result.done():
                self._waiting.popleft()  # its caller has gone
            if self._waiting:
                break
            self._arrived.clear()
            await self._arrived.wait()
        fair = -(-len(self._waiting) // len(self._servers))
        return [self._waiting.popleft() for _ in range(min(fair, _SEND_TOGETHER))]

    def _put_back(self, jobs: list[_Job]) -> None:
        self._waiting.extendleft(reversed(jobs))
        self._arrived.set()

    async def _judge(self, worker: WorkerProcess, jobs: list[_Job]) -> bool:
        """Finishes all jobs, or those up to the one that ended the worker; returns whether the worker continues."""
        left = deque(jobs)
        try:
            for job in jobs:
                worker.send(job.request)
            while left:
                try:
                    reply = await worker.receive(self.config.deadline_s)
                except TimeoutError as error:
                    self._fail(left.popleft(), "timeout", str(error), worker.at)
                    return False
                except WorkerDied as error:
                    left[0].num_deaths += 1
                    if left[0].num_deaths >= _DEATHS_TO_BLAME:
                        self._fail(left.popleft(), "crash", str(error), worker.at)
                    return False
                self._finish(left.popleft(), reply)
                if reply["retiring"]:
                    return False
            return True
        finally:
            if self._closed:
                for job in left:
                    self._raise_closed(job)
            elif left:
                self._put_back(list(left))

    def _fail(self, job: _Job, verdict: Verdict, message: str, at: str | None = None) -> None:
        """A verdict that no worker gave; `at` names the one of several verifiers that was at work."""
        components = [] if at is None else [[at, -1.0, verdict]]
        message = message if at is None else f"{at}: {message}"
        self._finish(
            job,
            {"reward": -1.0, "verdict": verdict, "message": message, "extracted": None, "components": components},
        )

    def _finish(self, job: _Job, reply: Mapping[str, Any]) -> None:
        if job.result.done():
            return
        if self._closed:
            self._raise_closed(job)  # `close` killed the worker: no fault of the response's
            return
        verdict, message = reply["verdict"], reply["message"]
        self._verdicts[verdict] += 1
        if verdict in FAILURES:
            rollout = job.rollout
            self.failures.append(Failure(rollout.prompt_id, rollout.sample_index, verdict, message))
            level = logging.WARNING if self._verdicts[verdict] <= _LOGGED_FAILURES else logging.DEBUG
            log.log(level, "verifier %s on %s[%d]: %s", verdict, rollout.prompt_id, rollout.sample_index, message)
        components = tuple(ComponentScore(*one) for one in reply.get("components", ()))
        job.result.set_result(
            ScoredRollout(job.rollout, reply["reward"], verdict, job.verifier, reply["extracted"], message, components)
        )


def try_verifier(config: RewardsConfig) -> None:
    """Builds the verifier in a process of its own and ends it; raises `ConfigError` where that cannot be done.

    For verifiers whose code is the user's: what is wrong with them is known before anything heavy starts.
    """

    async def build() -> None:
        pool = VerifierPool(config.model_copy(update={"num_workers": 1, "max_workers": None}))
        try:
            await pool.start()
        finally:
            pool.close()

    asyncio.run(build())


def _request(prompt: Prompt, rollout: Rollout) -> bytes:
    """What the worker gets: all of the prompt but its tokens, and the response's text."""
    fields = {
        "prompt_id": prompt.prompt_id,
        "text": prompt.text,
        "answer": prompt.answer,
        "source": prompt.source,
        "metadata": dict(prompt.metadata),
    }
    return encode({"prompt": fields, "response": rollout.text, "finish_reason": rollout.finish_reason})
