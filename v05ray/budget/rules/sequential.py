"""Rules that draw in instalments until a prompt has shown enough: dapo, reinforce_ada, pilot_commit."""

from collections.abc import Mapping
from typing import Literal

from v05ray.budget.base import Evidence, Judgement, Rule, rule


def _check_instalments(n: int, n_max: int) -> None:
    if not 1 <= n <= n_max:
        raise ValueError(f"needs 1 <= n <= n_max, got n={n}, n_max={n_max}")


def _judge(evidence: Evidence, n: int, n_max: int, enough: bool) -> Judgement:
    """Stop where it is enough, else fill up to the next whole instalment of n."""
    if evidence.num_scored >= n and enough:
        return Judgement(evidence.num_scored, "target_reached")
    return Judgement(min(n_max, (evidence.num_scored // n + 1) * n), "cap")


@rule("dapo")
class DapoRule(Rule):
    """n rollouts at a time until the group is mixed, n_max at most (after arXiv 2503.14476).

    DAPO throws groups of equal rewards away and samples other prompts instead; staying with the prompt buys the same
    thing, groups that teach, and keeps the batch's prompts. A group still equal at the cap has no advantage.

    >>> evidence = Evidence("p", None, num_cold_start=2)
    >>> evidence.add(1.0)
    >>> evidence.add(1.0)
    >>> DapoRule(n=2, n_max=6).judge(evidence).target  # equal so far: another instalment
    4
    """

    def __init__(self, n: int = 16, n_max: int = 64) -> None:
        """`n` in [1, n_max] per instalment, else `ValueError`; DAPO's own group is 16."""
        _check_instalments(n, n_max)
        self.min_rollouts, self.n_max = n, n_max

    def plan(self, priors: Mapping[str, float | None]) -> Mapping[str, int]:
        """The first instalment."""
        return dict.fromkeys(priors, self.min_rollouts)

    def judge(self, evidence: Evidence) -> Judgement:
        """Enough once two rewards differ."""
        return _judge(evidence, self.min_rollouts, self.n_max, evidence.lowest < evidence.highest)


@rule("reinforce_ada")
class ReinforceAdaRule(Rule):
    """n rollouts per round until one success, or n/2 of each sign (arXiv 2510.04996).

    All that was drawn is kept; Reinforce-Ada then samples n of it.

    >>> evidence = Evidence("p", None, num_cold_start=2)
    >>> evidence.add(1.0)
    >>> evidence.add(1.0)
    >>> ReinforceAdaRule(n=2, n_max=6).judge(evidence).target  # one failure is missing
    4
    >>> ReinforceAdaRule(n=2, n_max=6, until="success").judge(evidence).target
    2
    """

    def __init__(self, n: int = 8, n_max: int = 32, *, until: Literal["success", "balance"] = "balance") -> None:
        """`n` in [1, n_max] per round; `until`: one success, or n/2 (rounded up) successes and as many failures.

        Raises `ValueError` for another value.
        """
        _check_instalments(n, n_max)
        if until not in ("success", "balance"):
            raise ValueError(f"until must be 'success' or 'balance', got {until!r}")
        self.min_rollouts, self.n_max = n, n_max
        self._until = until

    def plan(self, priors: Mapping[str, float | None]) -> Mapping[str, int]:
        """The first round."""
        return dict.fromkeys(priors, self.min_rollouts)

    def judge(self, evidence: Evidence) -> Judgement:
        """Enough once `until` holds; a reward above 0 is a success."""
        good, bad = evidence.num_positive, evidence.num_scored - evidence.num_positive
        enough = good >= 1 if self._until == "success" else 2 * min(good, bad) >= self.min_rollouts
        return _judge(evidence, self.min_rollouts, self.n_max, enough)


@rule("pilot_commit")
class PilotCommitRule(Rule):
    """A pilot, then a commitment where the success rate promises signal: low <= p <= high (arXiv 2605.26606).

    >>> evidence = Evidence("p", None, num_cold_start=2)
    >>> evidence.add(1.0)
    >>> evidence.add(-1.0)
    >>> PilotCommitRule(pilot=2, commit=6).judge(evidence).target  # p = 1/2
    8
    """

    def __init__(self, pilot: int = 16, commit: int = 48, *, low: float = 0.125, high: float = 0.75) -> None:
        """`pilot` >= 1, `commit` >= 0; `low` <= `high` are rates in [0, 1] (for graded rewards p = (1 + mean) / 2).

        Raises `ValueError` for a value out of range.
        """
        if pilot < 1 or commit < 0 or not 0 <= low <= high <= 1:
            raise ValueError(
                f"needs pilot >= 1, commit >= 0, 0 <= low <= high <= 1; got {pilot}, {commit}, {low}, {high}"
            )
        self.min_rollouts, self.n_max = pilot, pilot + commit
        self._low, self._high = low, high

    def plan(self, priors: Mapping[str, float | None]) -> Mapping[str, int]:
        """The pilot."""
        return dict.fromkeys(priors, self.min_rollouts)

    def judge(self, evidence: Evidence) -> Judgement:
        """All of the commitment, or nothing of it."""
        if evidence.num_scored < self.min_rollouts:
            return Judgement(self.min_rollouts, "target_reached")
        if evidence.num_scored >= self.n_max:
            return Judgement(self.n_max, "cap")
        promising = self._low <= (1 + evidence.mean) / 2 <= self._high
        return Judgement(self.n_max if promising else self.min_rollouts, "target_reached")
