"""What a step measured, in the field's metric names; pure functions of records."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from time import perf_counter

from v05ray.rewards.verdicts import verdict_counts, verdict_metrics
from v05ray.tracking.naming import name_part
from v05ray.types import FAILURES, RolloutGroup


@dataclass
class Stopwatch:
    """Seconds by stage; a stage entered twice adds up."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str):
        """Times one `with` block."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - start

    def metrics(self) -> dict[str, float]:
        """`timing_s/STAGE` for every stage."""
        return {f"timing_s/{stage}": seconds for stage, seconds in self.seconds.items()}


@dataclass(frozen=True, slots=True)
class Totals:
    """Running counts over a whole run."""

    num_prompts: int = 0
    num_rollouts: int = 0
    num_response_tokens: int = 0
    verdicts: Mapping[str, int] = field(default_factory=dict)
    """By kind; see `types.Verdict`."""

    def plus(self, groups: Sequence[RolloutGroup]) -> "Totals":
        """The totals after one more step."""
        return Totals(
            self.num_prompts + len(groups),
            self.num_rollouts + sum(len(group.scored) for group in groups),
            self.num_response_tokens + sum(_lengths(groups)),
            dict(Counter(self.verdicts) + Counter(verdict_counts(groups))),
        )


def _lengths(groups: Sequence[RolloutGroup]) -> list[int]:
    return [one.rollout.num_tokens for group in groups for one in group.scored]


def rollout_metrics(groups: Sequence[RolloutGroup], advantages: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Rewards, lengths, advantages, budget and verdicts of one step's sealed groups (at least one)."""
    rewards = [reward for group in groups for reward in group.rewards]
    lengths = _lengths(groups)
    sizes = [len(group.scored) for group in groups]
    flat = [value for group in groups for value in advantages[group.prompt.prompt_id]]
    verdicts = Counter(one.verdict for group in groups for one in group.scored)
    finishes = Counter(one.rollout.finish_reason for group in groups for one in group.scored)
    reasons = Counter(group.stop.reason for group in groups)
    failed = sum(verdicts[kind] for kind in FAILURES)
    return {
        # Mean over prompts of their means: top-ups are drawn where the evidence surprised, and would tilt a plain one.
        "critic/score/mean": fmean(fmean(group.rewards) for group in groups),
        "critic/score/max": max(rewards),
        "critic/score/min": min(rewards),
        "critic/advantages/mean": fmean(flat),
        "critic/advantages/std": pstdev(flat),
        "critic/advantages/max": max(flat),
        "critic/advantages/min": min(flat),
        "response_length/mean": fmean(lengths),
        "response_length/max": float(max(lengths)),
        "response_length/clip_ratio": finishes["length"] / len(lengths),
        "prompt_length/mean": fmean(len(group.prompt.token_ids) for group in groups),
        "v05/num_rollouts": float(len(rewards)),
        "v05/rollouts_per_prompt": fmean(sizes),
        "v05/topped_up_fraction": sum(len(group.decisions) > 2 for group in groups) / len(groups),
        "v05/mixed_fraction": sum(len(set(group.rewards)) > 1 for group in groups) / len(groups),
        "v05/aborted_rollouts": float(finishes["abort"]),
        "v05/verdict_failures": float(failed),
        "v05/verdict_timeouts": float(verdicts["timeout"]),
        **verdict_metrics(groups),
        **component_metrics(groups),
        **{f"v05/stopped_{reason}_fraction": count / len(groups) for reason, count in sorted(reasons.items())},
    }


def component_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Of each of several verifiers, by label: its mean reward in [-1, 1], without its weight, and its failures.

    `rewards/LABEL/mean`, a mean over prompts of their means over the rollouts that it judged (left out where it judged
    none), and `rewards/LABEL/errors`, a count. Empty where one verifier judges alone.
    """
    means: dict[str, list[float]] = {}
    errors: Counter[str] = Counter()
    for group in groups:
        of_group: dict[str, list[float]] = {}
        for component in (component for one in group.scored for component in one.components):
            judged, label = component.verdict not in FAILURES, component.label
            errors[label] += not judged
            if judged:
                of_group.setdefault(label, []).append(component.reward)
        for label, rewards in of_group.items():
            means.setdefault(label, []).append(fmean(rewards))
    return {
        **{f"rewards/{name_part(label)}/mean": fmean(values) for label, values in means.items()},
        **{f"rewards/{name_part(label)}/errors": float(count) for label, count in errors.items()},
    }


def prior_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """How the priors compared with the first rollouts; empty for algorithms without a prior."""
    with_prior = [group for group in groups if group.prior is not None]
    if not with_prior:
        return {}
    values = [group.prior.value for group in with_prior if group.prior]
    fallback = sum(group.prior.origin == "base_rate" for group in with_prior if group.prior)
    return {
        "v05/prior_mean": fmean(values),
        "v05/prior_std": pstdev(values),
        "v05/prior_base_rate_fraction": fallback / len(with_prior),
    }


def memory_metrics(memory_mib: Mapping[str, float]) -> dict[str, float]:
    """`perf/memory/ROLE_mib` for every role: `{"scheduler": 90.5}` -> `{"perf/memory/scheduler_mib": 90.5}`."""
    return {f"perf/memory/{role}_mib": mib for role, mib in memory_mib.items()}


def source_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """Share of the prompts, mean score and rollouts per prompt of each source that the step's prompts came from."""
    by_source: dict[str, list[RolloutGroup]] = defaultdict(list)
    for group in groups:
        by_source[group.prompt.source].append(group)
    metrics: dict[str, float] = {}
    for source, of_source in sorted(by_source.items()):
        prefix = f"data/{name_part(source)}"
        metrics[f"{prefix}/share"] = len(of_source) / len(groups)
        metrics[f"{prefix}/score/mean"] = fmean(fmean(group.rewards) for group in of_source)
        metrics[f"{prefix}/rollouts_per_prompt"] = fmean(len(group.scored) for group in of_source)
    return metrics
