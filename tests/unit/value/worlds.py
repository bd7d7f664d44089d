"""A made-up world in which longer numbers are harder, each policy has its own level, and one may be turned around."""

import numpy as np

from tests.unit.value.fakes import HashEncoder
from v05ray.value.encoded import EncodedRecords, encode_records
from v05ray.value.records import Policy, ValueRecord


def question(rng: np.random.Generator, digits: int) -> str:
    low = 10 ** (digits - 1)
    return f"What is {rng.integers(low, 10 * low)} + {rng.integers(low, 10 * low)}?"


def world(
    num_prompts: int = 120, levels: tuple[float, ...] = (-0.5, 0.5), *, seed: int = 0, slope: float = 1.5
) -> EncodedRecords:
    """Every policy scored on every prompt by ten rollouts; margin = level - slope (digits - 3)."""
    rng = np.random.default_rng(seed)
    texts: dict[str, int] = {}
    while len(texts) < num_prompts:
        digits = int(rng.integers(1, 6))
        texts[question(rng, digits)] = digits
    records = []
    for index, level in enumerate(levels):
        for text, digits in texts.items():
            rate = 1 / (1 + np.exp(-(level - slope * (digits - 3))))
            records.append(ValueRecord(text, 2 * rng.binomial(10, rate) / 10 - 1, Policy("world", "m", index)))
    return encode_records(records, HashEncoder())
