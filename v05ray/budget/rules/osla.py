"""V0.5's rule: draw on while one more rollout is worth its cost (arXiv 2603.10848, Eq. 12)."""

from collections.abc import Mapping

from v05ray.budget.base import Evidence, Judgement, Rule, rule
from v05ray.stats.osla import Rounding, target_rollouts
from v05ray.stats.shrinkage import bias_squared


@rule("osla")
class OslaRule(Rule):
    """Cold start k0, then the target min(n_max, floor(1/sqrt(c) - 1/b2)) from the evidence so far, until it is met.

    Stops with `accepted` where the evidence agrees with the prior (b2 = 0), `target_reached`, or `cap` at n_max.
    """

    needs = frozenset({"prior"})

    def __init__(
        self, cold_start: int = 4, cost: float = 1 / 256, n_max: int = 16, *, rounding: Rounding = "floor"
    ) -> None:
        """The paper's values are the defaults.

        Args:
            cold_start: k0 >= 1; from 4 on, the radius 1/sqrt(k) covers one flipped reward, 2/k.
            cost: c > 0, the squared error that one rollout must remove to be worth it.
            n_max: cap >= cold_start; without one the target stays below 1/sqrt(c).
            rounding: of the target, see `stats.osla.Rounding`.
        """
        if not 1 <= cold_start <= n_max:
            raise ValueError(f"needs 1 <= cold_start <= n_max, got cold_start={cold_start}, n_max={n_max}")
        if rounding not in ("floor", "nearest"):
            raise ValueError(f"rounding must be 'floor' or 'nearest', got {rounding!r}")
        target_rollouts(1.0, cost, n_max)  # refuses a cost out of range
        self.min_rollouts, self.cost, self.n_max = cold_start, cost, n_max
        self.rounding: Rounding = rounding

    def plan(self, priors: Mapping[str, float | None]) -> Mapping[str, int]:
        """k0 for each."""
        return dict.fromkeys(priors, self.min_rollouts)

    def judge(self, evidence: Evidence) -> Judgement:
        """Target from b2 = max(0, (mean - V)^2 - 1/k)."""
        assert evidence.prior is not None  # the machine checks `needs` once, when it is built
        b2 = bias_squared(evidence.prior, evidence.mean, evidence.num_scored)
        if b2 == 0:
            return Judgement(0, "accepted", b2)
        target = target_rollouts(b2, self.cost, self.n_max, rounding=self.rounding)
        return Judgement(target, "cap" if evidence.num_scored >= self.n_max else "target_reached", b2)
