"""Recipes over one world: what their baselines are worth, what they cost, and how long they take.

Each contender goes through the same prompts, epoch by epoch, in batches, with the same priors and the same responses.
The first epochs are for its memory alone (tau2, histories, running means), the rest are measured. Pass rates do not
change meanwhile, which flatters what remembers prompts (spo, knapsack).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from v05ray import budget, recipes
from v05ray.advantages import Estimator, GroupView
from v05ray.budget import BatchMachine, Rule
from v05ray.errors import ConfigError
from v05ray.simulate import baselines
from v05ray.simulate.cluster import Cluster, Played, play
from v05ray.simulate.worlds import World
from v05ray.types import Draw


@dataclass(frozen=True, slots=True)
class Contender:
    """An estimator with a budget rule."""

    name: str
    estimator: str
    estimator_options: Mapping[str, Any]
    rule: str
    rule_options: Mapping[str, Any]
    mode: Literal["async", "rounds"] = "async"

    @classmethod
    def parse(cls, text: str) -> "Contender":
        """A recipe's name, or ESTIMATOR@RULE[:KEY=VALUE[:KEY=VALUE...]], such as `v05_eb@fixed:n=4`."""
        estimator, at, rest = text.partition("@")
        if not at:
            recipe = recipes.get(text)
            return cls(text, *_split(recipe.advantage), *_split(recipe.rule), recipe.mode)
        rule, *pairs = rest.split(":")
        options = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            try:
                options[key] = json.loads(value)
            except ValueError:
                if not equals or not value:
                    raise ConfigError(f"{pair!r} of {text!r} is not of the form KEY=VALUE, such as n=4") from None
                options[key] = value
        mode = "rounds" if budget.build(rule, options).scope == "batch" else "async"
        contender = cls(text, estimator, {}, rule, options, mode)
        contender.build()
        return contender

    def build(self) -> tuple[Estimator, Rule]:
        """Fresh ones; raises `ConfigError` where they do not fit."""
        estimator = baselines.build(self.estimator, self.estimator_options)
        rule = budget.build(self.rule, self.rule_options)
        recipes.check_needs(estimator, rule, value_enabled=True, mode=self.mode)
        return estimator, rule


def _split(spec: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return spec["name"], {key: value for key, value in spec.items() if key != "name"}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a comparison is run."""

    batch_size: int = 256
    num_warm_epochs: int = 1
    num_epochs: int = 2
    """Measured ones, >= 2: two looks at one prompt separate the bias from the noise."""
    halt_fraction: float = 1 / 16

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_warm_epochs < 0 or self.num_epochs < 2 or not 0 <= self.halt_fraction <= 1:
            raise ConfigError(
                f"needs batch_size >= 1, num_warm_epochs >= 0, num_epochs >= 2, halt_fraction in [0, 1]; got {self}"
            )


@dataclass(frozen=True, slots=True)
class Row:
    """One contender's measured error, bias, cost and time."""

    name: str
    rollouts: float
    """Mean per prompt, greedy ones included."""
    tokens: float
    """Mean response tokens per prompt, without greedy ones."""
    mse: float
    """E (B - E r)^2, mean over a prompt's rollouts, then over prompts."""
    mse_stderr: float
    bias: float
    """Root of the mean over prompts of (E B - E r)^2, as far as it rises above its noise."""
    false_rejections: float | None
    """Of the priors within 1/sqrt(k0) of the truth, the share that the cold start rejects; None without such a test."""
    false_acceptances: float | None
    """Of the others, the share that it accepts; None also where there are none."""
    gain: float
    """On the policy gradient: E sum (r - B)(r - E r) / E sum Var r over all rollouts; 1 is unbiased."""
    makespan_s: float
    """Mean per batch."""
    idle_share: float
    over_bound: float
    """Makespan / lower bound, of all batches together."""


@dataclass(slots=True)
class _Tally:
    num_groups: int = 0
    num_rollouts: int = 0
    num_tokens: int = 0
    errors: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """(mean B - E r, mean (B - E r)^2) of each measured epoch, by prompt."""
    correlation: float = 0.0
    variance: float = 0.0
    right: list[bool] = field(default_factory=list)
    """Whether each right prior was rejected by the cold start."""
    wrong: list[bool] = field(default_factory=list)
    makespans: list[float] = field(default_factory=list)
    bounds: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)


def compare(world: World, contenders: Sequence[Contender], settings: Settings, cluster: Cluster) -> list[Row]:
    """One row per contender, in order."""
    num_epochs = settings.num_warm_epochs + settings.num_epochs
    responses = [world.responses(epoch) for epoch in range(num_epochs)]
    prompts = list(world.rates)
    rows = []
    for contender in contenders:
        estimator, rule = contender.build()
        tally = _Tally()
        for epoch in range(num_epochs):
            for start in range(0, len(prompts), settings.batch_size):
                batch = prompts[start : start + settings.batch_size]
                machine = BatchMachine(
                    {name: world.priors[name] for name in batch},
                    rule,
                    halt_fraction=settings.halt_fraction,
                    mode=contender.mode,
                )
                played = play(machine, responses[epoch], cluster)
                groups = _views(world, batch, played)
                if epoch >= settings.num_warm_epochs:
                    _count(tally, world, groups, baselines.read(estimator, groups))
                    _count_run(tally, world, rule, played)
                rule.observe(machine.evidence())
                estimator.observe(groups)
        rows.append(_row(contender.name, tally, greedy="greedy" in estimator.needs))
    return rows


def _views(world: World, batch: Sequence[str], played: Played) -> list[GroupView]:
    cold_starts: dict[str, int] = {}
    for decision in played.decisions:
        if isinstance(decision.action, Draw):
            cold_starts.setdefault(decision.action.prompt_id, decision.action.num_rollouts)
    return [
        GroupView(
            name,
            tuple(reward for reward, _ in played.rollouts[name]),
            prior=world.priors[name],
            lengths=tuple(tokens for _, tokens in played.rollouts[name]),
            greedy_reward=world.greedy_reward(name),
            num_cold_start=cold_starts[name],
        )
        for name in batch
    ]


def _count(tally: _Tally, world: World, groups: Sequence[GroupView], read: Sequence[Sequence[float]]) -> None:
    for group, own in zip(groups, read, strict=True):
        truth = world.truth(group.prompt_id)
        off = [b - truth for b in own]
        tally.num_groups += 1
        tally.errors.setdefault(group.prompt_id, []).append(
            (sum(off) / len(off), sum(error * error for error in off) / len(off))
        )
        tally.correlation += sum((b - truth) * (r - truth) for r, b in zip(group.rewards, own, strict=True))
        tally.variance += len(off) * (1 - truth * truth)


def _count_run(tally: _Tally, world: World, rule: Rule, played: Played) -> None:
    timing = played.timing
    tally.num_rollouts += timing.num_rollouts
    tally.num_tokens += timing.num_tokens
    tally.makespans.append(timing.makespan_s)
    tally.bounds.append(timing.bound_s)
    tally.idle.append(timing.idle_share)
    judged: set[str] = set()
    for decision in played.decisions:
        name = decision.action.prompt_id
        if decision.bias_squared is None or decision.prior is None or name in judged:
            continue
        judged.add(name)
        is_right = abs(decision.prior - world.truth(name)) <= 1 / math.sqrt(decision.num_scored)
        (tally.right if is_right else tally.wrong).append(decision.bias_squared > 0)


def _row(name: str, tally: _Tally, *, greedy: bool) -> Row:
    squares = [sum(square for _, square in errors) / len(errors) for errors in tally.errors.values()]
    mse = sum(squares) / len(squares)
    spread = sum((square - mse) ** 2 for square in squares) / max(1, len(squares) - 1)
    # The product of two independent looks at one prompt's error is its squared bias in expectation.
    bias = sum(_product(errors) for errors in tally.errors.values()) / len(squares)
    return Row(
        name=name,
        rollouts=tally.num_rollouts / tally.num_groups + greedy,
        tokens=tally.num_tokens / tally.num_groups,
        mse=mse,
        mse_stderr=math.sqrt(spread / len(squares)),
        bias=math.sqrt(max(0.0, bias)),
        false_rejections=sum(tally.right) / len(tally.right) if tally.right else None,
        false_acceptances=1 - sum(tally.wrong) / len(tally.wrong) if tally.wrong else None,
        # E sum (r - E r)^2 = E K Var r for any stopping rule (Wald), so only the baseline's part has to be sampled.
        gain=1 - tally.correlation / tally.variance if tally.variance else 1.0,
        makespan_s=sum(tally.makespans) / len(tally.makespans),
        idle_share=sum(tally.idle) / len(tally.idle),
        over_bound=sum(tally.makespans) / sum(tally.bounds),
    )


def _product(errors: Sequence[tuple[float, float]]) -> float:
    total = sum(error for error, _ in errors)
    pairs = len(errors) * (len(errors) - 1)
    return (total * total - sum(error * error for error, _ in errors)) / pairs
