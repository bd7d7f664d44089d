"""What a set of replayed prompts came to: budget, error of the baseline, spread of the advantages."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance

from v05ray.replay.batch import Replayed
from v05ray.stats.osla import expected_error
from v05ray.stats.shrinkage import bias_squared


@dataclass(frozen=True, slots=True)
class Figures:
    """Budget and baseline error of a set of sealed prompts."""

    num_prompts: int
    num_rollouts: int
    num_tokens: int
    """Tokens of all used responses."""
    stops: Mapping[str, int]
    """Prompts by reason."""
    mse_rule: float
    """Mean of M(k) = b2 / (1 + k b2) (Eq. 35), the error that OSLA minimises; 1/k for a prompt without a prior."""
    mse_loo: float
    """Mean of (r_i - B_i)^2 - s2, B_i the estimator's baseline from the prompt's other k - 1 rewards, s2 the unbiased
    variance of its rewards: what one more rollout says about the baseline's squared error, whatever the estimator.
    Unbiased for a fixed k (a little off where k followed from the rewards); noisy, so it may be below 0. Prompts with
    a single rollout are left out."""
    advantage_mean: float
    advantage_variance: float
    """Over all rollouts."""
    num_short: int = 0
    """Prompts for which the record ran out."""
    num_missing: int = 0
    """Rollouts that they wanted beyond it."""

    @property
    def rollouts_per_prompt(self) -> float:
        """Mean over prompts."""
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
        mse_loo=fmean(errors) if (errors := [e for one in replayed for e in one.loo_errors]) else math.nan,
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
