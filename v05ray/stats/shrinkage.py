"""Fuse a prior with the mean of a few rewards (arXiv 2603.10848, Section 3; `v05_eb` is ours).

One prompt has a prior V in [-1, 1] and rewards r[K] in [-1, 1] with mean mu. The fused baseline is

    B = w mu + (1 - w) V        (Eq. 9)

and the three fusions below differ in the weight w of the mean alone.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TOLERANCE = 1e-12
"""A squared bias below this is rounding noise of an exact tie |mu - V| = 1/sqrt(k), which counts as agreement."""

V_MAX = 0.95
"""Priors are clipped to [-V_MAX, V_MAX]: unclipped, one wrong answer at V = .98 would get an advantage of -10."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """What the evidence makes of a prior.

    >>> fuse(0.0, [1, 1, 1, 1])
    Fusion(weight=0.75, baseline=0.75, bias_squared=0.75)
    """

    weight: float
    """w in [0, 1], of the empirical mean."""
    baseline: float
    """B, between prior and mean."""
    bias_squared: float
    """b2 >= 0: how wrong the prior is beyond what noise explains (for `fuse_eb`: the tau2 it was given)."""


def check_unit(name: str, value: float) -> float:
    """`value`, if it is in [-1, 1]; else (and for NaN) a `ValueError` that calls it `name`.

    >>> check_unit("reward", -1)
    -1
    """
    if not -1 <= value <= 1:
        raise ValueError(f"{name} must be in [-1, 1], got {value}; a probability p becomes 2 p - 1")
    return value


def bias_squared(prior: float, mean: float, num_rewards: int) -> float:
    """b2 = max(0, (mu - V)^2 - 1/k) (Eq. 7), for k = num_rewards >= 1.

    `prior` is V in [-1, 1], `mean` is mu in [-1, 1]; b2 is in squared reward, at most 4. 1/k is the guaranteed bound on
    the mean's variance, since one reward in [-1, 1] varies by at most 1 (Eq. 6).

    >>> bias_squared(0.0, 1.0, 4), bias_squared(0.5, 1.0, 4)
    (0.75, 0.0)
    """
    excess = (mean - prior) ** 2 - 1 / num_rewards
    return excess if excess > TOLERANCE else 0.0


def _fuse(prior: float, mean: float, num_rewards: int) -> Fusion:
    if num_rewards == 0:
        return Fusion(0.0, prior, 0.0)
    b2 = bias_squared(prior, mean, num_rewards)
    weight = b2 / (b2 + 1 / num_rewards)
    return Fusion(weight, _between(prior, mean, weight), b2)


def _between(prior: float, mean: float, weight: float) -> float:
    # prior + w (mu - V), held inside [min, max] where rounding would step out of it.
    fused = prior + weight * (mean - prior)
    return min(max(fused, min(prior, mean)), max(prior, mean))


def fuse(prior: float, rewards: Sequence[float]) -> Fusion:
    """The paper's fusion of `prior` V with `rewards` r[k >= 0], all in [-1, 1]: w = b2 / (b2 + 1/k) (Eq. 8).

    A positive-part James-Stein estimator: B = V where |mu - V| <= 1/sqrt(k), else mu - 1/(k (mu - V)).
    Without rewards B = V.

    Raises:
        ValueError: for a number outside [-1, 1].

    >>> fuse(0.5, [1, 1, 1, 1]).baseline  # |1 - .5| is within 1/sqrt(4)
    0.5
    >>> fuse(0.0, [1, 1, 1, 1]).baseline  # 1 - 1/(4 * 1)
    0.75
    """
    check_unit("prior", prior)
    for reward in rewards:
        check_unit("reward", reward)
    return _fuse(prior, math.fsum(rewards) / len(rewards) if rewards else prior, len(rewards))


def fuse_loo(prior: float, rewards: Sequence[float]) -> list[Fusion]:
    """[K] `fuse` (Eq. 8) for each of `rewards`[K] from the K - 1 others, so that no baseline contains its own reward.

    `prior` and rewards are in [-1, 1]. K = 1 leaves the prior. Time O(K).

    Raises:
        ValueError: for a number outside [-1, 1].

    >>> [fusion.baseline for fusion in fuse_loo(-1.0, [1, 1, -1])]  # from means of others 0, 0 and 1
    [-0.5, -0.5, 0.75]
    """
    check_unit("prior", prior)
    others = len(rewards) - 1
    return [_fuse(prior, mean, others) for mean in _means_of_others(prior, rewards)]


def _means_of_others(prior: float, rewards: Sequence[float]) -> Iterator[float]:
    total = math.fsum(check_unit("reward", reward) for reward in rewards)
    others = len(rewards) - 1
    for reward in rewards:
        mean = (total - reward) / others if others else prior
        yield min(max(mean, -1.0), 1.0)  # total - reward may round a hair outside


def noise_variance(
    prior: float, mean: float, num_rewards: int, *, prior_strength: float = 2.0, floor: float = 0.05
) -> float:
    """s2 = max(1 - m^2, floor) / k with m = (k mu + n0 V) / (k + n0): the variance of the mean (ours).

    `prior` V and `mean` mu are in [-1, 1], `num_rewards` k >= 1, `prior_strength` n0 >= 0, `floor` in (0, 1]. The
    variance of a +-1 reward with mean m is 1 - m^2; shrinking m to the prior keeps a group of equal rewards from
    looking certain. For graded rewards it is an upper bound. In squared reward.

    >>> noise_variance(0.0, 1.0, 2)  # m = (2 + 0) / 4
    0.375
    >>> noise_variance(1.0, 1.0, 4)  # the floor
    0.0125
    """
    shrunk = (num_rewards * mean + prior_strength * prior) / (num_rewards + prior_strength)
    return max(1 - shrunk * shrunk, floor) / num_rewards


def _fuse_eb(prior: float, mean: float, num_rewards: int, tau2: float, strength: float, floor: float) -> Fusion:
    if num_rewards == 0:
        return Fusion(0.0, prior, tau2)
    noise = noise_variance(prior, mean, num_rewards, prior_strength=strength, floor=floor)
    weight = tau2 / (tau2 + noise)
    return Fusion(weight, _between(prior, mean, weight), tau2)


def fuse_eb(
    prior: float, rewards: Sequence[float], tau2: float, *, prior_strength: float = 2.0, floor: float = 0.05
) -> Fusion:
    """Empirical-Bayes fusion (ours): w = tau2 / (tau2 + s2), s2 from `noise_variance`, tau2 >= 0 from `prior_error`.

    `prior` V and `rewards` r[k >= 0] are in [-1, 1]; without rewards B = V. `prior_strength` >= 0 and `floor` in (0, 1]
    are those of `noise_variance`. tau2 is the mean squared error of recent priors, so the weight does not depend on
    this group's own noise.

    Raises:
        ValueError: for an argument out of range.

    >>> fusion = fuse_eb(0.0, [1, 1], tau2=0.375)  # s2 is .375 too
    >>> fusion.weight, fusion.baseline
    (0.5, 0.5)
    """
    _check_eb(prior, tau2, prior_strength, floor)
    for reward in rewards:
        check_unit("reward", reward)
    mean = math.fsum(rewards) / len(rewards) if rewards else prior
    return _fuse_eb(prior, mean, len(rewards), tau2, prior_strength, floor)


def fuse_eb_loo(
    prior: float, rewards: Sequence[float], tau2: float, *, prior_strength: float = 2.0, floor: float = 0.05
) -> list[Fusion]:
    """[K] `fuse_eb` (ours) for each of `rewards`[K] from the K - 1 others; arguments and ranges are those of `fuse_eb`.

    Raises:
        ValueError: for an argument out of range: `prior` or a reward outside [-1, 1], `tau2` < 0 or infinite,
            `prior_strength` < 0, `floor` outside (0, 1].

    >>> [fusion.baseline for fusion in fuse_eb_loo(0.0, [1, 1, 1], tau2=0.375)]
    [0.5, 0.5, 0.5]
    """
    _check_eb(prior, tau2, prior_strength, floor)
    others = len(rewards) - 1
    return [_fuse_eb(prior, m, others, tau2, prior_strength, floor) for m in _means_of_others(prior, rewards)]


def _check_eb(prior: float, tau2: float, prior_strength: float, floor: float) -> None:
    check_unit("prior", prior)
    if not 0 <= tau2 < math.inf:
        raise ValueError(f"tau2 must be finite and >= 0, got {tau2}")
    if not (prior_strength >= 0 and 0 < floor <= 1):
        raise ValueError(f"needs prior_strength >= 0 and 0 < floor <= 1, got {prior_strength} and {floor}")
