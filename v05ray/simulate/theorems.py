"""The paper's claims about one prompt, computed exactly: sums over the number of successes, no sampling.

Rewards are -1 or +1 with success probability p, mean m = 2 p - 1; the prior is V; mu is the mean of k rewards.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from v05ray.budget import Evidence, OslaRule
from v05ray.stats.osla import risk
from v05ray.stats.shrinkage import bias_squared, fuse

Baseline = Callable[[float, Sequence[float]], float]
"""Prior and rewards[K] to a baseline."""


def outcomes(p: float, num_rewards: int) -> Iterator[tuple[float, list[float]]]:
    """(chance, rewards) by the number of successes; impossible ones are left out."""
    for good in range(num_rewards + 1):
        chance = math.comb(num_rewards, good) * p**good * (1 - p) ** (num_rewards - good)
        if chance:
            yield chance, [1.0] * good + [-1.0] * (num_rewards - good)


def moments(baseline: Baseline, p: float, prior: float, num_rewards: int) -> tuple[float, float]:
    """(E B - m, E (B - m)^2)."""
    truth = 2 * p - 1
    bias = error = 0.0
    for chance, rewards in outcomes(p, num_rewards):
        off = baseline(prior, rewards) - truth
        bias += chance * off
        error += chance * off * off
    return bias, error


def v05(prior: float, rewards: Sequence[float]) -> float:
    """The paper's B."""
    return fuse(prior, rewards).baseline


def best_fixed_weight(p: float, prior: float, num_rewards: int, *, steps: int = 1000) -> tuple[float, float, float]:
    """(w found by search, w* = d^2 / (d^2 + s2), MSE at the found one): Theorems 3.2 and 3.3; d = V - m, s2 exact."""
    truth = 2 * p - 1

    def error(step: int) -> float:
        weight = step / steps
        return moments(lambda v, r: weight * sum(r) / len(r) + (1 - weight) * v, p, prior, num_rewards)[1]

    found = min(range(steps + 1), key=error)
    d2, s2 = (prior - truth) ** 2, (1 - truth * truth) / num_rewards
    return found / steps, d2 / (d2 + s2) if d2 + s2 else 0.0, error(found)


def rejection_rate(p: float, prior: float, num_rewards: int) -> float:
    """P(b2 > 0): how often the evidence overrules the prior."""
    return math.fsum(
        chance
        for chance, r in outcomes(p, num_rewards)
        if bias_squared(prior, math.fsum(r) / num_rewards, num_rewards) > 0
    )


def error_ratio(distance: float, num_rewards: int, *, steps: int = 400) -> float:
    """MSE(B) / MSE(mu) for p uniform on (0, 1) and |V - m| = distance; V is on whichever sides of m it fits."""
    fused = plain = 0.0
    for i in range(steps):
        p = (i + 0.5) / steps
        for prior in {2 * p - 1 - distance, 2 * p - 1 + distance}:
            if -1 <= prior <= 1:
                fused += moments(v05, p, prior, num_rewards)[1]
                plain += (1 - (2 * p - 1) ** 2) / num_rewards
    return fused / plain


@dataclass(frozen=True, slots=True)
class Regret:
    """E R(K) - min R for the rule osla at one cost, p and prior."""

    cost: float
    mean_rollouts: float
    oracle_rollouts: int
    regret: float
    """In units of squared reward."""

    @property
    def in_costs(self) -> float:
        """Regret / c: the paper claims it is bounded as c -> 0 (Eq. 51)."""
        return self.regret / self.cost


def regret(p: float, prior: float, cost: float, *, cold_start: int = 4) -> Regret:
    """The rule stopping by itself against an oracle that knows (V - m)^2 (Eq. 41), over all paths of the rewards.

    The cap is 1/sqrt(c), beyond which no target lies. R(k) = b2/(1 + k b2) + c k with the true b2.
    """
    true_b2 = (prior - (2 * p - 1)) ** 2
    n_max = max(cold_start, math.floor(1 / math.sqrt(cost) + 1e-9))
    stopped = _stopping_times(OslaRule(cold_start=cold_start, cost=cost, n_max=n_max), p, prior)
    best = min(range(n_max + 1), key=lambda k: risk(true_b2, k, cost))
    expected = math.fsum(chance * risk(true_b2, k, cost) for k, chance in stopped.items())
    mean = math.fsum(chance * k for k, chance in stopped.items())
    return Regret(cost, mean, best, expected - risk(true_b2, best, cost))


def _stopping_times(rule: OslaRule, p: float, prior: float) -> dict[int, float]:
    """P(K = k): the real rule asked at every (k, number of successes) that can be reached."""
    states = {(0, 0): (1.0, rule.min_rollouts)}  # (k, good) -> (chance, target)
    stopped: dict[int, float] = {}
    while states:
        merged: dict[tuple[int, int], float] = {}
        for (k, good), (chance, target) in states.items():
            for share, rewards in outcomes(p, target - k):
                key = (target, good + rewards.count(1.0))
                merged[key] = merged.get(key, 0.0) + chance * share
        states = {}
        for (k, good), chance in merged.items():
            target = rule.judge(_evidence(prior, k, good)).target
            if target <= k:
                stopped[k] = stopped.get(k, 0.0) + chance
            else:
                states[(k, good)] = (chance, target)
    return stopped


def _evidence(prior: float, num_scored: int, good: int) -> Evidence:
    evidence = Evidence("prompt", prior, num_scored)
    for i in range(num_scored):
        evidence.add(1.0 if i < good else -1.0)
    return evidence
