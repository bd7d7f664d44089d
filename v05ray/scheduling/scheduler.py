"""One batch at a time: draw, score, judge, top up, seal; prompts do not wait for each other.

    prompts --cold start--> drawing.draw_scored --> machine.observe --Draw--> drawing.draw_scored ...
                                                                    --Stop--> sealed group, streamed

Every decision is the budget machine's; this file only carries them out.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from v05ray import budget
from v05ray.config import BudgetConfig
from v05ray.ports import BatchRequest, PendingCall, UpdateReport, Weights
from v05ray.scheduling.drawing import Drawing
from v05ray.seeding import rollout_seed
from v05ray.types import (
    Decision,
    Draw,
    DrawRequest,
    Prior,
    Prompt,
    Rollout,
    RolloutGroup,
    ScoredRollout,
    Stop,
)

GREEDY_INDEX = -1
"""Sample index of the temperature-0 rollout that some estimators need."""


class RolloutScheduler:
    """Implements `ports.Scheduler` over a `Drawing`."""

    def __init__(self, drawing: Drawing, config: BudgetConfig, *, seed: int) -> None:
        self._drawing = drawing
        self._config = config
        self._seed = seed
        self._rule = budget.build(config.rule.name, config.rule.options)
        self._num_aborted = 0

    async def run(self, batch: BatchRequest) -> AsyncIterator[RolloutGroup]:
        """Sealed groups of the batch, each as soon as it is sealed. Raises what any part of the batch raised."""
        if batch.policy_version != self._drawing.version:
            raise ValueError(
                f"batch of step {batch.step} wants policy version {batch.policy_version}, the generators serve "
                f"{self._drawing.version}; load its weights first"
            )
        machine = budget.BatchMachine(
            {p.prompt_id: batch.priors[p.prompt_id].value if batch.priors else None for p in batch.prompts},
            self._rule,
            halt_fraction=self._config.halt_fraction,
            dispatch_multiple=self._config.dispatch_multiple,
            mode=self._config.mode,
            on_halt=self._config.on_halt,
        )
        run = _BatchRun(self._drawing, machine, self._seed, batch)
        try:
            async for group in run.groups():
                yield group
        finally:
            await run.cancel()
        self._rule.observe(machine.evidence())
        self._num_aborted += machine.num_aborted

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """Rollouts outside any budget, on the generator with least to do."""
        return await self._drawing.draw(request)

    async def load_weights(self, weights: Weights) -> UpdateReport:
        """Every generator serves this version from now on, or serves nothing."""
        return await self._drawing.load_weights(weights)

    async def status(self) -> dict[str, float]:
        """Counters for the step's metrics: generators ready, draws lost, what the rule has learned."""
        pool = await self._drawing.snapshot()
        return {
            "v05/generators_ready": float(pool.num_ready),
            "v05/generators_total": float(pool.num_present),
            "v05/lost_draws": float(pool.num_lost_draws),
            "v05/generator_restarts": float(pool.num_restarts),
            "weights/barred": float(pool.num_barred),
            "v05/aborted_rollouts": float(self._num_aborted),
            **self._rule.metrics(),
        }

    async def waiting(self) -> Sequence[PendingCall]:
        """Calls that generators and verifiers have not answered."""
        return await self._drawing.waiting()

    async def state_dict(self) -> dict[str, Any]:
        """What the budget rule has learned, JSON-able."""
        return self._rule.state_dict()

    async def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` returned."""
        self._rule.load_state_dict(state)


@dataclass
class _Open:
    """A prompt that is not sealed yet."""

    prompt: Prompt
    prior: Prior | None
    num_drawn: int = 0
    scored: list[ScoredRollout] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    greedy: ScoredRollout | None = None
    stop: Stop | None = None
    generator_id: str | None = None
    """The generator that drew it last, whose cache has its prefix."""
    draws: set[asyncio.Task[None]] = field(default_factory=set)
    """In flight."""


class _BatchRun:
    """The life of one batch; all of it happens on one event loop, so no state needs a lock."""

    def __init__(self, drawing: Drawing, machine: budget.BatchMachine, seed: int, batch: BatchRequest) -> None:
        self._drawing, self._machine, self._batch, self._seed = drawing, machine, batch, seed
        self._open = {p.prompt_id: _Open(p, batch.priors.get(p.prompt_id)) for p in batch.prompts}
        if len(self._open) != len(batch.prompts):
            raise ValueError(f"step {batch.step}: a prompt id is twice in the batch")
        self._sealed: asyncio.Queue[RolloutGroup | BaseException] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def groups(self) -> AsyncIterator[RolloutGroup]:
        """Runs the batch until every prompt is sealed; yields each group when that happens."""
        remaining = len(self._open)
        self._carry_out(self._machine.start())
        if self._batch.greedy_reward:
            for state in self._open.values():
                self._spawn(self._draw_greedy(state))
        while remaining:
            sealed = await self._sealed.get()
            if isinstance(sealed, BaseException):
                raise sealed
            remaining -= 1
            yield sealed
        if self._tasks:
            await asyncio.wait(self._tasks)  # aborts of what the halt gave up

    async def cancel(self) -> None:
        """Ends what is still in flight (only after an error or an abandoned run is there any)."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _carry_out(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            state = self._open[decision.action.prompt_id]
            state.decisions.append(decision)
            match decision.action:
                case Draw(num_rollouts=count):
                    indices = tuple(range(state.num_drawn, state.num_drawn + count))
                    state.num_drawn += count
                    draw = self._spawn(self._draw(state, indices))
                    state.draws.add(draw)
                    draw.add_done_callback(state.draws.discard)
                case Stop() as stop:
                    state.stop = stop
                    self._abort_in_flight(state)
                    self._seal_if_complete(state)

    def _abort_in_flight(self, state: _Open) -> None:
        """After a Stop nothing of the prompt may be observed; only a halt with `on_halt: abort` leaves anything."""
        in_flight = state.draws - {asyncio.current_task()}
        for draw in in_flight:
            draw.cancel()
        if in_flight:
            self._spawn(self._drawing.abort(state.prompt.prompt_id))

    async def _draw(self, state: _Open, indices: tuple[int, ...]) -> None:
        request = self._request(state.prompt, indices)
        scored = await self._drawing.draw_scored(state.prompt, request, prefer=state.generator_id)
        state.generator_id = scored[0].rollout.generator_id
        state.scored.extend(scored)
        for one in scored:
            self._carry_out(
                self._machine.observe(state.prompt.prompt_id, one.reward, num_tokens=one.rollout.num_tokens)
            )

    async def _draw_greedy(self, state: _Open) -> None:
        request = self._request(state.prompt, (GREEDY_INDEX,))
        request = replace(request, sampling=replace(request.sampling, temperature=0.0, top_p=1.0))
        (state.greedy,) = await self._drawing.draw_scored(state.prompt, request)
        self._seal_if_complete(state)

    def _request(self, prompt: Prompt, indices: tuple[int, ...]) -> DrawRequest:
        seeds = tuple(rollout_seed(self._seed, self._batch.step, prompt.prompt_id, index) for index in indices)
        return DrawRequest(prompt.prompt_id, prompt.token_ids, indices, seeds, self._batch.sampling)

    def _seal_if_complete(self, state: _Open) -> None:
        if state.stop is None or (self._batch.greedy_reward and state.greedy is None):
            return
        ordered = tuple(sorted(state.scored, key=lambda one: one.rollout.sample_index))
        del self._open[state.prompt.prompt_id]
        self._sealed.put_nowait(
            RolloutGroup(state.prompt, state.prior, ordered, state.stop, tuple(state.decisions), state.greedy)
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._sealed.put_nowait(error)
