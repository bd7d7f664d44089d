"""The support buffer: how well recent policies did on recent prompts, for the value model to be conditioned on."""

import random
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from v05ray.types import SupportExample


class SupportBuffer:
    """The `capacity` most recent (prompt, score) pairs, one per prompt.

    A prompt seen again replaces its earlier pair and counts as the most recent: two scores of one prompt would tell
    the value model that equal texts have unequal values. The base rate runs over all pairs ever added.
    """

    def __init__(self, capacity: int = 512, *, base_rate_decay: float = 0.999) -> None:
        """`base_rate_decay` in (0, 1]: .999 remembers some 1,000 prompts, so that the base rate follows the policy."""
        if capacity < 1:
            raise ValueError(f"capacity must be >= 1, got {capacity}")
        if not 0 < base_rate_decay <= 1:
            raise ValueError(f"base_rate_decay must be in (0, 1], got {base_rate_decay}")
        self.capacity = capacity
        self._decay = base_rate_decay
        self._examples: dict[str, SupportExample] = {}  # oldest first
        self._total = 0.0
        self._weight = 0.0

    def __len__(self) -> int:
        return len(self._examples)

    def add(self, example: SupportExample) -> None:
        """Take one pair, score in [-1, 1]; the oldest one leaves a full buffer."""
        if not -1 <= example.score <= 1:
            raise ValueError(f"the score of {example.prompt_id!r} must be in [-1, 1], got {example.score}")
        self._examples.pop(example.prompt_id, None)
        self._examples[example.prompt_id] = example
        if len(self._examples) > self.capacity:
            del self._examples[next(iter(self._examples))]
        self._total = self._decay * self._total + example.score
        self._weight = self._decay * self._weight + 1

    def sample(self, size: int, rng: random.Random) -> list[SupportExample]:
        """`size` different pairs in random order, or all there are."""
        return rng.sample(list(self._examples.values()), min(size, len(self._examples)))

    def base_rate(self) -> float:
        """Running mean score in [-1, 1], Laplace-smoothed: sum / (n + 2), so 0 before the first pair.

        For +-1 scores this is 2 (s + 1) / (n + 2) - 1, the rule of succession on the [-1, 1] scale.
        """
        return self._total / (self._weight + 2)

    def state_dict(self) -> dict[str, Any]:
        """JSON-able: the pairs, oldest first, and the base rate's sums."""
        return {
            "examples": [asdict(example) for example in self._examples.values()],
            "total": self._total,
            "weight": self._weight,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave; the most recent `capacity` pairs are kept. Anything else raises `ValueError`."""
        if set(state) != {"examples", "total", "weight"}:
            raise ValueError(f"a support buffer's state is examples, total and weight, got {sorted(state)}")
        examples = [SupportExample(**example) for example in state["examples"]][-self.capacity :]
        self._examples = {example.prompt_id: example for example in examples}
        self._total = float(state["total"])
        self._weight = float(state["weight"])
