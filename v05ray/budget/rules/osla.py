"""V0.5's rule: draw on while one more rollout is worth its cost (arXiv 2603.10848, Eq. 12)."""

from collections.abc import Mapping, Sequence
from typing import Any

from v05ray.budget.base import Evidence, Judgement, Rule, rule
from v05ray.budget.controller import CostController
from v05ray.stats.moments import RunningMean
from v05ray.stats.osla import Rounding, target_rollouts
from v05ray.stats.shrinkage import bias_squared
from v05ray.stats.state import check_state

LENGTH_FACTOR = 4.0
"""A prompt's cost is scaled by its length by at most this factor, up or down."""


@rule("osla")
class OslaRule(Rule):
    """Cold start k0, then the target min(n_max, floor(1/sqrt(c) - 1/b2)) from the evidence so far, until it is met.

    Stops with `accepted` where the evidence agrees with the prior (b2 = 0), `target_reached`, or `cap` at n_max.

    >>> evidence = Evidence("p", prior=0.5, num_cold_start=4)
    >>> for reward in (1, -1, -1, -1):
    ...     evidence.add(reward)
    >>> OslaRule().judge(evidence)  # b2 = 1 - 1/4; 16 - 4/3 = 14.67
    Judgement(target=14, reason='target_reached', bias_squared=0.75)
    """

    needs = frozenset({"prior"})

    def __init__(
        self,
        cold_start: int = 4,
        cost: float = 1 / 256,
        n_max: int = 16,
        *,
        rounding: Rounding = "floor",
        token_aware: bool = False,
        mean_rollouts: float | None = None,
        tokens_per_step: float | None = None,
    ) -> None:
        """The paper's values are the defaults.

        Args:
            cold_start: k0 >= 1; from 4 on, the radius 1/sqrt(k) covers one flipped reward, 2/k.
            cost: c > 0, the squared error that one rollout must remove to be worth it.
            n_max: cap >= cold_start; without one the target stays below 1/sqrt(c).
            rounding: of the target, see `stats.osla.Rounding`.
            token_aware: scale c by the prompt's own mean response length over that of recent steps (within a factor of
                4), so that a token, not a rollout, has one price.
            mean_rollouts: steer c so that a batch uses this many rollouts per prompt; see `CostController`.
            tokens_per_step: or so that it uses this many response tokens.

        Raises:
            ValueError: for a value out of range.
        """
        if not 1 <= cold_start <= n_max:
            raise ValueError(f"needs 1 <= cold_start <= n_max, got cold_start={cold_start}, n_max={n_max}")
        if rounding not in ("floor", "nearest"):
            raise ValueError(f"rounding must be 'floor' or 'nearest', got {rounding!r}")
        target_rollouts(1.0, cost, n_max)  # refuses a cost out of range
        self.min_rollouts, self.n_max = cold_start, n_max
        self._cost = cost
        self._rounding: Rounding = rounding
        self._token_aware = token_aware
        self._length = RunningMean(0.9)  # tokens per rollout, over some ten steps
        self._controller = None
        if mean_rollouts is not None or tokens_per_step is not None:
            self._controller = CostController(
                cost=cost,
                cold_start=cold_start,
                n_max=n_max,
                mean_rollouts=mean_rollouts,
                tokens_per_step=tokens_per_step,
            )

    @property
    def cost(self) -> float:
        """The c in force, > 0, in squared reward per rollout."""
        return self._controller.cost if self._controller else self._cost

    def plan(self, priors: Mapping[str, float | None]) -> Mapping[str, int]:
        """k0 for each."""
        return dict.fromkeys(priors, self.min_rollouts)

    def judge(self, evidence: Evidence) -> Judgement:
        """Target from b2 = max(0, (mean - V)^2 - 1/k)."""
        assert evidence.prior is not None  # the machine checks `needs` once, when it is built
        b2 = bias_squared(evidence.prior, evidence.mean, evidence.num_scored)
        if b2 == 0:
            return Judgement(0, "accepted", b2)
        cost = self.cost * self._length_factor(evidence) if self._token_aware else self.cost
        target = target_rollouts(b2, cost, self.n_max, rounding=self._rounding)
        return Judgement(target, "cap" if evidence.num_scored >= self.n_max else "target_reached", b2)

    def _length_factor(self, evidence: Evidence) -> float:
        # Against earlier steps, never against this batch: a decision must not depend on the order of scoring.
        own = evidence.num_tokens / evidence.num_scored
        usual = self._length.value(default=own)
        if not own or not usual:
            return 1.0
        return min(max(own / usual, 1 / LENGTH_FACTOR), LENGTH_FACTOR)

    def observe(self, evidence: Sequence[Evidence]) -> None:
        """Learn the usual length (tokens per rollout), and steer the cost where a total is configured."""
        num_rollouts = sum(one.num_scored for one in evidence)
        num_tokens = sum(one.num_tokens for one in evidence)
        if num_rollouts:
            self._length.add(num_tokens / num_rollouts)
        if self._controller:
            self._controller.observe(len(evidence), num_rollouts, num_tokens)

    def metrics(self) -> Mapping[str, float]:
        """`v05/cost`: the c in force."""
        return {"v05/cost": self.cost}

    def state_dict(self) -> dict[str, Any]:
        """The steered cost (None where it is fixed) and the usual length."""
        return {"cost": self._controller.cost if self._controller else None, "length": self._length.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave; a fixed cost stays as it is set. Other keys in `state` raise `ValueError`."""
        check_state(f"budget rule {self.name!r}", state, {"cost", "length"})
        self._length.load_state_dict(state["length"])
        if self._controller and state["cost"] is not None:
            self._controller.cost = float(state["cost"])
