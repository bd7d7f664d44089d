"""The same number of rollouts for every prompt."""

from collections.abc import Mapping

from v05ray.budget.base import Evidence, Judgement, Rule, rule


@rule("fixed")
class FixedRule(Rule):
    """n rollouts per prompt, drawn at once: GRPO's (arXiv 2402.03300), RLOO's and most of the field's.

    >>> FixedRule(n=8).plan({"a": None, "b": 0.5})
    {'a': 8, 'b': 8}
    """

    def __init__(self, n: int) -> None:
        """`n` >= 1; else `ValueError`."""
        if n < 1:
            raise ValueError(f"n must be >= 1, got {n}")
        self.min_rollouts = self.n_max = n

    def plan(self, priors: Mapping[str, float | None]) -> Mapping[str, int]:
        """n for each."""
        return dict.fromkeys(priors, self.n_max)

    def judge(self, evidence: Evidence) -> Judgement:
        """Stop with reason `fixed`; what was lost on the way is drawn again."""
        return Judgement(self.n_max, "fixed")
