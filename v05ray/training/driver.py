"""The training loop. Written against ports: it runs unchanged on Ray actors and on in-process fakes.

learner and engine compared; evaluation of the policy it starts from
step after step (`step.py`); metrics --> tracker
evaluation and checkpoint when due
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from v05ray.config import Config
from v05ray.data.stream import PromptStream
from v05ray.environments import SingleTurn
from v05ray.evaluation.evaluate import EvalReport, evaluate
from v05ray.evaluation.responses import write_responses
from v05ray.ledger import LedgerWriter
from v05ray.machine.estimate import estimate
from v05ray.ports import Roles
from v05ray.stopping.disk import Disk
from v05ray.stopping.grace import Grace
from v05ray.stopping.outstanding import WatchedRewards
from v05ray.stopping.watchdog import Watchdog
from v05ray.storage.checkpoint import Checkpoints
from v05ray.training.agreement import check_agreement
from v05ray.training.metrics import Stopwatch
from v05ray.training.progress import Progress
from v05ray.training.proving import make_probe
from v05ray.training.run_state import RunState
from v05ray.training.samples import write_samples
from v05ray.training.step import Stepper
from v05ray.training.warm_up import measure_speed
from v05ray.types import DrawRequest, Prompt, Rollout


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
        self._prompts = stream.prompts
        self._eval_prompts, self._samples = tuple(eval_prompts), samples
        self._ledger, self._checkpoints, self._progress = ledger, checkpoints, progress
        self._sampling = config.sampling.draws()
        self.state = RunState()
        self._grace, self._disk = Grace(), Disk()
        self._first_rate: float | None = None
        """Mean held-out reward in [-1, 1] of the policy that the run starts from, sampled as in training."""
        self._rewards = WatchedRewards(roles.rewards)
        generators, learner = config.generators, config.learner
        self._watchdog = Watchdog(
            note_s=config.run.silence_s,
            # Never below what a single call may take, which has an error of its own.
            limit_s=max(
                config.run.stall_s, generators.draw_timeout_s, generators.load_timeout_s, learner.timeout_s + 60.0
            ),
            disk_limit_s=config.run.stall_s,
            note=progress.note,
            disk=self._disk,
        )
        self._steps = Stepper(
            config,
            roles,
            state=self.state,
            stream=stream,
            ledger=ledger,
            progress=progress,
            watchdog=self._watchdog,
            disk=self._disk,
        )

    @property
    def abandoned(self) -> bool:
        """Whether `leave_by` has given up what was being done."""
        return self._grace.abandoned

    @property
    def _parts(self) -> dict[str, Any]:
        """Everything with a `state_dict` that a checkpoint keeps."""
        return {"run": self.state, **self._steps.parts}

    async def begin(self) -> None:
        """A run without a checkpoint to resume from: what an earlier try has recorded is set aside."""
        await self._truncate_ledger()
        await self._steps.publish()  # also tries the way that every later version takes
        await self._check_agreement()
        await self._estimate()

    async def resume(self, folder: Path) -> None:
        """Continues from a checkpoint: afterwards everything is as it was when that checkpoint was written."""
        roles = {"the scheduler": self._roles.scheduler, "the learners": self._roles.learners}
        async with self._watchdog.stage("resume", self.state.step, roles, writes=folder):
            saved = await self._disk.do(folder, self._checkpoints.load, folder)
            for name, part in self._parts.items():
                part.load_state_dict(saved.state[name])
            await self._roles.scheduler.load_state_dict(saved.state["scheduler"])
            await self._roles.learners.load(saved.learner_folder)
        await self._truncate_ledger()
        await self._steps.publish()
        await self._check_agreement()

    async def _check_agreement(self) -> None:
        """Before anything is trained: raises `Disagreement` where learner and engine compute different policies."""
        step, roles = self.state.step, self._roles
        asked = {"the scheduler": roles.scheduler, "the learners": roles.learners}
        async with self._watchdog.stage("agreement", step, asked):
            found = await check_agreement(self._config, self._prompts, roles.scheduler.draw, roles.learners)
        self._steps.probe = make_probe(found.samples, self._config.model.max_length)
        roles.tracker.log_metrics(found.metrics(), step)
        self._progress.note(f"learner and engine agree: {found}")

    async def _estimate(self) -> None:
        """Prints about how long the run will take, measured by a short draw."""
        async with self._watchdog.stage("warm-up", self.state.step, {"the scheduler": self._roles.scheduler}):
            speed = await measure_speed(self._config, self._prompts, self._roles.scheduler.draw)
        if speed is None:
            self._progress.note("the warm-up drew no token: there is nothing to estimate the run's time from")
            return
        self._progress.note(str(estimate(self._config, speed, num_eval=len(self._eval_prompts))))

    async def _truncate_ledger(self) -> None:
        folder = self._ledger.folder
        async with self._watchdog.stage("ledger", self.state.step, writes=folder):
            await self._disk.do(folder, self._ledger.truncate_after, self.state.step)

    async def run(self, stop: Callable[[], bool] = lambda: False) -> RunState:
        """Trains to `run.num_steps`, or until `stop()` is true after a step; either way it ends with a checkpoint."""
        with self._grace.running():
            return await self._run(stop)

    async def export(self, folder: Path) -> None:
        """The policy as a Hugging Face folder."""
        roles = {"the learners": self._roles.learners}
        async with self._watchdog.stage("export", self.state.step, roles, writes=folder.parent):
            await self._roles.learners.export(folder)

    def leave_by(self, deadline: float) -> None:
        """Whatever is not done in time for a checkpoint by `deadline` (of the event loop's clock) is given up.

        The last whole step's state is then checkpointed. For a stop with a grace period; `run`'s `stop` has to be true.
        A `run` that is not over at the deadline is cancelled: then the newest checkpoint on disk is what remains.
        """
        self._grace.leave_by(deadline)

    async def _run(self, stop: Callable[[], bool]) -> RunState:
        config = self._config
        if self.state.step == 0:
            await self._grace.unless_abandoned(self._evaluate())
        while self.state.step < config.run.num_steps and not stop():
            # The learners have not changed yet when a step is given up: their gradients are never used.
            before, scheduler = self._steps.before(), await self._scheduler_state()
            report = await self._grace.unless_abandoned(self._steps.run(self._grace.carry_through, self._first_rate))
            if report is None:
                await self._leave_step_out(before, scheduler)
                break
            self._roles.tracker.log_metrics(report.metrics, report.step)
            self._progress.step_done(report)
            every = config.evaluation.every
            last = self.state.step == config.run.num_steps
            if last or (every and self.state.step % every == 0):
                await self._grace.unless_abandoned(self._evaluate())
            every = config.run.checkpoint_every
            if last or stop() or (every and self.state.step % every == 0):
                await self._checkpoint()
        return self.state

    async def _scheduler_state(self) -> Mapping[str, Any]:
        async with self._watchdog.stage("state", self.state.step, {"the scheduler": self._roles.scheduler}):
            return await self._roles.scheduler.state_dict()

    async def _leave_step_out(self, before: Mapping[str, Any], scheduler: Mapping[str, Any]) -> None:
        """Saves the state of the last whole step, after which some parts have moved on."""
        self._progress.note(f"gave step {self.state.step + 1} up: it would not be done in time")
        for name, part_state in before.items():
            self._parts[name].load_state_dict(part_state)
        if self.state.step > 0:
            await self._roles.learners.abandon()
            await self._checkpoint(scheduler)

    async def _evaluate(self) -> None:
        if not self._eval_prompts:
            return
        clock = Stopwatch()
        with clock("testing"):
            num_draws = len(self._eval_prompts) * (2 if self._config.evaluation.samples_per_prompt else 1)
            self._progress.evaluation_started(self.state.step, len(self._eval_prompts), num_draws)
            roles = {"the scheduler": self._roles.scheduler, "verifying": self._rewards}
            sampling = self._config.evaluation.draws_with(self._config.sampling)
            async with self._watchdog.stage("evaluation", self.state.step, roles):
                report = await evaluate(
                    self._eval_prompts,
                    self._evaluation_draw,
                    SingleTurn(self._rewards),
                    samples_per_prompt=self._config.evaluation.samples_per_prompt,
                    sampling=sampling,
                    seed=self._config.run.seed,
                    step=self.state.step,
                    keep=lambda rows: self._progress.evaluation_drawn(),
                )
            await self._keep_responses(report)
        self.state.seconds["testing"] = self.state.seconds.get("testing", 0.0) + clock.seconds["testing"]
        # Drawn with other settings than training rollouts, it does not predict their reward.
        as_in_training = replace(sampling, max_tokens=self._sampling.max_tokens) == self._sampling
        if self.state.step == 0 and report.sampled_reward is not None and as_in_training:
            self._first_rate = report.sampled_reward
        self.state.curve.append({"step": float(self.state.step), **report.metrics})
        self._roles.tracker.log_metrics({**report.metrics, **clock.metrics()}, self.state.step)
        self._progress.evaluation_done(self.state.step, report.metrics)

    async def _keep_responses(self, report: EvalReport) -> None:
        path = self._samples.parent / "evaluations" / f"step-{self.state.step:06d}.parquet"
        async with self._watchdog.stage("responses", self.state.step, writes=path.parent.parent):
            await self._disk.do(path, write_responses, path, self._eval_prompts, report.rows)

    async def _evaluation_draw(self, request: DrawRequest) -> list[Rollout]:
        rollouts = await self._roles.scheduler.draw(request)
        self._watchdog.progressed()
        return rollouts

    async def _checkpoint(self, scheduler: Mapping[str, Any] | None = None) -> None:
        """`scheduler` is its state, where that is not the present one."""
        started, step = time.monotonic(), self.state.step
        state = {name: part.state_dict() for name, part in self._parts.items()}
        state["scheduler"] = await self._scheduler_state() if scheduler is None else scheduler
        learners, folder = self._roles.learners, self._checkpoints.folder
        async with self._watchdog.stage("checkpoint", step, {"the learners": learners}, writes=folder):
            await self._checkpoints.save(step, state, learners.save, disk=self._disk)
        self._grace.checkpoint_s = time.monotonic() - started
        groups, count = self._steps.last_groups, self._config.tracking.num_sample_rollouts
        if count and groups:
            path = self._samples / f"step-{step:06d}.md"
            async with self._watchdog.stage("samples", step, writes=path.parent.parent):
                await self._disk.do(path, functools.partial(write_samples, num_rollouts=count), path, step, groups)
            self._roles.tracker.log_artifact(path)
