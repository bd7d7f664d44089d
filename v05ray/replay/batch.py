"""One batch through the budget machine again: the machine decides, the record answers."""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, variance

from v05ray import advantages, budget
from v05ray.advantages import Advantages, Estimator, GroupView
from v05ray.advantages.overlong import Overlong
from v05ray.budget import BatchMachine, Evidence, Judgement, Rule
from v05ray.ledger.recorded import RecordedGroup
from v05ray.priors.repair import from_settings
from v05ray.replay.settings import Settings
from v05ray.types import Decision, Draw, Prior, Stop


@dataclass(frozen=True, slots=True)
class Replayed:
    """One prompt's decisions, rollouts and errors after the replay."""

    group: RecordedGroup
    decisions: tuple[Decision, ...]
    num_used: int
    """The first of the recorded rollouts, in sample order, as many as the replay used."""
    num_wanted: int
    """The most that the rule asked for in all: beyond `num_used` where the record ran out or the halt refused it."""
    short: bool
    """Whether the record ran out: the numbers of this prompt are those of what exists."""
    advantages: Advantages
    loo_errors: tuple[float, ...]
    """[1], or [0] for a single rollout: see `Figures.mse_loo`."""

    @property
    def stop(self) -> Stop:
        """The decision that sealed it."""
        action = self.decisions[-1].action
        assert isinstance(action, Stop)  # `replay_step` runs the machine to its end
        return action

    @property
    def rewards(self) -> tuple[float, ...]:
        """[K] rewards of the used rollouts, in sample order."""
        return self.group.rewards[: self.num_used]


class StepReplayer:
    """Replays steps in order; what the rule and the estimator remember goes from one to the next, as in the run."""

    def __init__(self, settings: Settings) -> None:
        """Raises `ConfigError` for a rule or an estimator that does not exist, or options that it does not have."""
        self.settings = settings
        self._rule = budget.build(settings.rule, settings.rule_options)
        self._estimator = advantages.build(settings.advantage, **settings.advantage_options)
        punishes = self._estimator.takes_punishments
        self._overlong = Overlong(**settings.overlong) if settings.overlong and punishes else None
        self._priors = None if settings.prior_options is None else from_settings(settings.prior_options)

    def step(self, groups: Sequence[RecordedGroup]) -> list[Replayed]:
        """One step's groups, in batch order. Raises `ConfigError` where they lack what rule or estimator needs.

        Where the record has the value pool's answers they are repaired again, by what the steps before came to.
        """
        priors = self._repaired(groups)
        groups = [replace(group, prior=priors.get(group.prompt_id, group.prior)) for group in groups]
        run = _BatchReplay(groups, self._rule, self.settings)
        run.play()
        self._rule.observe(run.machine.evidence())
        views = [_view(group, run.observed[group.prompt_id], run.decisions[group.prompt_id]) for group in groups]
        shaped = [self._overlong.punished(view) for view in views] if self._overlong else views
        computed = _compute(self._estimator, shaped)
        errors = [_loo_error(self._estimator, view, values) for view, values in zip(shaped, computed, strict=True)]
        self._estimator.observe(shaped)
        if self._priors is not None:
            self._priors.observe(priors, views)
        return [
            Replayed(
                group,
                tuple(run.decisions[group.prompt_id]),
                run.observed[group.prompt_id],
                run.wanted.get(group.prompt_id, run.observed[group.prompt_id]),
                group.prompt_id in run.exhausted,
                values,
                tuple(error),
            )
            for group, values, error in zip(groups, computed, errors, strict=True)
        ]

    def _repaired(self, groups: Sequence[RecordedGroup]) -> Mapping[str, Prior]:
        """By prompt id; empty where nothing is recorded that could be repaired."""
        if self._priors is None:
            return {}
        recorded = [group.prior for group in groups if group.prior is not None]
        answers = [
            Prior(prior.prompt_id, prior.raw, prior.policy_version, prior.raw_origin)
            for prior in recorded
            if prior.raw is not None and prior.raw_origin is not None
        ]
        return self._priors.repair(answers)


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
    give their own order; between two stops it does not matter (nothing that a decision rests on changes there).
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


def _loo_error(estimator: Estimator, view: GroupView, computed: Advantages) -> list[float]:
    """[1] the mean over i of (r_i - B_i)^2, less the rewards' variance; [] for a single rollout."""
    k = len(view.rewards)
    if k < 2:
        return []
    total = math.fsum(view.rewards)
    errors = []
    for index, reward in enumerate(view.rewards):
        baseline = (total - reward) / (k - 1)
        if view.prior is not None and computed.weights is not None:
            weight = computed.weights[index] if estimator.leave_one_out else _weight_without(estimator, view, index)
            baseline = weight * baseline + (1 - weight) * view.prior
        errors.append((reward - baseline) ** 2)
    return [fmean(errors) - variance(view.rewards)]


def _weight_without(estimator: Estimator, view: GroupView, index: int) -> float:
    """The weight of the mean in the baseline that the estimator would make of the group without one rollout."""
    others = replace(
        view,
        rewards=view.rewards[:index] + view.rewards[index + 1 :],
        lengths=None if view.lengths is None else view.lengths[:index] + view.lengths[index + 1 :],
    )
    weights = estimator.compute([others])[0].weights
    assert weights is not None  # it gave weights for the whole group
    return weights[0]
