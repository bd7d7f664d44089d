"""How per-token losses become one number, split so that a batch can arrive in pieces.

Every rule has the form (sum over tokens of weight * loss) / normaliser. The weight is known per sequence, the
normaliser only when the whole batch is; so gradients can be added up unnormalised while sequences still arrive, and
divided once.

| word | loss | source |
|---|---|---|
| token_mean | sum_i sum_t l_it / sum_i T_i | DAPO (2503.14476): every token counts the same |
| sequence_mean | (1/n) sum_i (1/T_i) sum_t l_it | GRPO (2402.03300): every sequence counts the same |
| constant_length | (1/n) sum_i (1/L) sum_t l_it, L the longest response | Dr. GRPO (2503.20783): no length bias |
"""

from dataclasses import dataclass

from v05ray.recipes import Aggregation


def token_weight(aggregation: Aggregation, response_length: int) -> float:
    """Weight in (0, 1] of each token loss of a sequence with `response_length` >= 1 sampled tokens; else `ValueError`.

    >>> token_weight("sequence_mean", 4), token_weight("token_mean", 4)
    (0.25, 1.0)
    """
    if response_length < 1:
        raise ValueError(f"a response needs >= 1 tokens, got {response_length}")
    return 1.0 / response_length if aggregation == "sequence_mean" else 1.0


@dataclass(frozen=True, slots=True)
class BatchSize:
    """What normalisers depend on; sizes of the parts of a batch add up.

    >>> BatchSize(num_tokens=12, num_sequences=2) + BatchSize(num_tokens=8, num_sequences=1)
    BatchSize(num_tokens=20, num_sequences=3)
    """

    num_tokens: int = 0
    """Sampled tokens, those of zero-advantage sequences included."""
    num_sequences: int = 0

    def __add__(self, other: "BatchSize") -> "BatchSize":
        return BatchSize(self.num_tokens + other.num_tokens, self.num_sequences + other.num_sequences)


def normaliser(aggregation: Aggregation, size: BatchSize, max_response_tokens: int) -> float:
    """What the weighted sum over the whole batch (all ranks, all pieces) is divided by; > 0.

    `max_response_tokens` >= 1 is L of constant_length and unused otherwise.

    Raises:
        ValueError: for an empty batch, or L below 1 where it is used.

    >>> size = BatchSize(num_tokens=20, num_sequences=3)
    >>> normaliser("token_mean", size, 16), normaliser("constant_length", size, 16)
    (20.0, 48.0)
    """
    if size.num_tokens < 1 or size.num_sequences < 1:
        raise ValueError(f"an empty batch has no mean: {size}")
    if aggregation == "token_mean":
        return float(size.num_tokens)
    if aggregation == "sequence_mean":
        return float(size.num_sequences)
    if max_response_tokens < 1:
        raise ValueError(f"constant_length needs max_response_tokens >= 1, got {max_response_tokens}")
    return float(size.num_sequences * max_response_tokens)
