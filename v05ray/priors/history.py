"""A prompt's own past: discounted successes and failures that join the value model's answer when it comes again.

    a <- d a + k p,  b <- d b + k (1 - p)       at each visit: d discount, p the mean success of k rollouts
    p' = (n p_V0 + d a) / (n + d a + d b)       n strength

so a prompt never seen keeps V0's answer. The counts are `stats.history`'s. Standard library alone.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from v05ray.stats.history import BetaCounts
from v05ray.types import Prior


class PromptHistory:
    """Discounted Beta counts by prompt id."""

    def __init__(self, *, discount: float = 0.7, strength: float = 8.0) -> None:
        """0 <= discount <= 1: what a visit's evidence is worth at the next one; strength > 0, in rollouts."""
        if not 0 <= discount <= 1:
            raise ValueError(f"discount must lie in [0, 1], got {discount}")
        if strength <= 0:
            raise ValueError(f"strength must be positive, got {strength}")
        self._discount, self._strength = discount, strength
        self._counts = BetaCounts(discount=discount, initial=(0.0, 0.0))

    def observe(self, prompt_id: str, mean: float, num_rollouts: int) -> None:
        """Takes in one visit: mean reward in [-1, 1] of `num_rollouts` >= 1 rollouts; raises `ValueError` outside."""
        if not -1 <= mean <= 1:
            raise ValueError(f"mean reward of {prompt_id!r} must lie in [-1, 1], got {mean}")
        if num_rollouts < 1:
            raise ValueError(f"a visit of {prompt_id!r} needs at least one rollout, got {num_rollouts}")
        self._counts.add_successes(prompt_id, num_rollouts * (mean + 1) / 2, num_rollouts)

    def transform(self, prior: Prior) -> Prior:
        """The prior with the prompt's history; unchanged for a prompt never seen."""
        if prior.prompt_id not in self._counts:
            return prior
        successes, failures = (self._discount * count for count in self._counts.counts(prior.prompt_id))
        rate = (self._strength * (prior.value + 1) / 2 + successes) / (self._strength + successes + failures)
        return replace(prior, value=2 * rate - 1)

    def state_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return self._counts.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` returned."""
        self._counts.load_state_dict(state)
