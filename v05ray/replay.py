"""Run a recorded batch again through the real budget machine: as it was, or under other settings.

    ledger --groups--> BatchMachine(other rule, halt, ...) --decisions--> other estimator --> budget, MSE, advantages

Rewards, priors and lengths are the recorded ones, taken in sample order, and a rollout is scored when it was scored in
the run, so the recorded settings give the recorded decisions exactly. Other settings use the rollouts that exist: where
they want more, the prompt is sealed with what there is, and counted as short. What they would have changed later on
(the policy, the priors, the prompts) stays as recorded, so a replay compares decisions, not trainings.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pvariance
from typing import TYPE_CHECKING, Any, Literal

from v05ray import advantages, budget
from v05ray.advantages import Advantages, Estimator, GroupView
from v05ray.budget import BatchMachine, Evidence, Judgement, Rule
from v05ray.recorded import RecordedGroup
from v05ray.registry import ConfigError
from v05ray.stats.osla import expected_error
from v05ray.stats.shrinkage import bias_squared
from v05ray.types import Decision, Draw, Stop

if TYPE_CHECKING:  # the ledger needs pyarrow, and the command line should not wait for it
    from v05ray.ledger import LedgerReader


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides about budgets and advantages, given the rewards."""

    rule: str
    rule_options: Mapping[str, Any]
    halt_fraction: float
    dispatch_multiple: int
    mode: Literal["async", "rounds"]
    on_halt: Literal["drain", "abort"]
    advantage: str
    advantage_options: Mapping[str, Any]

    @classmethod
    def recorded(cls, meta: Mapping[str, Any]) -> "Settings":
        """Those of a step, from its ledger. Raises `ConfigError` where the ledger does not hold them."""
        try:
            rule, advantage = dict(meta["rule"]), dict(meta["advantage"])
            return cls(
                rule.pop("name"),
                rule,
                meta["halt_fraction"],
                meta["dispatch_multiple"],
                meta["mode"],
                meta["on_halt"],
                advantage.pop("name"),
                advantage,
            )
        except KeyError as error:
            raise ConfigError(f"the ledger does not say the run's {error}; it cannot be replayed") from None


@dataclass(frozen=True, slots=True)
class Changes:
    """What a replay does differently; None and empty mean: as recorded."""

    rule: str | None = None
    """Another rule starts from its own defaults; the same one keeps the recorded options."""
    rule_options: Mapping[str, Any] = field(default_factory=dict)
    halt_fraction: float | None = None
    dispatch_multiple: int | None = None
    mode: Literal["async", "rounds"] | None = None
    on_halt: Literal["drain", "abort"] | None = None
    advantage: str | None = None
    advantage_options: Mapping[str, Any] = field(default_factory=dict)

    def applied(self, to: Settings) -> Settings:
        """`to` with these changes."""
        rule, advantage = self.rule or to.rule, self.advantage or to.advantage
        kept = to.rule_options if rule == to.rule else {}
        kept_advantage = to.advantage_options if advantage == to.advantage else {}
        return Settings(
            rule,
            {**kept, **self.rule_options},
            to.halt_fraction if self.halt_fraction is None else self.halt_fraction,
            to.dispatch_multiple if self.dispatch_multiple is None else self.dispatch_multiple,
            self.mode or to.mode,
            self.on_halt or to.on_halt,
            advantage,
            {**kept_advantage, **self.advantage_options},
        )


@dataclass(frozen=True, slots=True)
class Replayed:
    """One prompt after the replay."""

    group: RecordedGroup
    decisions: tuple[Decision, ...]
    num_used: int
    """The first so many of the recorded rollouts, in sample order."""
    num_wanted: int
    """The most that the rule asked for in all: beyond `num_used` where the record ran out or the halt refused it."""
    short: bool
    """Whether the record ran out: the numbers of this prompt are those of what exists."""
    advantages: Advantages

    @property
    def stop(self) -> Stop:
        """The decision that sealed it."""
        action = self.decisions[-1].action
        assert isinstance(action, Stop)  # `replay_step` runs the machine to its end
        return action

    @property
    def rewards(self) -> tuple[float, ...]:
        """Those of the used rollouts."""
        return self.group.rewards[: self.num_used]


class StepReplayer:
    """Replays steps in order; what the rule and the estimator remember goes from one to the next, as in the run."""

    def __init__(self, settings: Settings) -> None:
        """Raises `ConfigError` for a rule or an estimator that does not exist, or options that it does not have."""
        self.settings = settings
        self._rule = budget.build(settings.rule, settings.rule_options)
        self._estimator = advantages.build(settings.advantage, **settings.advantage_options)

    def step(self, groups: Sequence[RecordedGroup]) -> list[Replayed]:
        """One step's groups, in batch order. Raises `ConfigError` where they lack what rule or estimator needs."""
        run = _BatchReplay(groups, self._rule, self.settings)
        run.play()
        self._rule.observe(run.machine.evidence())
        views = [_view(group, run.observed[group.prompt_id], run.decisions[group.prompt_id]) for group in groups]
        computed = _compute(self._estimator, views)
        self._estimator.observe(views)
        return [
            Replayed(
                group,
                tuple(run.decisions[group.prompt_id]),
                run.observed[group.prompt_id],
                run.wanted.get(group.prompt_id, run.observed[group.prompt_id]),
                group.prompt_id in run.exhausted,
                values,
            )
            for group, values in zip(groups, computed, strict=True)
        ]


def _compute(estimator: Estimator, views: Sequence[GroupView]) -> list[Advantages]:
    if estimator.scope == "batch":
        return estimator.compute(views)
    return [estimator.compute([view])[0] for view in views]  # group by group, as the run does


def _view(group: RecordedGroup, num_used: int, decisions: Sequence[Decision]) -> GroupView:
    cold_start = decisions[0].action
    return GroupView(
        prompt_id=group.prompt_id,
        rewards=group.rewards[:num_used],
        prior=group.prior.value if group.prior else None,
        lengths=group.lengths[:num_used],
        greedy_reward=group.greedy.reward if group.greedy else None,
        num_cold_start=cold_start.num_rollouts if isinstance(cold_start, Draw) else None,
    )


class _BatchReplay:
    """One batch: the machine decides, the record answers."""

    def __init__(self, groups: Sequence[RecordedGroup], rule: Rule, settings: Settings) -> None:
        self._groups = {group.prompt_id: group for group in groups}
        self._position = {group.prompt_id: index for index, group in enumerate(groups)}
        self._rounds = settings.mode == "rounds"
        self.wanted: dict[str, int] = {}
        self.exhausted: dict[str, int] = {}
        """Prompts that waited for rollouts which do not exist, with the number of those that do."""
        self.machine = BatchMachine(
            {group.prompt_id: group.prior.value if group.prior else None for group in groups},
            _on_record(rule, self.exhausted, self.wanted),
            halt_fraction=settings.halt_fraction,
            dispatch_multiple=settings.dispatch_multiple,
            mode=settings.mode,
            on_halt=settings.on_halt,
        )
        self._scored_at = _times(groups)
        self._drawn: Counter[str] = Counter()
        self.observed: Counter[str] = Counter()
        self.decisions: dict[str, list[Decision]] = {group.prompt_id: [] for group in groups}
        self._due: list[tuple[float, int, str]] = []

    def play(self) -> None:
        """From the cold start to the last seal."""
        self._carry_out(self.machine.start())
        while not self.machine.done:
            if self._rounds:
                for prompt_id in [name for name in self._groups if self.machine.outstanding(name)]:
                    self._answer(prompt_id, self.machine.outstanding(prompt_id))
            else:
                _, _, prompt_id = heapq.heappop(self._due)
                if self.machine.is_open(prompt_id):  # else the halt has aborted it
                    self._answer(prompt_id, self.machine.outstanding(prompt_id))

    def _carry_out(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            prompt_id = decision.action.prompt_id
            self.decisions[prompt_id].append(decision)
            if isinstance(decision.action, Draw):
                self._drawn[prompt_id] += decision.action.num_rollouts
                times = self._scored_at[prompt_id]
                there = min(self._drawn[prompt_id], len(times))
                # What does not exist was aborted, or would have come late: the prompt stays open to the end.
                due = times[there - 1] if there > self.observed[prompt_id] else math.inf
                heapq.heappush(self._due, (due, self._position[prompt_id], prompt_id))

    def _answer(self, prompt_id: str, num_outstanding: int) -> None:
        group = self._groups[prompt_id]
        start = self.observed[prompt_id]
        there = min(num_outstanding, len(group.rollouts) - start)
        for rollout in group.rollouts[start : start + there]:
            self.observed[prompt_id] += 1
            self._carry_out(self.machine.observe(prompt_id, rollout.reward, num_tokens=rollout.num_tokens))
        if there < num_outstanding:  # never drawn in the run, or aborted there
            self.exhausted[prompt_id] = self.observed[prompt_id]
            self.wanted[prompt_id] = max(self.wanted.get(prompt_id, 0), self._drawn[prompt_id])
            self._carry_out(self.machine.forget(prompt_id, num_outstanding - there))


def _times(groups: Sequence[RecordedGroup]) -> dict[str, list[float]]:
    """When each rollout was scored, [K] per prompt: the place, in the run's order of decisions, of the first one after.

    Open prompts only ever become fewer, and each stop makes them one fewer, so the decisions with their open prompts
    tell their own order; between two stops it does not matter (nothing that a decision rests on changes there).
    """
    judged = [
        (-decision.open_prompts, isinstance(decision.action, Stop), position, sequence, decision)
        for position, group in enumerate(groups)
        for sequence, decision in enumerate(group.decisions)
        if decision.num_scored
    ]
    times: dict[str, list[float]] = {group.prompt_id: [] for group in groups}
    for rank, (*_, decision) in enumerate(sorted(judged, key=lambda entry: entry[:4])):
        of_prompt = times[decision.action.prompt_id]
        of_prompt += [float(rank)] * (decision.num_scored - len(of_prompt))
    return times


def _on_record(rule: Rule, exhausted: Mapping[str, int], wanted: dict[str, int]) -> Rule:
    """`rule`, which seals a prompt once its record is exhausted; notes in `wanted` what it asked for.

    Not before: a wish that the halt refuses, or that is aborted, is part of what the run decided.
    """

    def clamp(evidence: Evidence, judgement: Judgement) -> Judgement:
        name = evidence.prompt_id
        wanted[name] = max(wanted.get(name, 0), judgement.target)
        if judgement.target <= exhausted.get(name, rule.n_max):
            return judgement
        return Judgement(exhausted[name], "cap", judgement.bias_squared)

    class OnRecord(Rule):
        name = rule.name
        needs = rule.needs
        scope = rule.scope

        def __init__(self) -> None:
            self.min_rollouts, self.n_max = rule.min_rollouts, rule.n_max

        def plan(self, priors: Mapping[str, float | None]) -> Mapping[str, int]:
            return rule.plan(priors)

        def judge(self, evidence: Evidence) -> Judgement:
            return clamp(evidence, rule.judge(evidence))

        def judge_all(self, evidence: Sequence[Evidence]) -> list[Judgement]:
            return [clamp(e, j) for e, j in zip(evidence, rule.judge_all(evidence), strict=True)]

    return OnRecord()


@dataclass(frozen=True, slots=True)
class Figures:
    """What a set of sealed prompts came to."""

    num_prompts: int
    num_rollouts: int
    num_tokens: int
    """Of the responses."""
    stops: Mapping[str, int]
    """Prompts by reason."""
    mse_rule: float
    """Mean of M(k) = b2 / (1 + k b2) (Eq. 35), the error that OSLA minimises; 1/k for a prompt without a prior."""
    mse_plug_in: float
    """Mean of w^2 s2 + (1 - w)^2 d2 (maths.md, law 4), with the estimator's own weights w of the mean and unbiased
    s2 = (1 - mu^2)/(k - 1), d2 = (V - mu)^2 - s2. A proxy: w counts as fixed, so a w that saw the data looks better."""
    advantage_mean: float
    advantage_variance: float
    """Over all rollouts."""
    num_short: int = 0
    """Prompts for which the record ran out."""
    num_missing: int = 0
    """Rollouts that they wanted beyond it."""

    @property
    def rollouts_per_prompt(self) -> float:
        """Mean."""
        return self.num_rollouts / self.num_prompts if self.num_prompts else 0.0


def figures(replayed: Sequence[Replayed]) -> Figures:
    """Sums and means over prompts; `nan` where there are none."""
    values = [value for one in replayed for value in one.advantages.values]
    used = [one.group.rollouts[: one.num_used] for one in replayed]
    return Figures(
        num_prompts=len(replayed),
        num_rollouts=sum(one.num_used for one in replayed),
        num_tokens=sum(rollout.num_tokens for rollouts in used for rollout in rollouts),
        stops=dict(sorted(Counter(one.stop.reason for one in replayed).items())),
        mse_rule=fmean(map(_mse_rule, replayed)) if replayed else math.nan,
        mse_plug_in=fmean(map(_mse_plug_in, replayed)) if replayed else math.nan,
        advantage_mean=fmean(values) if values else math.nan,
        advantage_variance=pvariance(values) if values else math.nan,
        num_short=sum(one.short for one in replayed),
        num_missing=sum(max(0, one.num_wanted - one.num_used) for one in replayed if one.short),
    )


def _mse_rule(one: Replayed) -> float:
    k = len(one.rewards)
    if one.group.prior is None:
        return 1 / k
    return expected_error(bias_squared(one.group.prior.value, fmean(one.rewards), k), k)


def _mse_plug_in(one: Replayed) -> float:
    k, mean = len(one.rewards), fmean(one.rewards)
    noise = (1 - mean * mean) / (k - 1) if k > 1 else 1.0
    weights = one.advantages.weights
    if weights is None or one.group.prior is None:
        return noise
    error = (one.group.prior.value - mean) ** 2 - noise
    return fmean(w * w * noise + (1 - w) ** 2 * error for w in weights)


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run, recorded and replayed."""

    recorded: Settings
    settings: Settings
    before: Figures
    """Under the recorded settings."""
    after: Figures
    steps: tuple[tuple[int, Figures, Figures], ...]
    """(step, before, after)."""
    num_same: int
    """Prompts whose decisions are the recorded ones, all of them equal in every number."""
    differing: tuple[tuple[int, str], ...]
    """(step, prompt id) of the others."""
    reproduced: bool
    """Whether the recorded settings give the recorded decisions; if not, the record is damaged or another version's."""


def open_ledger(run: Path) -> "LedgerReader":
    """The ledger of a run's folder (or the ledger's own folder)."""
    from v05ray.ledger import LedgerReader

    return LedgerReader(run / "ledger" if (run / "ledger").is_dir() else run)


def replay(reader: "LedgerReader", changes: Changes, *, steps: Iterable[int] | None = None) -> Report:
    """Replays a run under its own settings and under changed ones.

    Steps run from the run's first, since rules and estimators may remember; `steps` limits what is reported.

    Raises:
        ConfigError: no such rule, estimator or option; the record lacks what they need; there is no step to report.
    """
    chosen = set(reader.steps if steps is None else steps)
    if not chosen & set(reader.steps):
        raise ConfigError(f"{reader.folder} has no step to replay; it has {list(reader.steps)}")
    as_it_was: StepReplayer | None = None
    changed: StepReplayer | None = None
    before: list[Replayed] = []
    after: list[Replayed] = []
    per_step: list[tuple[int, Figures, Figures]] = []
    differing: list[tuple[int, str]] = []
    reproduced = True
    for step in reader.steps:
        if step > max(chosen):
            break
        groups = reader.groups(step)
        if as_it_was is None or changed is None:
            recorded = Settings.recorded(reader.meta(step))
            as_it_was, changed = StepReplayer(recorded), StepReplayer(changes.applied(recorded))
        was, now = as_it_was.step(groups), changed.step(groups)
        reproduced &= all(one.decisions == one.group.decisions for one in was)
        if step in chosen:
            before += was
            after += now
            per_step.append((step, figures(was), figures(now)))
            differing += [(step, one.group.prompt_id) for one in now if one.decisions != one.group.decisions]
    assert as_it_was is not None  # `chosen` holds a step of the reader's
    assert changed is not None
    return Report(
        as_it_was.settings,
        changed.settings,
        figures(before),
        figures(after),
        tuple(per_step),
        len(after) - len(differing),
        tuple(differing),
        reproduced,
    )
