"""The support buffer: how well recent policies did on recent prompts, for the value model to be conditioned on."""

import random
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from v05ray.stats.state import check_state
from v05ray.types import SupportExample

_SUMS = ("total", "weight")


class SupportBuffer:
    """The `capacity` most recent (prompt, score) pairs, one per prompt.

    A prompt seen again replaces its earlier pair and counts as the most recent: two scores of one prompt would teach
    the value model that equal texts have unequal values.
    """

    def __init__(self, capacity: int = 512) -> None:
        """`capacity` >= 1 pairs."""
        if capacity < 1:
            raise ValueError(f"capacity must be >= 1, got {capacity}")
        self.capacity = capacity
        self._examples: dict[str, SupportExample] = {}  # oldest first

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

    def sample(self, size: int, rng: random.Random) -> list[SupportExample]:
        """`size` different pairs in random order, or all there are."""
        return rng.sample(list(self._examples.values()), min(size, len(self._examples)))

    def state_dict(self) -> dict[str, Any]:
        """JSON-able: the pairs, oldest first."""
        return {"examples": [asdict(example) for example in self._examples.values()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave; the most recent `capacity` pairs are kept. Anything else raises `ValueError`."""
        # Checkpoints of earlier versions also have the sums of a base rate that nothing read.
        check_state("support buffer", {key: state[key] for key in state if key not in _SUMS}, {"examples"})
        examples = [SupportExample(**example) for example in state["examples"]][-self.capacity :]
        self._examples = {example.prompt_id: example for example in examples}
