"""A value backend: a question will go as those of its length went.

value: {backend: {name: python, path: "like_lengths:LikeLengths", options: {neighbours: 16}}}
"""

from v05ray.value.model import Backend


class LikeLengths(Backend):
    """p = Laplace's rate over the support questions nearest in length."""

    def __init__(self, neighbours: int = 16):
        """`neighbours` >= 1."""
        if neighbours < 1:
            raise ValueError(f"neighbours must be >= 1, got {neighbours}")
        self._neighbours = neighbours

    def probabilities(self, queries, support, labels, key):
        """One p in (0, 1) per query; `labels` are the success rates in [0, 1] of the `support` questions."""
        return [self._probability(len(query), support, labels) for query in queries]

    def _probability(self, length, support, labels):
        nearest = sorted(zip(support, labels, strict=True), key=lambda pair: abs(len(pair[0]) - length))
        rates = [label for _, label in nearest[: self._neighbours]]
        return (sum(rates) + 1) / (len(rates) + 2)
