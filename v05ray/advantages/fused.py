"""V0.5's advantages: the baseline fuses the value model's prior with the group's rewards (arXiv 2603.10848).

    A_i = (r_i - B) / (max(sqrt(1 - B^2), sigma_floor) + eps)

`v05` is the paper's. `v05_loo` takes mean, bias and weight from the other rewards, so that no baseline contains its own
(the paper's scales a prompt's gradient by a gain that depends on the prior's error: .91 to .76 at K = 4). `v05_eb` and
`v05_eb_loo` (ours) weigh by how wrong the prior was recently. The paper leaves eps and the bounds open.

Leave-one-out is exact for a fixed K. Where K depends on the rewards (the rule osla) the gain is .96 to 1.05, against
.89 to .98 for `v05` (`python -m benchmarks.gradient_gain`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from v05ray.advantages.base import Advantages, Estimator, GroupView, advantage, check_groups
from v05ray.advantages.group_mean import EPS
from v05ray.stats.prior_error import PriorError
from v05ray.stats.shrinkage import V_MAX, Fusion, fuse, fuse_eb, fuse_eb_loo, fuse_loo
from v05ray.stats.state import check_state

SIGMA_FLOOR = 0.1
"""Least deviation to divide by; in force where |B| > .995, which takes long runs of equal rewards."""


class Bounds:
    """The guards on heavy tails (ours), and the count of their use.

    >>> bounds = Bounds(eps=1e-6, v_max=0.95, sigma_floor=0.1)
    >>> bounds.clip(0.99), bounds.clip(-0.5)
    (0.95, -0.5)
    """

    __slots__ = ("eps", "sigma_floor", "v_max")

    def __init__(self, eps: float, v_max: float, sigma_floor: float) -> None:
        """`eps` >= 0, `v_max` in (0, 1], `sigma_floor` in [0, 1]; eps and sigma_floor not both 0. Else `ValueError`."""
        if not (eps >= 0 and 0 < v_max <= 1 and 0 <= sigma_floor <= 1 and eps + sigma_floor > 0):
            raise ValueError(
                "needs eps >= 0, 0 < v_max <= 1, 0 <= sigma_floor <= 1, not both eps and sigma_floor 0; "
                f"got eps={eps}, v_max={v_max}, sigma_floor={sigma_floor}"
            )
        self.eps, self.v_max, self.sigma_floor = eps, v_max, sigma_floor

    def clip(self, prior: float) -> float:
        """`prior` V in [-1, 1], held within [-v_max, v_max]."""
        return min(max(prior, -self.v_max), self.v_max)

    def advantages(self, group: GroupView, fusions: Sequence[Fusion]) -> Advantages:
        """The group's advantages from `fusions`[K], one for each reward, made from the clipped prior."""
        clipped = group.prior is not None and abs(group.prior) > self.v_max
        num_bounded = 0
        values = []
        for reward, fusion in zip(group.rewards, fusions, strict=True):
            sigma = math.sqrt(max(0.0, 1 - fusion.baseline**2))
            num_bounded += clipped or sigma < self.sigma_floor
            values.append((reward - fusion.baseline) / (max(sigma, self.sigma_floor) + self.eps))
        return Advantages(tuple(values), num_bounded, weights=tuple(fusion.weight for fusion in fusions))


def _prior(group: GroupView) -> float:
    assert group.prior is not None  # check_groups has seen it
    return group.prior


class _Fused(Estimator, Protocol):
    needs = frozenset({"prior"})
    _bounds: Bounds

    def __init__(self, *, eps: float = EPS, v_max: float = V_MAX, sigma_floor: float = SIGMA_FLOOR) -> None:
        self._bounds = Bounds(eps, v_max, sigma_floor)

    def _with(
        self, groups: Sequence[GroupView], fusions: Callable[[float, tuple[float, ...]], Sequence[Fusion]]
    ) -> list[Advantages]:
        check_groups(self, groups)
        return [self._bounds.advantages(g, fusions(self._bounds.clip(_prior(g)), g.rewards)) for g in groups]


@advantage("v05")
class V05(_Fused):
    """The paper's: one B per group, which contains r_i (Eqs. 7 to 9).

    >>> group = GroupView("p", (1, 1, 1, 1), prior=0.0)  # B = .75, sigma = sqrt(1 - .75^2)
    >>> [round(value, 3) for value in V05().compute([group])[0].values]
    [0.378, 0.378, 0.378, 0.378]
    """

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order, each from its group alone; `ConfigError` for an unmet need."""
        return self._with(groups, lambda prior, rewards: [fuse(prior, rewards)] * len(rewards))


@advantage("v05_loo")
class V05LeaveOneOut(_Fused):
    """The paper's fusion of the other K - 1 rewards; K = 1 leaves the prior. Gradient gain exactly 1.

    >>> group = GroupView("p", (1, 1, 1, -1), prior=0.0)  # others of the last: mean 1, B = 2/3; of a success: B = 0
    >>> [round(value, 3) for value in V05LeaveOneOut().compute([group])[0].values]
    [1.0, 1.0, 1.0, -2.236]
    """

    leave_one_out = True

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order, each from its group alone; `ConfigError` for an unmet need."""
        return self._with(groups, fuse_loo)


class _EmpiricalBayes(_Fused, Protocol):
    _strength: float
    _floor: float
    _error: PriorError

    def __init__(
        self,
        *,
        eps: float = EPS,
        v_max: float = V_MAX,
        sigma_floor: float = SIGMA_FLOOR,
        prior_strength: float = 2.0,
        noise_floor: float = 0.05,
        window: int = 512,
        initial_tau2: float = 0.16,
        warm_groups: int = 32,
    ) -> None:
        """Options in range, or `ValueError`.

        `prior_strength` >= 0 and `noise_floor` in (0, 1] are those of `shrinkage.noise_variance`; `window` (groups),
        `initial_tau2` (squared reward) and `warm_groups` those of `PriorError`.
        """
        super().__init__(eps=eps, v_max=v_max, sigma_floor=sigma_floor)
        if not (prior_strength >= 0 and 0 < noise_floor <= 1):
            raise ValueError(
                f"needs prior_strength >= 0 and 0 < noise_floor <= 1, got {prior_strength} and {noise_floor}"
            )
        self._strength, self._floor = prior_strength, noise_floor
        self._error = PriorError(window=window, initial=initial_tau2, warm_groups=warm_groups)

    @property
    def tau2(self) -> float:
        """Mean squared error of recent priors, >= 0, in squared reward."""
        return self._error.tau2

    def observe(self, groups: Sequence[GroupView]) -> None:
        """Compare each group's clipped prior with its cold-start rewards; leaves out groups with fewer than two."""
        check_groups(self, groups)
        for group in sorted(groups, key=lambda g: g.prompt_id):  # the order of sealing is chance
            if len(group.cold_rewards) >= 2:
                self._error.add(self._bounds.clip(_prior(group)), group.cold_rewards)

    def metrics(self) -> Mapping[str, float]:
        """`v05/tau2` >= 0, in squared reward, and the number of groups that it is the mean of."""
        return {"v05/tau2": self._error.tau2, "v05/tau2_groups": float(self._error.num_groups)}

    def state_dict(self) -> dict[str, Any]:
        """The window of prior errors."""
        return {"prior_error": self._error.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave; other keys in `state` raise `ValueError`."""
        check_state(f"advantage {self.name!r}", state, {"prior_error"})
        self._error.load_state_dict(state["prior_error"])


@advantage("v05_eb")
class V05EmpiricalBayes(_EmpiricalBayes):
    """w = tau2 / (tau2 + s2), with tau2 learned from recent groups and s2 from the data; ours.

    >>> group = GroupView("p", (1, 1), prior=0.0)  # s2 = .375, B = .5
    >>> [round(value, 3) for value in V05EmpiricalBayes(initial_tau2=0.375).compute([group])[0].values]
    [0.577, 0.577]
    """

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order, from the group and the past; `ConfigError` for an unmet need."""
        tau2 = self._error.tau2
        return self._with(
            groups,
            lambda prior, r: [fuse_eb(prior, r, tau2, prior_strength=self._strength, floor=self._floor)] * len(r),
        )


@advantage("v05_eb_loo")
class V05EmpiricalBayesLeaveOneOut(_EmpiricalBayes):
    """`v05_eb` from the other K - 1 rewards: unbiased, and closer to the truth than `v05` at priors up to .6 rms.

    >>> group = GroupView("p", (1, 1, 1), prior=0.0)  # s2 = .375 from two others, B = .5
    >>> [round(value, 3) for value in V05EmpiricalBayesLeaveOneOut(initial_tau2=0.375).compute([group])[0].values]
    [0.577, 0.577, 0.577]
    """

    leave_one_out = True

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order, from the group and the past; `ConfigError` for an unmet need."""
        tau2 = self._error.tau2
        return self._with(
            groups,
            lambda prior, r: fuse_eb_loo(prior, r, tau2, prior_strength=self._strength, floor=self._floor),
        )
