"""Group-relative advantages, reweighted by a difficulty anchor: ha_dw."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from v05ray.advantages.base import (
    ESTIMATORS,
    Advantages,
    Estimator,
    GroupView,
    advantage,
    check_groups,
)
from v05ray.stats.moments import RunningMean, mean
from v05ray.stats.state import check_state


@advantage("ha_dw")
class HaDw(Estimator):
    """A_i lam exp(D |d|) on grpo's A, d = p - C, D = -sgn(A) sgn(d) (arXiv 2601.08521).

    p is the group's success rate, C the decayed mean of the batches' accuracies so far (1/2 before the first). A mixed
    group underrates success on hard prompts and overrates it on easy ones; the factor, in [lam/e, lam e], pushes back.

    >>> group = GroupView("p", (1, -1, -1, -1))  # d = -1/4: success counts e^(1/4) times, failure e^(-1/4) times
    >>> [round(value, 3) for value in HaDw().compute([group])[0].values]
    [1.926, -0.389, -0.389, -0.389]
    """

    min_rollouts = 2

    def __init__(self, *, lam: float = 1.0, decay: float = 0.9) -> None:
        """`lam` > 0 scales all advantages; `decay` in (0, 1] of the history, per batch. The paper leaves both open.

        Raises `ValueError` for a value out of range.
        """
        if not lam > 0:
            raise ValueError(f"lam must be > 0, got {lam}")
        self._lam = lam
        self._anchor = RunningMean(decay)
        self._base = ESTIMATORS.build("grpo", {})

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order, from the group and the past; `ConfigError` for an unmet need."""
        check_groups(self, groups)
        anchor = self._anchor.value(default=0.5)
        results = []
        for group, base in zip(groups, self._base.compute(groups), strict=True):
            distance = (1 + mean(group.rewards)) / 2 - anchor
            values = (a * self._lam * math.exp(-distance if a > 0 else distance) for a in base.values)
            results.append(Advantages(tuple(values)))
        return results

    def observe(self, groups: Sequence[GroupView]) -> None:
        """Add the batch's accuracy, each prompt counting once."""
        if groups:
            self._anchor.add(mean([(1 + mean(group.rewards)) / 2 for group in groups]))

    def metrics(self) -> Mapping[str, float]:
        """`v05/difficulty_anchor`: C in [0, 1]."""
        return {"v05/difficulty_anchor": self._anchor.value(default=0.5)}

    def state_dict(self) -> dict[str, Any]:
        """The anchor's sums."""
        return {"anchor": self._anchor.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave; other keys in `state` raise `ValueError`."""
        check_state(f"advantage {self.name!r}", state, {"anchor"})
        self._anchor.load_state_dict(state["anchor"])
