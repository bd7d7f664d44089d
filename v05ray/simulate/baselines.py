"""The baseline inside any estimator's advantages: what would B have to be for A_i = s (r_i - B_i)?

The real estimators are asked, so nothing of theirs is written down a second time. How their answer is read:

    difference   A = r - B alone (the fused ones with sigma_floor = 1 and eps = 0, which makes their divisor 1)
    group        one scale s > 0 and one B for a group: two kinds of reward give two equations; a group of equal rewards
                 with A = 0 has B = r
    batch        the same, one scale and one B for the whole batch
    probe        the scale does not depend on the rewards, so a mixed group of the same size shows it

Rewards must be -1 or +1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from v05ray import advantages
from v05ray.advantages import Estimator, GroupView
from v05ray.errors import ConfigError

_BARE: Mapping[str, Any] = {"sigma_floor": 1.0, "eps": 0.0}
_READ = {
    **dict.fromkeys(("v05", "v05_loo", "v05_eb", "v05_eb_loo"), "difference"),
    **dict.fromkeys(("dr_grpo", "rloo", "remax", "opo", "spo", "ebpo", "james_stein"), "difference"),
    **dict.fromkeys(("grpo", "bnpo", "mc_grpo", "qae", "ha_dw", "reinforce_pp_baseline"), "group"),
    "reinforce_pp": "batch",
    "krpo": "probe",
}


def build(name: str, options: Mapping[str, Any]) -> Estimator:
    """The estimator, in the form in which its baseline can be read. Raises `ConfigError` where it cannot."""
    if name in advantages.ESTIMATORS.names and name not in _READ:
        raise ConfigError(f"no way is known to read the baseline of {name!r}; add its line to simulate/baselines.py")
    return advantages.build(name, **{**options, **(_BARE if name.startswith("v05") else {})})


def read(estimator: Estimator, groups: Sequence[GroupView]) -> list[list[float]]:
    """B_i of every rollout [groups][K], from the estimator's advantages for this batch.

    For `ha_dw`, whose scale differs by the reward's sign, it is the B that would give the same gradient.
    """
    values = [list(one.values) for one in estimator.compute(groups)]
    how = _READ[estimator.name]
    if how == "difference":
        return [
            [r - a for r, a in zip(group.rewards, own, strict=True)] for group, own in zip(groups, values, strict=True)
        ]
    if how == "batch":
        rewards = [r for group in groups for r in group.rewards]
        common = _solve(rewards, [a for own in values for a in own])[1]
        return [[common] * len(group.rewards) for group in groups]
    if how == "probe":
        return [_probed(estimator, group, own) for group, own in zip(groups, values, strict=True)]
    return [[_solve(group.rewards, own)[1]] * len(group.rewards) for group, own in zip(groups, values, strict=True)]


def _solve(rewards: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """(s, B): where a group is mixed, s (1 - B) and s (-1 - B) are the largest and the least value."""
    if min(rewards) == max(rewards):
        return 0.0, rewards[0]
    # mc_grpo gives its dropped rollout the value of its kind, 0, so any of a kind represents it.
    good = values[rewards.index(1.0)]
    bad = values[rewards.index(-1.0)]
    return (good - bad) / 2, -(good + bad) / (good - bad)


def _probed(estimator: Estimator, group: GroupView, values: Sequence[float]) -> list[float]:
    count = max(2, len(group.rewards))
    if len(group.rewards) < 2:
        raise ConfigError(f"{estimator.name} is compared with >= 2 rollouts, got 1 for {group.prompt_id!r}")
    mixed = GroupView(group.prompt_id, (1.0,) + (-1.0,) * (count - 1))
    scale = _solve(mixed.rewards, estimator.compute([mixed])[0].values)[0]
    return [r - a / scale for r, a in zip(group.rewards, values, strict=True)]
