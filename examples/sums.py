"""A data source: sums of two numbers, made on the spot.

data: {train: {name: python, path: "sums:sums", options: {size: 60, largest: 9}}}
"""

from random import Random

from v05ray.data.rows import Row
from v05ray.data.sources import Source

ASK = "State the final answer to the following arithmetic problem:"


def sums(size: int, seed: int, largest: int = 9) -> Source:
    """`size` distinct questions, a and b in [0, `largest`]; `seed` is the run's where none is given."""
    pairs = [(a, b) for a in range(largest + 1) for b in range(largest + 1)]
    if not 1 <= size <= len(pairs):
        raise ValueError(f"size must lie in [1, {len(pairs)}] for largest={largest}, got {size}")
    rows = (
        Row(messages=(("user", f"{ASK} {a} + {b} ="),), answer=str(a + b), source="sums", where=f"sums {a}+{b}")
        for a, b in Random(seed).sample(pairs, size)
    )
    return Source(rows, "sums", size)
