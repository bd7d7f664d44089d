import pytest
from hypothesis import given
from hypothesis import strategies as st

from v05ray.losses.aggregation import Aggregation, BatchSize, normaliser, token_weight

# Two sequences with token losses [1, 1, 1, 1] and [4]: 8 over 5 tokens; means 1 and 4; 8 over 2 sequences of at most 8.
SEQUENCES = ([1.0, 1.0, 1.0, 1.0], [4.0])


@pytest.mark.parametrize(
    ("aggregation", "expected"), [("token_mean", 1.6), ("sequence_mean", 2.5), ("constant_length", 0.5)]
)
def test_aggregation_by_hand(aggregation: Aggregation, expected: float) -> None:
    total = sum(token_weight(aggregation, len(losses)) * sum(losses) for losses in SEQUENCES)
    size = BatchSize(num_tokens=4, num_sequences=1) + BatchSize(num_tokens=1, num_sequences=1)
    assert total / normaliser(aggregation, size, max_response_tokens=8) == pytest.approx(expected)


@given(
    st.sampled_from(["token_mean", "sequence_mean"]),
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.floats(-5, 5),
)
def test_law_a_constant_loss_is_its_own_mean(aggregation: Aggregation, lengths: list[int], loss: float) -> None:
    total = sum(token_weight(aggregation, length) * length * loss for length in lengths)
    assert total / normaliser(aggregation, BatchSize(sum(lengths), len(lengths)), 0) == pytest.approx(loss)


def test_sizes_that_have_no_mean_are_refused() -> None:
    with pytest.raises(ValueError, match="empty batch"):
        normaliser("token_mean", BatchSize(), 8)
    with pytest.raises(ValueError, match="max_response_tokens"):
        normaliser("constant_length", BatchSize(5, 2), 0)
    with pytest.raises(ValueError, match="1 token"):
        token_weight("token_mean", 0)


# Mini-batches of groups of 3 and 1 sequences and of 2, with token losses as follows; L = 4.
MINI_BATCHES = (
    ((1.0, 1.0), (2.0,), (3.0, 0.0, 0.0), (6.0, 6.0)),  # 19 over 8 tokens; means 1, 2, 1, 6; 19 over 4 sequences of 4
    ((2.0, 2.0, 2.0, 2.0), (5.0,)),  # 13 over 5 tokens; means 2, 5; 13 over 2 sequences of 4
)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token_mean", (19 / 8, 13 / 5)),
        ("sequence_mean", (10 / 4, 7 / 2)),
        ("constant_length", (19 / 16, 13 / 8)),
    ],
)
def test_each_update_takes_the_mean_over_its_own_mini_batch_by_hand(
    aggregation: Aggregation, expected: tuple[float, float]
) -> None:
    found = []
    for sequences in MINI_BATCHES:
        total = sum(token_weight(aggregation, len(losses)) * sum(losses) for losses in sequences)
        size = BatchSize(sum(map(len, sequences)), len(sequences))
        found.append(total / normaliser(aggregation, size, max_response_tokens=4))
    assert found == pytest.approx(expected)
