"""One step look ahead: is one more rollout worth its cost? (arXiv 2603.10848, Section 3.3 and Appendix A.6)

With b2 the prior's squared bias and k rollouts, the fused baseline has

    M(k) = b2 / (1 + k b2)      (Eq. 35, mean squared error)
    R(k) = M(k) + c k           (Eq. 11, risk at cost c per rollout)
"""

import math
from typing import Literal

Rounding = Literal["floor", "nearest"]
"""How K* becomes a count. `floor` is the rule "draw while the lower envelope of the marginal return exceeds c" (Eq.
37); `nearest` lands on the discrete minimiser of the risk (or its neighbour of practically equal risk). They move the
mean budget by less than 15 %."""

_SLACK = 1e-9  # 1/sqrt(c) - 1/b2 of an exact integer may round just below it


def expected_error(bias_squared: float, num_rollouts: int) -> float:
    """M(k) = b2 / (1 + k b2) (Eq. 35), the mean squared error of the fused baseline, in squared reward.

    `bias_squared` is b2 >= 0, `num_rollouts` is k >= 0.

    >>> expected_error(1.0, 0), expected_error(1.0, 4)
    (1.0, 0.2)
    """
    return bias_squared / (1 + num_rollouts * bias_squared)


def marginal_return(bias_squared: float, num_rollouts: int) -> float:
    """M(k) - M(k+1) = b2^2 / [(1 + k b2)(1 + (k+1) b2)] (Eq. 36), >= 0: the squared error that one more removes.

    `bias_squared` is b2 >= 0, `num_rollouts` is k >= 0.

    >>> marginal_return(1.0, 0), marginal_return(1.0, 1)  # 1 - 1/2, 1/2 - 1/3
    (0.5, 0.16666666666666666)
    """
    b2, k = bias_squared, num_rollouts
    return b2 * b2 / ((1 + k * b2) * (1 + (k + 1) * b2))


def risk(bias_squared: float, num_rollouts: int, cost: float) -> float:
    """R(k) = M(k) + c k (Eq. 11), in squared reward.

    `bias_squared` is b2 >= 0, `num_rollouts` is k >= 0, `cost` is c > 0, in squared reward per rollout.

    >>> risk(1.0, 3, cost=1 / 16)  # 1/4 + 3/16
    0.4375
    """
    return expected_error(bias_squared, num_rollouts) + cost * num_rollouts


def target_rollouts(bias_squared: float, cost: float, n_max: int, *, rounding: Rounding = "floor") -> int:
    """Total rollouts worth drawing: min(n_max, round(K*)), K* = 1/sqrt(c) - 1/b2 (Eqs. 12 and 40), at least 0.

    Args:
        bias_squared: b2 >= 0; 0 (the prior is kept) gives 0.
        cost: c > 0, in squared reward per rollout; the paper's 1/256 makes 1/sqrt(c) = 16.
        n_max: cap >= 0.
        rounding: see `Rounding`.

    Raises:
        ValueError: for an argument out of range.

    >>> target_rollouts(1.0, cost=1 / 256, n_max=32)  # 16 - 1
    15
    >>> target_rollouts(0.1, cost=1 / 256, n_max=32), target_rollouts(1.0, cost=1 / 256, n_max=8)
    (6, 8)
    """
    if not 0 < cost < math.inf:
        raise ValueError(f"cost must be finite and > 0, got {cost}; for 16 rollouts at most it is 1/16^2")
    if not bias_squared >= 0:
        raise ValueError(f"bias_squared must be >= 0, got {bias_squared}")
    if bias_squared == 0:
        return 0
    ideal = 1 / math.sqrt(cost) - 1 / bias_squared
    if ideal >= n_max:
        return n_max
    if ideal <= 0:
        return 0
    return math.floor(ideal + (0.5 if rounding == "nearest" else _SLACK))
