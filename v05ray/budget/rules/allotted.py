"""Rules that share a fixed total out before the first rollout: knapsack, v0_allocation, vip.

Each has a worth(p, n) of n rollouts at success probability p, a total of mean_rollouts times the prompts, and bounds
for each prompt.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from v05ray.budget.allot import allot
from v05ray.budget.base import Evidence, Judgement, Rule, rule
from v05ray.stats.history import BetaCounts
from v05ray.stats.state import check_state


class _Allotted(Rule, Protocol):
    min_rollouts: int
    n_max: int
    _mean_rollouts: float

    def __init__(self, mean_rollouts: float = 8, n_min: int = 2, n_max: int = 32) -> None:
        if not (1 <= n_min <= n_max and n_min <= mean_rollouts <= n_max):
            raise ValueError(
                f"needs 1 <= n_min <= mean_rollouts <= n_max, got n_min={n_min}, mean_rollouts={mean_rollouts}, "
                f"n_max={n_max}"
            )
        self._mean_rollouts = mean_rollouts
        self.min_rollouts, self.n_max = n_min, n_max

    def worth(self, p: float, n: int) -> float:
        """The worth of `n` >= min_rollouts rollouts at success probability `p` in [0, 1], in any unit."""
        ...

    def probability(self, prompt_id: str, prior: float | None) -> float:
        """p in [0, 1], as far as it is known; (1 + V) / 2 by default, `prior` V in [-1, 1]."""
        assert prior is not None  # the machine checks `needs`
        return (1 + prior) / 2

    def plan(self, priors: Mapping[str, float | None]) -> Mapping[str, int]:
        """The whole allotment."""
        counts = range(self.min_rollouts, self.n_max + 1)
        worth = []
        for prompt_id, prior in priors.items():
            p = self.probability(prompt_id, prior)
            worth.append([self.worth(p, n) for n in counts])
        spare = int(self._mean_rollouts * len(priors)) - self.min_rollouts * len(priors)
        return {i: self.min_rollouts + extra for i, extra in zip(priors, allot(worth, spare), strict=True)}

    def judge(self, evidence: Evidence) -> Judgement:
        """The allotment: what was lost on the way is drawn again, and nothing else."""
        return Judgement(evidence.num_cold_start, "fixed")


@rule("v0_allocation")
class V0AllocationRule(_Allotted):
    """V0's own utility, n (1-p) [1 - (1-p)^(n-1)], with V0's p (arXiv 2602.03584).

    >>> V0AllocationRule(mean_rollouts=4, n_min=2, n_max=6).plan({"hard": -0.5, "solved": 1.0})
    {'hard': 6, 'solved': 2}
    """

    needs = frozenset({"prior"})

    def worth(self, p: float, n: int) -> float:
        """The utility >= 0 of `n` >= 1 rollouts at success probability `p` in [0, 1]."""
        return n * (1 - p) * (1 - (1 - p) ** (n - 1))


@rule("vip")
class VipRule(_Allotted):
    """Least total variance sum p(1-p) / (n-1), with V0's p (arXiv 2602.01601); n_min >= 2.

    >>> VipRule(mean_rollouts=4, n_min=2, n_max=6).plan({"even": 0.0, "solved": 1.0})
    {'even': 6, 'solved': 2}
    """

    needs = frozenset({"prior"})

    def __init__(self, mean_rollouts: float = 8, n_min: int = 2, n_max: int = 32) -> None:
        """`mean_rollouts` in [n_min, n_max], `n_min` >= 2; else `ValueError`."""
        if n_min < 2:
            raise ValueError(f"vip divides by n - 1, so n_min must be >= 2, got {n_min}")
        super().__init__(mean_rollouts, n_min, n_max)

    def worth(self, p: float, n: int) -> float:
        """The negative variance <= 0 of `n` >= 2 rollouts at `p` in [0, 1]; concave in n, so greedy steps are exact."""
        return -p * (1 - p) / (n - 1)


@rule("knapsack")
class KnapsackRule(_Allotted):
    """Most sum [1 - p^n - (1-p)^n] p (1-p)^2: the chance of a mixed group times its gain (arXiv 2509.25849).

    p is each prompt's discounted success rate over earlier steps; before that, its prior's, and without one 1/2.

    >>> KnapsackRule(mean_rollouts=4, n_min=2, n_max=6).plan({"hard": -0.5, "solved": 1.0})
    {'hard': 6, 'solved': 2}
    """

    _history: BetaCounts

    def __init__(
        self,
        mean_rollouts: float = 8,
        n_min: int = 2,
        n_max: int = 32,
        *,
        discount: float = 0.5,
        capacity: int = 1_000_000,
    ) -> None:
        """`mean_rollouts` in [n_min, n_max]; `discount` in (0, 1] per visit and `capacity` >= 1 of the history.

        Raises `ValueError` for a value out of range.
        """
        super().__init__(mean_rollouts, n_min, n_max)
        if not discount > 0:
            raise ValueError(f"discount must be > 0, got {discount}")
        self._history = BetaCounts(discount=discount, capacity=capacity)

    def worth(self, p: float, n: int) -> float:
        """The chance of a mixed group times its gain, in [0, 4/27], of `n` >= 1 rollouts at `p` in [0, 1]."""
        return (1 - p**n - (1 - p) ** n) * p * (1 - p) ** 2

    def probability(self, prompt_id: str, prior: float | None) -> float:
        """p in [0, 1]: the history's, else the prior's, else 1/2."""
        if prompt_id in self._history or prior is None:
            return self._history.mean(prompt_id)
        return (1 + prior) / 2

    def observe(self, evidence: Sequence[Evidence]) -> None:
        """Remember the success rate of every prompt."""
        for one in evidence:
            if one.num_scored:
                self._history.add(one.prompt_id, one.mean * one.num_scored, one.num_scored)

    def state_dict(self) -> dict[str, Any]:
        """The history."""
        return {"history": self._history.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave; other keys in `state` raise `ValueError`."""
        check_state(f"budget rule {self.name!r}", state, {"history"})
        self._history.load_state_dict(state["history"])
