import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from v05ray.value.scores import (
    Split,
    all_metrics,
    auc,
    bootstrap,
    calibration_error,
    grouped_auc,
    log_losses,
    reliability,
)


def test_auc_worked_by_hand():
    y = np.array([1.0, 0.0, 1.0, 0.0])
    assert auc(np.array([0.9, 0.1, 0.8, 0.2]), y) == 1.0
    # Pairs (.9, .8), (.9, .9 tie), (.2, .8), (.2, .9): 1 + .5 + 0 + 0 of 4.
    assert auc(np.array([0.9, 0.8, 0.2, 0.9]), y) == 0.375
    assert auc(np.full(4, 0.3), y) == 0.5
    assert math.isnan(auc(np.array([0.1, 0.2]), np.array([1.0, 1.0])))


def test_a_score_of_zero_counts_as_solved():
    assert auc(np.array([0.9, 0.1]), np.array([0.5, 0.4])) == 1.0


@given(arrays(float, 12, elements=st.floats(0, 1)), arrays(float, 12, elements=st.sampled_from([0.0, 0.3, 0.5, 1.0])))
def test_auc_equals_the_count_over_all_pairs(p, y):
    solved, unsolved = p[y >= 0.5], p[y < 0.5]
    if len(solved) and len(unsolved):
        wins = sum((a > b) + 0.5 * (a == b) for a in solved for b in unsolved)
        assert auc(p, y) == pytest.approx(wins / (len(solved) * len(unsolved)))


def test_grouped_auc_weighs_by_size_and_skips_groups_of_one_class():
    p = np.array([0.9, 0.1, 0.2, 0.8, 0.5, 0.6])
    y = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    group = np.array([0, 0, 1, 1, 2, 2])
    assert grouped_auc(p, y, group) == 0.5


def test_losses_worked_by_hand():
    metrics = all_metrics(np.array([0.5, 0.75]), np.array([1.0, 0.5]), np.array([0, 0]))
    assert metrics["log_loss"] == pytest.approx((math.log(2) - 0.5 * math.log(0.75) - 0.5 * math.log(0.25)) / 2)
    assert metrics["brier"] == pytest.approx((0.25 + 0.0625) / 2)
    assert metrics["mse_v"] == pytest.approx(4 * metrics["brier"])
    assert np.isfinite(log_losses(np.array([0.0, 1.0]), np.array([1.0, 0.0]))).all()


def test_reliability_and_calibration_error_worked_by_hand():
    p, y = np.array([0.05, 0.15, 0.15, 1.0]), np.array([0.0, 0.0, 1.0, 0.5])
    low, middle, high = reliability(p, y)
    assert (low.count, middle.count, high.count) == (1, 2, 1)
    assert (middle.low, middle.high, middle.mean_observed) == (0.1, 0.2, 0.5)
    assert calibration_error(p, y) == pytest.approx((0.05 + 2 * 0.35 + 0.5) / 4)


def split(seed: int, bias: float) -> Split:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.1, 0.9, 200)
    y = rng.binomial(10, truth) / 10
    return Split(np.arange(200), np.zeros(200, int), y, {"base_rate": np.full(200, y.mean()), "v0": truth + bias})


def test_intervals_hold_the_value_and_the_difference_of_a_better_method_excludes_zero():
    result = bootstrap([split(0, 0.0), split(1, 0.0)], num_resamples=100, seed=0)
    interval = result["v0"]["brier"]
    assert interval.low < interval.value < interval.high
    difference = result["base_rate - v0"]["brier"]
    assert difference.value == pytest.approx(result["base_rate"]["brier"].value - interval.value)
    assert difference.low > 0
    assert bootstrap([split(0, 0.0)], num_resamples=20, seed=3) == bootstrap([split(0, 0.0)], num_resamples=20, seed=3)


def test_rows_of_one_prompt_are_drawn_together():
    """Twenty copies of each of ten prompts say no more than the ten: the interval must not shrink."""
    rng = np.random.default_rng(0)
    y, p = rng.uniform(size=10), rng.uniform(size=10)
    one = Split(np.arange(10), np.zeros(10, int), y, {"m": p})
    many = Split(np.repeat(np.arange(10), 20), np.zeros(200, int), np.repeat(y, 20), {"m": np.repeat(p, 20)})
    widths = []
    for s in (one, many):
        interval = bootstrap([s], num_resamples=200, seed=0)["m"]["brier"]
        widths.append(interval.high - interval.low)
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)
