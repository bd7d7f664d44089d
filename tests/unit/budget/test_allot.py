"""Shares of a fixed total: as brute force where worth is concave, worked by hand where it is not."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v05ray.budget.allot import allot


def test_a_piece_is_one_step_where_its_later_rollouts_are_worth_more() -> None:
    # a: 1, then 2 more: one piece of 1.5 a rollout, above b's 1.2.
    assert allot([[0, 1, 3], [0, 1.2, 1.2]], 2) == [2, 0]
    # a: 0, 3, then 2 more: one piece of 5/3 a rollout, above b's 1.6.
    assert allot([[0, 0, 3, 5], [0, 1.6, 1.6]], 3) == [3, 0]


def test_pieces_go_by_their_worth_a_rollout_and_not_by_their_worth() -> None:
    assert allot([[0, 0, 3], [0, 2, 4]], 2) == [0, 2]  # 3 for two, or 2 and 2


def test_what_is_left_over_goes_into_a_piece_that_does_not_fit() -> None:
    # a's piece takes four; three are there, of which b has room for one.
    assert allot([[0, 0, 0, 0, 9], [0, 1]], 3) == [2, 1]


def test_equals_share_evenly_and_room_is_kept_to() -> None:
    assert allot([[0, 0, 0]] * 3, 4) == [2, 1, 1]
    assert allot([[0, 1], [0, 1]], 9) == [1, 1]
    assert allot([[0, 5, 6], [0, 4, 7]], 2) == [1, 1]


def test_a_convex_start_is_crossed_whole() -> None:
    # One alone is worth nothing, three are worth 9: its first step is poor, its piece is not.
    assert allot([[0, 0, 0, 9], [0, 2, 3, 3.5]], 3) == [3, 0]
    assert allot([[0, 0, 0, 9], [0, 2, 3, 3.5]], 2) == [0, 2]


@settings(max_examples=60)
@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=4), st.integers(0, 12))
def test_concave_worth_is_shared_as_brute_force_would(gains: list[list[float]], total: int) -> None:
    worth = [[sum(sorted(g, reverse=True)[:j]) for j in range(4)] for g in gains]
    shares = allot(worth, total)
    assert sum(shares) == min(total, 3 * len(worth))
    best = max(
        sum(w[j] for w, j in zip(worth, split, strict=True))
        for split in product(range(4), repeat=len(worth))
        if sum(split) == sum(shares)
    )
    assert sum(w[j] for w, j in zip(worth, shares, strict=True)) == pytest.approx(best)


def test_a_negative_total_is_refused() -> None:
    with pytest.raises(ValueError, match="total must be >= 0, got -1"):
        allot([[0]], -1)
