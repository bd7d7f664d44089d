"""A budget rule: a few rollouts, then one at a time until one is right.

budget: {rule: {name: python, path: "until_success:UntilSuccess", options: {n: 2, n_max: 8}}}
"""

from v05ray.budget import Judgement, Rule


class UntilSuccess(Rule):
    """Stops a prompt at its first success, or at n_max rollouts."""

    def __init__(self, n: int = 2, n_max: int = 8):
        """1 <= `n` <= `n_max`: rollouts drawn before any is judged, and in all."""
        if not 1 <= n <= n_max:
            raise ValueError(f"needs 1 <= n <= n_max, got n={n}, n_max={n_max}")
        self.min_rollouts, self.n_max = n, n_max

    def plan(self, priors):
        """The first n for every prompt."""
        return dict.fromkeys(priors, self.min_rollouts)

    def judge(self, evidence):
        """Enough once a reward is above 0; else one more. A target that is reached means: stop."""
        if evidence.num_positive > 0:
            return Judgement(evidence.num_scored, "target_reached")
        return Judgement(min(self.n_max, evidence.num_scored + 1), "cap")
