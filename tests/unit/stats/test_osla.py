import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v05ray.stats.osla import expected_error, marginal_return, risk, target_rollouts
from v05ray.stats.shrinkage import bias_squared

biases = st.floats(0, 4)
costs = st.floats(1e-4, 1)


def test_the_papers_target_at_hand_worked_biases() -> None:
    cost = 1 / 256  # K* = 16 - 1/b2
    assert target_rollouts(0, cost, 16) == 0
    assert target_rollouts(1, cost, 16) == 15
    assert target_rollouts(0.5, cost, 16) == 14
    assert target_rollouts(2, cost, 16) == 15  # 15.5
    assert target_rollouts(2, cost, 16, rounding="nearest") == 16
    assert target_rollouts(1 / 16, cost, 16) == 0
    assert target_rollouts(1e-9, cost, 16) == 0
    assert target_rollouts(1 / 15, cost, 16) == 1
    assert target_rollouts(1 / 15.4, cost, 16, rounding="nearest") == 1  # .6
    assert target_rollouts(1 / 15.4, cost, 16) == 0
    assert target_rollouts(1, cost, 8) == 8
    assert target_rollouts(1 / 49, 1e-4, 100) == 51  # 100 - 49, which is 50.99999999999999 in floating point


def test_risk_and_return_of_a_hand_worked_case() -> None:
    assert expected_error(1, 3) == 0.25
    assert marginal_return(1, 3) == pytest.approx(1 / 4 - 1 / 5)
    assert marginal_return(0.5, 2) == pytest.approx(0.5 / 2 - 0.5 / 2.5)
    assert risk(1, 3, 1 / 256) == 0.25 + 3 / 256


@pytest.mark.parametrize(("k", "threshold"), [(4, 0.577), (8, 0.500), (12, 0.577), (15, 1.03)])
def test_more_is_wanted_beyond_the_closed_form_threshold(k: int, threshold: float) -> None:
    # (mu - V)^2 > N / (k (N - k)) with N = 16
    assert math.sqrt(16 / (k * (16 - k))) == pytest.approx(threshold, abs=5e-3)

    def wants_more(distance: float) -> bool:
        # `floor` counts whole rollouts, so it wants one more from K* >= k + 1 on; the threshold is K* > k.
        b2 = bias_squared(0, distance, k)
        return b2 > 0 and 16 - 1 / b2 > k

    assert not wants_more(math.sqrt(16 / (k * (16 - k))) - 1e-6)
    assert wants_more(math.sqrt(16 / (k * (16 - k))) + 1e-6)


@given(biases, costs, st.integers(0, 200), st.sampled_from(["floor", "nearest"]))
def test_the_target_stays_within_its_bounds(b2: float, cost: float, n_max: int, rounding: str) -> None:
    target = target_rollouts(b2, cost, n_max, rounding="nearest" if rounding == "nearest" else "floor")
    assert 0 <= target <= n_max
    assert target <= 1 / math.sqrt(cost) + 0.5


@given(biases, biases, costs)
def test_the_target_grows_with_the_bias_and_falls_with_the_cost(b2: float, other: float, cost: float) -> None:
    low, high = sorted((b2, other))
    assert target_rollouts(low, cost, 10**6) <= target_rollouts(high, cost, 10**6)
    assert target_rollouts(b2, cost * 2, 10**6) <= target_rollouts(b2, cost, 10**6)


@given(st.floats(0.05, 4), st.floats(1e-3, 0.2))
def test_floor_draws_while_the_envelope_exceeds_the_cost(b2: float, cost: float) -> None:
    target = target_rollouts(b2, cost, 10**6)

    def envelope(k: int) -> float:  # Eq. 37
        return b2 * b2 / (1 + (k + 1) * b2) ** 2

    assert envelope(target) <= cost * (1 + 1e-6)
    if target:
        assert envelope(target - 1) >= cost * (1 - 1e-6)


@given(st.floats(0.05, 4), st.floats(1e-3, 0.2))
def test_nearest_is_the_discrete_minimum_up_to_a_tenth_of_the_cost(b2: float, cost: float) -> None:
    target = target_rollouts(b2, cost, 10**6, rounding="nearest")
    least = min(risk(b2, k, cost) for k in range(120))
    assert risk(b2, target, cost) <= least + 0.1 * cost


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="cost must be finite and > 0, got 0"):
        target_rollouts(1, 0, 16)
    with pytest.raises(ValueError, match="cost must be finite and > 0, got inf"):
        target_rollouts(1, math.inf, 16)
    with pytest.raises(ValueError, match="bias_squared must be >= 0, got -1"):
        target_rollouts(-1, 1, 16)
