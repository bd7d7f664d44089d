"""The figures of a run, and what it did with each source: all of it from its ledger, so a resumed run has it whole.

`write_figures(RUN)` works on any run's folder, also one of an earlier version or one that still runs.
"""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from v05ray.figures.svg import Bar, Point, Shade, render_bars, render_svg
from v05ray.ledger import GREEDY_INDEX, LedgerError, LedgerReader
from v05ray.stats.rates import laplace_rate
from v05ray.storage import durable

WINDOW = 256
"""Groups over which skill is taken: the default of `value.trust_window`."""
NUM_BINS = 10
_Z95 = 1.96


@dataclass(frozen=True, slots=True)
class Outcome:
    """One sealed group, as far as its prior and its budget are concerned; probabilities in [0, 1]."""

    step: int
    prompt_id: str
    source: str
    prior: float | None
    """Success that was predicted before sampling, as the run used it; None for algorithms without a prior."""
    fallback: bool
    """Whether the prior was the base rate and not the value model's."""
    observed: float
    """Mean of the cold-start rewards: later ones were drawn because of what those showed."""
    success: float
    """Mean of all rewards."""
    num_rollouts: int


def outcomes(ledger: Path) -> list[Outcome]:
    """Every group of a ledger with a scored rollout, in order. Raises `LedgerError`."""
    reader = LedgerReader(ledger)
    rewards: dict[tuple[int, int], list[float]] = defaultdict(list)
    heads: dict[tuple[int, int], tuple[str, str]] = {}
    names = ["step", "position", "prompt_id", "source", "sample_index", "reward"]
    for row in _rows(reader.rollouts(columns=names)):
        if row["sample_index"] != GREEDY_INDEX:
            place = row["step"], row["position"]
            rewards[place].append(row["reward"])  # in sample order
            heads[place] = row["prompt_id"], row["source"]
    names = ["step", "position", "sequence", "action", "num_rollouts", "group_prior", "prior_origin"]
    first = {
        (row["step"], row["position"]): row for row in _rows(reader.decisions(columns=names)) if row["sequence"] == 0
    }
    return [_outcome(place, *heads[place], drawn, first.get(place, {})) for place, drawn in sorted(rewards.items())]


def _rows(table: Any) -> list[dict[str, Any]]:
    return table.to_pylist()


def _outcome(
    place: tuple[int, int], prompt_id: str, source: str, rewards: Sequence[float], decided: Mapping[str, Any]
) -> Outcome:
    prior = decided.get("group_prior")
    cold = rewards[: decided.get("num_rollouts") or len(rewards)]
    return Outcome(
        step=place[0],
        prompt_id=prompt_id,
        source=source,
        prior=None if prior is None else (prior + 1) / 2,
        fallback=decided.get("prior_origin") == "base_rate",
        observed=(fmean(cold) + 1) / 2,
        success=(fmean(rewards) + 1) / 2,
        num_rollouts=len(rewards),
    )


def write_figures(run: Path) -> list[Path]:
    """Writes what the ledger in a run's folder has figures for; returns their paths. Raises `OSError`, `LedgerError`.

    `prior-skill.svg`        how much better than the base rate the prior was, over the steps
    `prior-reliability.svg`  success against predicted success
    `rollouts-by-prior.svg`  what was drawn, by predicted success
    """
    groups = outcomes(run / "ledger")
    asked = [group for group in groups if group.prior is not None and not group.fallback]
    if not asked:
        return []
    figures = {
        "prior-skill.svg": skill_svg(groups),
        "prior-reliability.svg": reliability_svg(asked),
        "rollouts-by-prior.svg": rollouts_svg(groups),
    }
    for name, text in figures.items():
        durable.replace_text(run / name, text)
    return [run / name for name in figures]


def skill_by_step(groups: Sequence[Outcome], window: int = WINDOW) -> list[tuple[int, float]]:
    """(step, 1 - Brier(prior) / Brier(base rate)) over the last `window` groups, from the value model's first answer.

    The base rate is Laplace's, over the last `window` groups before the step, as `PriorTrust` has it. While the run
    falls back, the prior is the base rate and adds nothing to the skill.
    """
    means: deque[float] = deque(maxlen=window)
    errors: deque[tuple[float, float]] = deque(maxlen=window)
    skills: list[tuple[int, float]] = []
    for step, of_step in groupby(groups, key=lambda group: group.step):
        base = laplace_rate(sum(means), len(means))
        for group in of_step:
            means.append(group.observed)
            if group.prior is not None and (errors or not group.fallback):
                prior = base if group.fallback else group.prior
                errors.append(((prior - group.observed) ** 2, (base - group.observed) ** 2))
        base_error = sum(error for _, error in errors)
        if base_error > 0:
            skills.append((step, 1 - sum(error for error, _ in errors) / base_error))
    return skills


def fallback_ranges(groups: Sequence[Outcome]) -> list[tuple[float, float]]:
    """Runs of steps in which every prior was the base rate, as [first - .5, last + .5]."""
    ranges: list[tuple[float, float]] = []
    for step, of_step in groupby(groups, key=lambda group: group.step):
        if all(group.fallback for group in of_step):
            if ranges and ranges[-1][1] == step - 0.5:
                ranges[-1] = ranges[-1][0], step + 0.5
            else:
                ranges.append((step - 0.5, step + 0.5))
    return ranges


def skill_svg(groups: Sequence[Outcome]) -> str:
    """The prior's skill over the steps; steps without the value model's answers are grey."""
    steps = [group.step for group in groups]
    return render_svg(
        {f"over the last {WINDOW} prompts": [Point(step, skill) for step, skill in skill_by_step(groups)]},
        title="Skill of the prior",
        x_label="optimiser steps",
        y_label="1 - Brier / Brier of the base rate",
        x_range=(0, max(steps)),
        shade=Shade("prior is the base rate", fallback_ranges(groups)),
    )


def reliability_svg(asked: Sequence[Outcome]) -> str:
    """Success against predicted success, with 95 % intervals; a line for each third of the run's steps."""
    steps = sorted({group.step for group in asked})
    edges = [steps[len(steps) * third // 3] for third in range(3)]
    thirds: dict[int, list[Outcome]] = defaultdict(list)
    for group in asked:
        thirds[sum(group.step >= edge for edge in edges)].append(group)
    lines = {
        f"steps {of_third[0].step} to {of_third[-1].step}": reliability_points(of_third)
        for _, of_third in sorted(thirds.items())
    }
    return render_svg(
        lines,
        title="Success against predicted success",
        x_label="success predicted before sampling",
        y_label="success of the first rollouts",
        errors="interval",
        x_range=(0, 1),
        y_range=(0, 1),
        diagonal=True,
    )


def reliability_points(groups: Sequence[Outcome]) -> list[Point]:
    """A point per bin of the prior that holds anything: mean prior, mean success, half the 95 % interval."""
    points = []
    for _, _, of_bin in _bins(groups):
        observed = [group.observed for group in of_bin]
        spread = _Z95 * stdev(observed) / len(observed) ** 0.5 if len(observed) > 1 else 0.0
        mean_prior = fmean(group.prior for group in of_bin if group.prior is not None)
        points.append(Point(mean_prior, fmean(observed), spread, len(of_bin) / len(groups)))
    return points


def rollouts_svg(groups: Sequence[Outcome]) -> str:
    """Mean rollouts per prompt by predicted success, with each bin's share of the prompts and of the rollouts."""
    with_prior = [group for group in groups if group.prior is not None]
    total = sum(group.num_rollouts for group in with_prior)
    bars = []
    for low, high, of_bin in _bins(with_prior):
        drawn = sum(group.num_rollouts for group in of_bin)
        label = f"{_percent(len(of_bin) / len(with_prior))} / {_percent(drawn / total)}"
        bars.append(Bar(low, high, drawn / len(of_bin), label))
    return render_bars(
        bars,
        title="Rollouts by predicted success",
        x_label="success predicted before sampling (on the bars: share of prompts / of rollouts)",
        y_label="mean rollouts per prompt",
        x_range=(0, 1),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.01 else "<1%"


def _bins(groups: Sequence[Outcome]) -> list[tuple[float, float, list[Outcome]]]:
    """(low, high, groups) of each of `NUM_BINS` equal ranges of the prior that holds anything, in order."""
    by_bin: dict[int, list[Outcome]] = defaultdict(list)
    for group in groups:
        if group.prior is not None:
            by_bin[min(int(group.prior * NUM_BINS), NUM_BINS - 1)].append(group)
    return [(index / NUM_BINS, (index + 1) / NUM_BINS, of_bin) for index, of_bin in sorted(by_bin.items())]


def source_rows(run: Path) -> list[tuple[str, str]]:
    """What a run did with each of several sources, as rows for its table; none for one source, or before any step.

    Success is the mean over prompts of all their rollouts, in the first and the last third of the steps.
    """
    try:
        groups = outcomes(run / "ledger")
    except LedgerError:
        return []
    by_source: dict[str, list[Outcome]] = defaultdict(list)
    for group in groups:
        by_source[group.source].append(group)
    if len(by_source) < 2:
        return []
    last = max(group.step for group in groups)
    return [(f"source {name}", _source_row(of_source, len(groups), last)) for name, of_source in by_source.items()]


def _source_row(of_source: Sequence[Outcome], num_groups: int, last: int) -> str:
    early = [group.success for group in of_source if 3 * group.step <= last]
    late = [group.success for group in of_source if 3 * group.step > 2 * last]
    change = f"success {fmean(early):.2f} -> {fmean(late):.2f}" if early and late else "success -"
    per_prompt = fmean(group.num_rollouts for group in of_source)
    different = len({group.prompt_id for group in of_source})
    return (
        f"{len(of_source):,} prompts ({len(of_source) / num_groups:.1%}, {different:,} different), {change}, "
        f"{per_prompt:.2f} rollouts/prompt"
    )
