"""The penalty that keeps the policy near the one it started from, per token. Legend: N response tokens.

With d = log pi_current - log pi_reference at a token that was drawn from pi_current, three estimators of
KL(pi_current || pi_reference) (Schulman, "Approximating KL Divergence", 2020), and what they do as a loss:

| name | value | gradient | source |
|---|---|---|---|
| k1 | d | d grad log pi | "k1 in the reward" of PPO and REINFORCE++ (2501.03262): unbiased, may be negative |
| k2 | d^2 / 2 | d grad log pi | the same pull as k1, its value >= 0 and biased |
| k3 | exp(-d) - 1 + d | (1 - exp(-d)) grad log pi | GRPO (2402.03300, Eq. 4): unbiased and >= 0, its pull biased |

d grad log pi is the gradient of the KL itself, in the mean over drawn tokens; k3's agrees with it to first order in d.
Differentiated directly, k1 would give grad log pi, whose mean is 0: noise without a pull. So k1 gets the gradient
that it has when the reward, and not the loss, carries it (2510.01555 works all of this out).
"""

import torch
from torch import Tensor

from v05ray.recipes import KlEstimator

MAX_LOG_RATIO = 20.0
"""Bound of -d in k3's exponential: a token that the reference finds far likelier than the policy costs e^20 at most."""


def kl_penalty(current_N: Tensor, reference_N: Tensor, estimator: KlEstimator) -> Tensor:
    """[N] the table's value, in nats, with the table's gradient in current_N. Both are log-probabilities.

    reference_N carries no gradient.

    >>> current_N, reference_N = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -2.0])
    >>> kl_penalty(current_N, reference_N, "k1"), kl_penalty(current_N, reference_N, "k2")
    (tensor([0.5000, 0.0000]), tensor([0.1250, 0.0000]))
    """
    log_ratio_N = current_N - reference_N
    if estimator == "k1":
        detached_N = log_ratio_N.detach()
        # current - its own value is 0, with the gradient of current: value d, gradient d grad log pi.
        return detached_N + detached_N * (current_N - current_N.detach())
    if estimator == "k2":
        return log_ratio_N.square() / 2
    return torch.exp((-log_ratio_N).clamp(max=MAX_LOG_RATIO)) - 1 + log_ratio_N
