"""Shrink the group's mean to a running global one: ebpo."""

from collections.abc import Mapping, Sequence
from typing import Any

from v05ray.advantages.base import Advantages, Estimator, GroupView, advantage, check_groups
from v05ray.stats.moments import RunningMean, mean, sample_variance
from v05ray.stats.state import check_state


@advantage("ebpo")
class Ebpo(Estimator):
    """A_i = r_i - [(1-S) mu + S mu_global], S = (s2/n) / (s2/n + tau2) (arXiv 2602.05165).

    mu_global, the reward variance within prompts s2 and the variance between prompts' true means tau2 are decayed means
    over earlier batches; before the first they are 0, 1 and 1. Unlike v05's, the prior is one number for all prompts.

    >>> Ebpo().compute([GroupView("p", (1, 1, 1))])[0].values  # S = (1/3) / (1/3 + 1), mu_global = 0
    (0.25, 0.25, 0.25)
    """

    def __init__(self, *, decay: float = 0.9) -> None:
        """`decay` in (0, 1], per batch; else `ValueError`."""
        self._centre = RunningMean(decay)
        self._within = RunningMean(decay)
        self._between = RunningMean(decay)

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order, from the group and the past; `ConfigError` for an unmet need."""
        check_groups(self, groups)
        centre = self._centre.value(default=0.0)
        within, between = self._within.value(default=1.0), max(0.0, self._between.value(default=1.0))
        results = []
        for group in groups:
            noise = within / len(group.rewards)
            shrink = noise / (noise + between) if noise > 0 else 0.0
            baseline = (1 - shrink) * mean(group.rewards) + shrink * centre
            results.append(Advantages(tuple(r - baseline for r in group.rewards)))
        return results

    def observe(self, groups: Sequence[GroupView]) -> None:
        """Add the batch's moments; leaves out groups of one rollout, which hold no information on the noise."""
        usable = [group.rewards for group in groups if len(group.rewards) >= 2]
        if not usable:
            return
        means = [mean(rewards) for rewards in usable]
        noises = [sample_variance(rewards) for rewards in usable]
        self._centre.add(mean(means))
        self._within.add(mean(noises))
        if len(usable) >= 2:
            noise_of_means = mean([noise / len(rewards) for noise, rewards in zip(noises, usable, strict=True)])
            self._between.add(sample_variance(means) - noise_of_means)

    def metrics(self) -> Mapping[str, float]:
        """`v05/ebpo_mean` in [-1, 1]; `v05/ebpo_within` and `v05/ebpo_between` >= 0, in squared reward."""
        return {
            "v05/ebpo_mean": self._centre.value(default=0.0),
            "v05/ebpo_within": self._within.value(default=1.0),
            "v05/ebpo_between": max(0.0, self._between.value(default=1.0)),
        }

    def state_dict(self) -> dict[str, Any]:
        """The three running means."""
        return {
            "centre": self._centre.state_dict(),
            "within": self._within.state_dict(),
            "between": self._between.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave; other keys in `state` raise `ValueError`."""
        check_state(f"advantage {self.name!r}", state, {"centre", "within", "between"})
        self._centre.load_state_dict(state["centre"])
        self._within.load_state_dict(state["within"])
        self._between.load_state_dict(state["between"])
