"""The training loop. Written against ports: it runs unchanged on Ray actors and on in-process fakes.

One step, as the data sees it:

    stream.next_batch() --> values.predict --> scheduler.run(batch) ==> sealed groups, one by one
                                                    ||  each: estimator --> train samples --> learners.accumulate
                                                    \\/ (while other prompts still generate)
    learners.step --> weights(version) --> scheduler.load_weights
    group means --> support buffer; metrics --> tracker; rollouts and decisions --> ledger
    checkpoint and evaluation when due
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, TypeVar

from v05ray import advantages
from v05ray.advantages import GroupView
from v05ray.checkpoint import Checkpoints
from v05ray.config import Config
from v05ray.data.stream import PromptStream
from v05ray.evaluate import evaluate
from v05ray.feeding import Feeder, train_samples
from v05ray.ledger import LedgerWriter
from v05ray.losses.group_filter import counts
from v05ray.metrics import Stopwatch, prior_metrics, rollout_metrics
from v05ray.ports import BatchRequest, LearnerGroup, RewardPool, Scheduler, Tracker, ValuePool
from v05ray.priors import Priors
from v05ray.progress import Progress
from v05ray.run_state import RunState
from v05ray.samples import write_samples
from v05ray.seeding import derive_seed
from v05ray.support import SupportBuffer
from v05ray.types import (
    DrawRequest,
    Prior,
    Prompt,
    Rollout,
    RolloutGroup,
    Sampling,
    StepReport,
    SupportExample,
)
from v05ray.watchdog import Watchdog, some

T = TypeVar("T")


@dataclass(frozen=True)
class Roles:
    """Who does the work."""

    scheduler: Scheduler
    rewards: RewardPool
    learners: LearnerGroup
    tracker: Tracker
    values: ValuePool | None = None
    """None for algorithms without a prior."""


class Trainer:
    """Drives a run from its first step, or from a checkpoint, to its last."""

    def __init__(
        self,
        config: Config,
        roles: Roles,
        *,
        stream: PromptStream,
        eval_prompts: Sequence[Prompt],
        ledger: LedgerWriter,
        checkpoints: Checkpoints,
        progress: Progress,
        samples: Path,
    ) -> None:
        """`samples` is the folder that gets some rollouts of every checkpointed step, to read."""
        self._config, self._roles = config, roles
        self._stream, self._eval_prompts = stream, tuple(eval_prompts)
        self._ledger, self._checkpoints, self._progress = ledger, checkpoints, progress
        self._samples = samples
        self._last_groups: Sequence[RolloutGroup] = ()
        self._first_rate: float | None = None
        """Mean held-out reward in [-1, 1] of the policy that the run starts from, sampled as in training."""
        self._estimator = advantages.build(config.advantage.name, **config.advantage.options)
        self._support = SupportBuffer(config.value.support_capacity)
        self._priors = Priors(config.value)
        self._sampling = Sampling(config.sampling.temperature, config.sampling.top_p, config.sampling.max_tokens)
        self.state = RunState()
        self.abandoned = False
        """Whether `leave_by` has given up what was being done."""
        self._work: asyncio.Task[Any] | None = None
        """What `leave_by` may give up: a step before its update, an evaluation."""
        self._running: asyncio.Task[Any] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._checkpoint_s: float | None = None
        """How long the last checkpoint took."""
        generators, learner = config.generators, config.learner
        self._watchdog = Watchdog(
            note_s=config.run.silence_s,
            # Never below what a single call may take, which has an error of its own.
            limit_s=max(
                config.run.stall_s, generators.draw_timeout_s, generators.load_timeout_s, learner.timeout_s + 60.0
            ),
            note=progress.note,
        )

    @property
    def _parts(self) -> dict[str, Any]:
        """Everything with a `state_dict` that a checkpoint keeps."""
        return {
            "run": self.state,
            "stream": self._stream,
            "support": self._support,
            "estimator": self._estimator,
            "priors": self._priors,
        }

    def begin(self) -> None:
        """A run without a checkpoint to go on from: what an earlier try has recorded is set aside."""
        self._ledger.truncate_after(0)

    async def resume(self, folder: Path) -> None:
        """Continues from a checkpoint: afterwards everything is as it was when that checkpoint was written."""
        saved = self._checkpoints.load(folder)
        for name, part in self._parts.items():
            part.load_state_dict(saved.state[name])
        await self._roles.scheduler.load_state_dict(saved.state["scheduler"])
        await self._roles.learners.load(saved.learner_folder)
        self._ledger.truncate_after(self.state.step)
        await self._publish()

    async def run(self, stop: Callable[[], bool] = lambda: False) -> RunState:
        """Trains to `run.num_steps`, or until `stop()` is true after a step; either way it ends with a checkpoint."""
        self._running = asyncio.current_task()
        try:
            return await self._run(stop)
        finally:
            for timer in self._timers:
                timer.cancel()

    async def _run(self, stop: Callable[[], bool]) -> RunState:
        config = self._config
        if self.state.step == 0:
            await self._unless_abandoned(self._evaluate())
        while self.state.step < config.run.num_steps and not stop():
            # The learners have not changed yet when a step is given up: their gradients are never used.
            before, scheduler = self._before_step(), await self._roles.scheduler.state_dict()
            report = await self._unless_abandoned(self._step())
            if report is None:
                self._progress.note(f"gave step {self.state.step + 1} up: it would not be done in time")
                for name, part_state in before.items():
                    self._parts[name].load_state_dict(part_state)
                if self.state.step > 0:
                    await self._roles.learners.abandon()
                    await self._checkpoint(scheduler)
                break
            self._roles.tracker.log_metrics(report.metrics, report.step)
            self._progress.step_done(report)
            every = config.evaluation.every
            last = self.state.step == config.run.num_steps
            if last or (every and self.state.step % every == 0):
                await self._unless_abandoned(self._evaluate())
            every = config.run.checkpoint_every
            if last or stop() or (every and self.state.step % every == 0):
                await self._checkpoint()
        return self.state

    def leave_by(self, deadline: float) -> None:
        """Whatever is not done in time for a checkpoint by `deadline` (of the event loop's clock) is given up.

        The last whole step's state is then checkpointed. For a stop with a grace period; `run`'s `stop` has to be true.
        A `run` that is not over at the deadline is cancelled: then the newest checkpoint on disk has to do.
        """
        loop = asyncio.get_running_loop()
        grace_s = deadline - loop.time()
        reserve_s = min(grace_s / 2, 2 * self._checkpoint_s + 2 if self._checkpoint_s is not None else grace_s)
        self._timers = [loop.call_at(deadline - reserve_s, self._abandon)]
        if self._running is not None:
            self._timers.append(loop.call_at(deadline, self._running.cancel))

    def _abandon(self) -> None:
        if self._work is not None:
            self.abandoned = True
            self._work.cancel()

    async def _unless_abandoned(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What `work` returns; None where it was given up."""
        task = self._work = asyncio.ensure_future(work)
        try:
            return await task
        except asyncio.CancelledError:
            if not self.abandoned:
                raise
            return None
        finally:
            self._work = None

    def _before_step(self) -> dict[str, Any]:
        """The state of those parts that change before a step's update."""
        return json.loads(json.dumps({name: self._parts[name].state_dict() for name in ("stream", "priors")}))

    async def _step(self) -> StepReport:
        step = self.state.step + 1
        clock = Stopwatch()
        prompts = self._stream.next_batch()
        async with self._watchdog.stage("prior", step, lambda: "the value actors"):
            with clock("prior"):
                raw_priors = await self._raw_priors(prompts, step)
        batch = BatchRequest(
            step=step,
            policy_version=self.state.step,
            prompts=prompts,
            priors=self._priors.repair(raw_priors),
            sampling=self._sampling,
            greedy_reward="greedy" in self._estimator.needs,
        )
        groups: list[RolloutGroup] = []
        values: dict[str, tuple[float, ...]] = {}
        with self._kept_aside_on_failure(step, groups, values):
            await self._roll_out_and_learn(batch, groups, values, clock)
            actor_metrics = {"actor/update_skipped": 1.0}
            if any(self._counts(group) for group in groups):
                self._work = None  # from here on the step is carried through
                async with self._watchdog.stage("update", step, lambda: "the learner ranks"):
                    with clock("update_actor"):
                        actor_metrics = await self._roles.learners.step()
            self._work = None
            self.state.step = step
            async with self._watchdog.stage("weights", step, lambda: f"the generators to load version {step}"):
                with clock("update_weights"):
                    await self._publish()
        self._remember(groups)
        self._last_groups = groups
        with clock("ledger"):
            await asyncio.to_thread(self._ledger.append_step, step, groups, values, self._ledger_meta())
        return self._report(groups, values, actor_metrics, clock, await self._roles.scheduler.status())

    async def _raw_priors(self, prompts: Sequence[Prompt], step: int) -> Sequence[Prior]:
        if self._roles.values is None:
            return ()
        seed = derive_seed("support", self._config.run.seed, step)
        support = self._support.sample(self._config.value.support_size, Random(seed))
        if not support and self._first_rate is not None:
            return Priors.first(prompts, self._first_rate, self.state.step)
        return await self._roles.values.predict(prompts, support, policy_version=self.state.step, seed=seed)

    @contextlib.contextmanager
    def _kept_aside_on_failure(
        self, step: int, groups: Sequence[RolloutGroup], values: Mapping[str, Sequence[float]]
    ) -> Iterator[None]:
        """When the step fails, what was scored stays beside the ledger: it is done again, with draws of its own."""
        try:
            yield
        except BaseException:
            self._ledger.set_aside(step, groups, values, self._ledger_meta())
            raise

    async def _roll_out_and_learn(
        self,
        batch: BatchRequest,
        groups: list[RolloutGroup],
        values: dict[str, tuple[float, ...]],
        clock: Stopwatch,
    ) -> None:
        """Fills `groups` with every sealed group and `values` with its advantages, as they come.

        The learners have seen all of them when this returns.
        """
        order = {prompt.prompt_id: index for index, prompt in enumerate(batch.prompts)}
        streams = self._estimator.scope == "group" and self._config.learner.stream_tokens > 0
        self._progress.batch_started(batch.step, len(batch.prompts))
        waiting = dict.fromkeys(order)

        def waits_for() -> str:
            return f"{some(list(waiting))} at the scheduler" if waiting else "the learner ranks"

        watched = self._watchdog.stage("draw, score and learn", batch.step, waits_for)
        with clock("step_rollout_and_learn"):
            async with watched, Feeder(self._roles.learners, self._config.learner.stream_tokens, clock) as feeder:
                with clock("gen"):
                    async for group in self._roles.scheduler.run(batch):
                        groups.append(group)
                        del waiting[group.prompt.prompt_id]
                        self._watchdog.progressed()
                        self._progress.group_sealed(group)
                        if streams:
                            self._learn_from([group], values, feeder)
                # In batch order: what was sealed first must not change sums, histories or the ledger.
                groups.sort(key=lambda group: order[group.prompt.prompt_id])
                if not streams:
                    self._learn_from(groups, values, feeder)

    def _learn_from(
        self, groups: Sequence[RolloutGroup], values: dict[str, tuple[float, ...]], feeder: "Feeder"
    ) -> None:
        for group, computed in zip(groups, self._estimator.compute([GroupView.of(g) for g in groups]), strict=True):
            values[group.prompt.prompt_id] = computed.values
            if self._counts(group):
                feeder.put(train_samples(group, computed))

    def _counts(self, group: RolloutGroup) -> bool:
        """Whether the group counts in the loss; a step in which none does leaves weights and optimiser as they are."""
        return counts(self._config.learner.group_filter, group.rewards)

    async def _publish(self) -> None:
        weights = await self._roles.learners.weights(self.state.step)
        await self._roles.scheduler.load_weights(weights)

    def _remember(self, groups: Sequence[RolloutGroup]) -> None:
        """The run's own history, from which the next step's priors and baselines are made."""
        views = [GroupView.of(group) for group in groups]
        self._estimator.observe(views)
        if self._roles.values is not None:
            self._priors.observe(views)
        for group in groups:
            score = fmean(group.rewards)
            self._support.add(SupportExample(group.prompt.prompt_id, group.prompt.text, score, self.state.step - 1))
        self.state.totals = self.state.totals.plus(groups)

    def _ledger_meta(self) -> dict[str, object]:
        budget = self._config.budget
        return {
            "advantage": self._config.advantage.model_dump(),
            "rule": budget.rule.model_dump(),
            "halt_fraction": budget.halt_fraction,
            "dispatch_multiple": budget.dispatch_multiple,
            "mode": budget.mode,
            "on_halt": budget.on_halt,
        }

    def _report(
        self,
        groups: Sequence[RolloutGroup],
        values: Mapping[str, Sequence[float]],
        actor_metrics: Mapping[str, float],
        clock: Stopwatch,
        status: Mapping[str, float],
    ) -> StepReport:
        rollouts = rollout_metrics(groups, values)
        for stage, seconds in clock.seconds.items():
            self.state.seconds[stage] = self.state.seconds.get(stage, 0.0) + seconds
        tokens = sum(len(one.rollout.token_ids) for group in groups for one in group.scored)
        return StepReport(
            self.state.step,
            self.state.step,
            {
                **rollouts,
                "v05/filtered_groups": float(sum(not self._counts(group) for group in groups)),
                **prior_metrics(groups),
                **(self._priors.metrics() if self._roles.values else {}),
                **self._estimator.metrics(),
                **actor_metrics,
                **status,
                **clock.metrics(),
                "perf/total_num_tokens": float(tokens),
                "perf/throughput": tokens / clock.seconds["gen"],
                "training/global_step": float(self.state.step),
                "training/num_rollouts": float(self.state.totals.num_rollouts),
            },
        )

    async def _evaluate(self) -> None:
        if not self._eval_prompts:
            return
        clock = Stopwatch()
        with clock("testing"):
            self._progress.evaluation_started(self.state.step, len(self._eval_prompts))
            async with self._watchdog.stage("evaluation", self.state.step, lambda: "draws and verdicts"):
                report = await evaluate(
                    self._eval_prompts,
                    self._evaluation_draw,
                    self._roles.rewards,
                    samples_per_prompt=self._config.evaluation.samples_per_prompt,
                    sampling=self._sampling,
                    seed=self._config.run.seed,
                    step=self.state.step,
                )
        self.state.seconds["testing"] = self.state.seconds.get("testing", 0.0) + clock.seconds["testing"]
        sampled = report.metrics.get(f"val/all/mean_at_{self._config.evaluation.samples_per_prompt}")
        if self.state.step == 0 and sampled is not None:
            self._first_rate = 2 * sampled - 1
        self.state.curve.append({"step": float(self.state.step), **report.metrics})
        self._roles.tracker.log_metrics({**report.metrics, **clock.metrics()}, self.state.step)
        self._progress.evaluation_done(self.state.step, report.metrics)

    async def _evaluation_draw(self, request: DrawRequest) -> list[Rollout]:
        rollouts = await self._roles.scheduler.draw(request)
        self._watchdog.progressed()
        return rollouts

    async def _checkpoint(self, scheduler: Mapping[str, Any] | None = None) -> None:
        """`scheduler` is its state, where that is not the present one."""
        started = time.monotonic()
        state = {name: part.state_dict() for name, part in self._parts.items()}
        state["scheduler"] = await self._roles.scheduler.state_dict() if scheduler is None else scheduler
        await self._checkpoints.save(self.state.step, state, self._roles.learners.save)
        self._checkpoint_s = time.monotonic() - started
        count = self._config.tracking.num_sample_rollouts
        if count and self._last_groups:
            path = self._samples / f"step-{self.state.step:06d}.md"
            write_samples(path, self.state.step, self._last_groups, num_rollouts=count)
            self._roles.tracker.log_artifact(path)
