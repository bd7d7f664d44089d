"""One training step: priors, rollouts, gradients while they come, the update, its weights to the generators.

stream.next_batch() --> values.predict --> scheduler.run(batch) ==> sealed groups, one by one
                                                ||  each: estimator --> train samples --> learners.accumulate
                                                \\/ (while other prompts still generate)
learners.step --> weights(version) --> scheduler.load_weights
group means --> support buffer; rollouts and decisions --> ledger

Where a batch makes several updates, the learners get it whole, after its last group.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from random import Random
from statistics import fmean
from typing import Any

from v05ray import advantages
from v05ray.advantages import ESTIMATORS, Advantages, GroupView
from v05ray.advantages.overlong import Overlong
from v05ray.budget import RULES
from v05ray.config import Config
from v05ray.data.stream import PromptStream
from v05ray.ledger import LedgerWriter
from v05ray.losses.group_filter import counts
from v05ray.ports import BatchRequest, Roles
from v05ray.priors.repair import Priors, settings
from v05ray.priors.support import SupportBuffer
from v05ray.rewards.verdicts import check_failures
from v05ray.seeding import derive_seed
from v05ray.stopping.disk import Disk
from v05ray.stopping.watchdog import Watchdog
from v05ray.tracking.naming import name_part
from v05ray.training.feeding import Feeder, train_samples
from v05ray.training.metrics import Stopwatch, memory_metrics, prior_metrics, rollout_metrics, source_metrics
from v05ray.training.progress import Progress
from v05ray.training.proving import update_metrics, with_probe
from v05ray.training.run_state import RunState
from v05ray.training.skipped import check_skipped, skipped_in_a_row, skipped_shown
from v05ray.types import Prior, ProbeSequence, Prompt, RolloutGroup, StepReport, SupportExample


class Stepper:
    """Does one step after another; holds what a step needs from those before it."""

    def __init__(
        self,
        config: Config,
        roles: Roles,
        *,
        state: RunState,
        stream: PromptStream,
        ledger: LedgerWriter,
        progress: Progress,
        watchdog: Watchdog,
        disk: Disk,
    ) -> None:
        """`state` counts what the steps do; `watchdog` watches every stage of them, and `disk`."""
        self._config, self._roles, self._state = config, roles, state
        self._stream, self._ledger, self._progress = stream, ledger, progress
        self._watchdog, self._disk = watchdog, disk
        self._estimator = advantages.build(config.advantage.name, **config.advantage.options)
        self._overlong = Overlong.of(config.rewards.overlong_buffer, config.sampling.max_tokens)
        self._support = SupportBuffer(config.value.support_capacity)
        self._priors = Priors(config.value)
        self._sampling = config.sampling.draws()
        self.last_groups: Sequence[RolloutGroup] = ()
        """Of the step done last."""
        self.probe: tuple[ProbeSequence, ...] = ()
        """What weight updates are proved on; none before learner and engine were compared."""
        self._update: Mapping[str, float] = {}
        """Metrics of the last weight update."""

    @property
    def parts(self) -> dict[str, Any]:
        """Everything with a `state_dict` that steps change, but the run's state."""
        return {
            "stream": self._stream,
            "support": self._support,
            "estimator": self._estimator,
            "priors": self._priors,
        }

    def before(self) -> dict[str, Any]:
        """The state of those parts that change before a step's update."""
        return json.loads(json.dumps({name: self.parts[name].state_dict() for name in ("stream", "priors")}))

    async def run(self, carry_through: Callable[[], None], first_rate: float | None = None) -> StepReport:
        """The next step; calls `carry_through` where it begins to change the policy.

        `first_rate` is the mean reward in [-1, 1] of the policy that the run starts from, if it was measured: the prior
        while nothing else is known.
        """
        step = self._state.step + 1
        clock = Stopwatch()
        prompts = self._stream.next_batch()
        with clock("prior"):
            raw_priors = await self._raw_priors(prompts, step, first_rate)
        batch = BatchRequest(
            step=step,
            policy_version=self._state.step,
            prompts=prompts,
            priors=self._priors.repair(raw_priors),
            sampling=self._sampling,
            greedy_reward="greedy" in self._estimator.needs,
        )
        with clock("step_rollout_and_learn"):
            groups, computed, num_samples = await self._roll_out_and_learn(batch, clock)
        async with self._kept_aside_on_failure(step, groups, computed):
            check_failures(groups, self._config.rewards.max_error_fraction, step)
            carry_through()
            actor_metrics = {"actor/update_skipped": 1.0}
            if num_samples:
                async with self._watchdog.stage("update", step, {"the learners": self._roles.learners}):
                    with clock("update_actor"):
                        actor_metrics = await self._roles.learners.step(self._watchdog.progressed)
                self._state.num_skipped_in_a_row = skipped_in_a_row(self._state.num_skipped_in_a_row, actor_metrics)
            self._state.step = step
            with clock("update_weights"):
                await self.publish()
        self._remember(groups)
        self.last_groups = groups
        folder, values = self._ledger.folder, _values(computed)
        with clock("ledger"):
            async with self._watchdog.stage("ledger", step, writes=folder):
                await self._disk.do(folder, self._ledger.append_step, step, groups, values, self._ledger_meta())
        if num_samples:
            self._report_skipped(step, actor_metrics)
        async with self._watchdog.stage("status", step, {"the scheduler": self._roles.scheduler}):
            status = await self._roles.scheduler.status()
        return self._report(groups, values, actor_metrics, clock, status)

    def _report_skipped(self, step: int, actor_metrics: Mapping[str, float]) -> None:
        """After the ledger has the step: it is what the user is pointed to."""
        if (line := skipped_shown(step, actor_metrics, self._ledger.folder)) is not None:
            self._progress.note(line)
        most = self._config.learner.max_skipped_updates
        check_skipped(self._state.num_skipped_in_a_row, most, step, self._ledger.folder)

    async def publish(self) -> None:
        """The learners' weights to the generators, as the version of the last step done; asks for proofs of them."""
        version, roles = self._state.step, self._roles
        asked = {"the learners": roles.learners, "the scheduler": roles.scheduler}
        async with self._watchdog.stage("weights", version, asked):
            weights = await roles.learners.weights(version)
            weights = await with_probe(self._config, weights, self.probe, roles.learners)
            report = await roles.scheduler.load_weights(weights)
        for barred in report.barred:
            self._progress.note(barred)
        self._update = update_metrics(weights, report)
        self._state.updates.add(weights, report)

    async def _raw_priors(self, prompts: Sequence[Prompt], step: int, first_rate: float | None) -> Sequence[Prior]:
        if self._roles.values is None:
            return ()
        seed = derive_seed("support", self._config.run.seed, step)
        support = self._support.sample(self._config.value.support_size, Random(seed))
        if not support and first_rate is not None:
            return Priors.first(prompts, first_rate, self._state.step)
        async with self._watchdog.stage("prior", step, {"the value pool": self._roles.values}):
            return await self._roles.values.predict(prompts, support, policy_version=self._state.step, seed=seed)

    @contextlib.asynccontextmanager
    async def _kept_aside_on_failure(
        self, step: int, groups: Sequence[RolloutGroup], computed: Mapping[str, Advantages]
    ) -> AsyncIterator[None]:
        """When the step fails, what was scored is kept beside the ledger: the step is repeated with its own draws."""
        try:
            yield
        except BaseException:
            folder, values = self._ledger.folder, _values(computed)
            async with self._watchdog.stage("keeping aside what was scored", step, writes=folder):
                await self._disk.do(folder, self._ledger.set_aside, step, groups, values, self._ledger_meta())
            raise

    async def _roll_out_and_learn(
        self, batch: BatchRequest, clock: Stopwatch
    ) -> tuple[list[RolloutGroup], dict[str, Advantages], int]:
        """All sealed groups in batch order, their advantages by prompt id, and the number of their samples, all of
        which the learners have seen."""
        groups: list[RolloutGroup] = []
        computed: dict[str, Advantages] = {}
        order = {prompt.prompt_id: index for index, prompt in enumerate(batch.prompts)}
        learner = self._config.learner
        streams = self._estimator.scope == "group" and learner.stream_tokens > 0 and learner.one_update
        self._progress.batch_started(batch.step, len(batch.prompts))
        waiting = dict.fromkeys(order)
        asked = {"the scheduler": self._roles.scheduler, "the learners": self._roles.learners}
        kept = self._kept_aside_on_failure(batch.step, groups, computed)
        watched = self._watchdog.stage("draw, score and learn", batch.step, asked, prompts=waiting.keys())
        async with kept, watched, Feeder(self._roles.learners, learner.stream_tokens * streams, clock) as feeder:
            with clock("gen"):
                async for group in self._roles.scheduler.run(batch):
                    groups.append(group)
                    del waiting[group.prompt.prompt_id]
                    self._watchdog.progressed()
                    self._progress.group_sealed(group)
                    if streams:
                        computed |= self._advantages([group])
                        self._feed([group], computed, feeder)
            # In batch order: what was sealed first must not change sums, histories or the ledger.
            groups.sort(key=lambda group: order[group.prompt.prompt_id])
            if not streams:
                computed |= self._advantages(groups)
                self._feed(groups, computed, feeder)
        return groups, computed, feeder.num_samples

    def _advantages(self, groups: Sequence[RolloutGroup]) -> dict[str, Advantages]:
        """By prompt id."""
        computed = self._estimator.compute(self._views(groups))
        return {group.prompt.prompt_id: one for group, one in zip(groups, computed, strict=True)}

    def _feed(self, groups: Sequence[RolloutGroup], computed: Mapping[str, Advantages], feeder: Feeder) -> None:
        for group in groups:
            if self._counts(group):
                feeder.put(
                    train_samples(group, computed[group.prompt.prompt_id], truncated=self._config.learner.truncated)
                )

    def _views(self, groups: Sequence[RolloutGroup]) -> list[GroupView]:
        """As the estimator sees them: with the punishment of long responses."""
        views = [GroupView.of(group) for group in groups]
        if self._overlong is None:
            return views
        return [self._overlong.punished(view) for view in views]

    def _counts(self, group: RolloutGroup) -> bool:
        """Whether the group counts in the loss; a step without any sample leaves weights and optimiser as they are."""
        return counts(self._config.learner.group_filter, group.rewards)

    def _remember(self, groups: Sequence[RolloutGroup]) -> None:
        """The run's own history, from which the next step's priors and baselines are made."""
        views = [GroupView.of(group) for group in groups]
        self._estimator.observe(self._views(groups))
        if self._roles.values is not None:
            self._priors.observe({group.prompt.prompt_id: group.prior for group in groups if group.prior}, views)
        for group in groups:
            score = fmean(group.rewards)
            self._support.add(SupportExample(group.prompt.prompt_id, group.prompt.text, score, self._state.step - 1))
        self._state.totals = self._state.totals.plus(groups)

    def _ledger_meta(self) -> dict[str, object]:
        # Resolved: a default that changes later must not change what a replay of this run does.
        budget, advantage, rule = self._config.budget, self._config.advantage, self._config.budget.rule
        return {
            "advantage": {"name": advantage.name, **ESTIMATORS.resolved(advantage.name, advantage.options)},
            "rule": {"name": rule.name, **RULES.resolved(rule.name, rule.options)},
            "priors": settings(self._config.value) if self._roles.values is not None else None,
            "overlong": None if self._overlong is None else asdict(self._overlong),
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
            self._state.seconds[stage] = self._state.seconds.get(stage, 0.0) + seconds
        tokens = sum(one.rollout.num_tokens for group in groups for one in group.scored)
        return StepReport(
            self._state.step,
            self._state.step,
            {
                **rollouts,
                "v05/filtered_groups": float(sum(not self._counts(group) for group in groups)),
                **self._length_metrics(groups),
                **source_metrics(groups),
                **{f"data/{name_part(name)}/epochs": passes for name, passes in self._stream.epochs.items()},
                **prior_metrics(groups),
                **(self._priors.metrics() if self._roles.values else {}),
                **self._estimator.metrics(),
                **actor_metrics,
                **status,
                **memory_metrics(self._roles.memory_mib()),
                **self._update,
                **clock.metrics(),
                "perf/total_num_tokens": float(tokens),
                "perf/throughput": tokens / clock.seconds["gen"],
                "training/global_step": float(self._state.step),
                "training/num_rollouts": float(self._state.totals.num_rollouts),
            },
        )

    def _length_metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """What was done about long responses: only what the config asks for."""
        rollouts = [one.rollout for group in groups for one in group.scored]
        metrics: dict[str, float] = {}
        if self._overlong is not None:
            punishments = [self._overlong.punishment(rollout.num_tokens) for rollout in rollouts]
            metrics["rewards/overlong_punishment/mean"] = fmean(punishments)
        if self._config.learner.truncated == "leave_out":
            left_out = sum(rollout.finish_reason == "length" for rollout in rollouts)
            metrics["v05/truncated_left_out"] = float(left_out)
        return metrics


def _values(computed: Mapping[str, Advantages]) -> dict[str, tuple[float, ...]]:
    """[K] of each group, in sample order, by prompt id."""
    return {prompt_id: one.values for prompt_id, one in computed.items()}
