"""A pilot for every prompt, then the rest of a fixed total where one more success is likeliest (arXiv 2605.07114)."""

from collections.abc import Mapping, Sequence

from v05ray.budget.allot import allot
from v05ray.budget.base import Evidence, Judgement, Rule, rule


@rule("hora")
class HoraRule(Rule):
    """Greedy on P(at least one success in n more) = 1 - prod_{j<n} (b+j) / (a+b+j), a = 1 + good, b = 1 + bad.

    The counts are the pilot's, with a uniform prior; the extra rollouts of all prompts share one total, so it works in
    the mode `rounds` only. A reward above 0 is a success.

    >>> hora = HoraRule(pilot=1, mean_rollouts=2, n_max=4)
    >>> solved, failed = Evidence("solved", None, 1), Evidence("failed", None, 1)
    >>> solved.add(1.0)
    >>> failed.add(-1.0)
    >>> [judgement.target for judgement in hora.judge_all([solved, failed])]  # gains 2/3, 1/6 against 1/3, 1/6
    [2, 2]
    """

    scope = "batch"

    def __init__(self, pilot: int = 4, mean_rollouts: float = 8, n_max: int = 32) -> None:
        """`pilot` >= 1 each; `mean_rollouts` per prompt in [pilot, n_max], pilot included. Else `ValueError`."""
        if not 1 <= pilot <= mean_rollouts <= n_max:
            raise ValueError(
                f"needs 1 <= pilot <= mean_rollouts <= n_max, got pilot={pilot}, mean_rollouts={mean_rollouts}, "
                f"n_max={n_max}"
            )
        self.min_rollouts, self.n_max = pilot, n_max
        self._mean_rollouts = mean_rollouts

    def plan(self, priors: Mapping[str, float | None]) -> Mapping[str, int]:
        """The pilot."""
        return dict.fromkeys(priors, self.min_rollouts)

    def judge(self, evidence: Evidence) -> Judgement:
        """A batch of one."""
        return self.judge_all([evidence])[0]

    def judge_all(self, evidence: Sequence[Evidence]) -> list[Judgement]:
        """After the pilot, share the rest out; a prompt that has more than its pilot has had its share."""
        waiting = [one for one in evidence if one.num_scored <= self.min_rollouts]
        spare = int(self._mean_rollouts * len(waiting)) - sum(max(e.num_scored, self.min_rollouts) for e in waiting)
        extra = allot([self._worth(one) for one in waiting], spare)
        targets = {one.prompt_id: self.min_rollouts + more for one, more in zip(waiting, extra, strict=True)}
        return [Judgement(targets.get(one.prompt_id, one.num_scored), "target_reached") for one in evidence]

    def _worth(self, evidence: Evidence) -> list[float]:
        good, bad = 1 + evidence.num_positive, 1 + evidence.num_scored - evidence.num_positive
        none_yet = 1.0
        worth = [0.0]
        for j in range(self.n_max - self.min_rollouts):
            none_yet *= (bad + j) / (good + bad + j)
            worth.append(1 - none_yet)
        return worth
