"""The paper's theorems as equations, and where they do not hold."""

import math
from itertools import pairwise

import pytest

from v05ray.simulate import theorems


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("prior", [-0.9, -0.2, 0.4, 0.7])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_the_best_fixed_weight(p: float, prior: float, k: int) -> None:
    """Theorems 3.2 and 3.3: w* = d^2 / (d^2 + s2), where the error is d^2 s2 / (d^2 + s2)."""
    found, predicted, error = theorems.best_fixed_weight(p, prior, k, steps=400)
    d2, s2 = (prior - (2 * p - 1)) ** 2, (1 - (2 * p - 1) ** 2) / k
    assert found == pytest.approx(predicted, abs=1 / 400)
    assert error == pytest.approx(d2 * s2 / (d2 + s2), abs=2e-5)


@pytest.mark.parametrize("k", [1, 4, 7, 16, 64])
def test_the_bias_is_bounded(k: int) -> None:
    """Theorem 3.4, and the bound is attained at p = 1, V = 1 - 1/sqrt(k)."""
    for p in (0.0, 0.2, 0.5, 0.9, 1.0):
        for prior in (-1.0, -0.3, 0.0, 0.6, 1.0):
            assert abs(theorems.moments(theorems.v05, p, prior, k)[0]) <= 1 / math.sqrt(k) + 1e-12
    assert theorems.moments(theorems.v05, 1.0, 1 - 1 / math.sqrt(k), k)[0] == pytest.approx(-1 / math.sqrt(k))


def test_the_bias_of_a_wrong_prior_fades() -> None:
    """Theorem 3.4: like 1 / (k |V - m|)."""
    for prior in (0.4, 0.8):
        bias = theorems.moments(theorems.v05, 0.5, prior, 256)[0]
        assert bias * 256 * prior == pytest.approx(1, abs=0.05)


def test_the_test_is_one_sigma() -> None:
    assert theorems.rejection_rate(0.5, 0.0, 4) == pytest.approx(2 / 16)
    # 8 rewards: |mu| > .354, so at most 2 or at least 6 successes: 2 (1 + 8 + 28) / 256.
    assert theorems.rejection_rate(0.5, 0.0, 8) == pytest.approx(74 / 256)


def test_beyond_half_a_unit_the_prior_hurts() -> None:
    ratios = [theorems.error_ratio(distance, 4) for distance in (0.0, 0.2, 0.4, 0.5, 0.8)]
    assert ratios == pytest.approx([0.24, 0.42, 0.81, 1.0, 1.46], abs=0.05)


def test_the_noise_is_overstated_on_easy_prompts() -> None:
    assert theorems.moments(theorems.v05, 1.0, 0.5, 4) == pytest.approx((-0.5, 0.25))


def test_the_regret_is_a_few_costs_at_the_papers_cost_and_grows_without_bound() -> None:
    at_the_papers = [theorems.regret(0.5, prior, 1 / 256).in_costs for prior in (0.0, 0.2, 0.4, 0.8)]
    assert all(1 <= value <= 7 for value in at_the_papers)
    growing = [theorems.regret(0.5, 0.4, 2.0**-exponent).in_costs for exponent in (8, 10, 12, 14)]
    assert all(later > 3 * earlier for earlier, later in pairwise(growing))


def test_a_right_prior_costs_the_cold_start_and_the_false_alarms() -> None:
    """p = .5, V = 0: 14 of 16 groups of 4 accept; four equal rewards (b2 = 3/4) draw on to 14 = floor(16 - 4/3)."""
    found = theorems.regret(0.5, 0.0, 1 / 256)
    assert found.oracle_rollouts == 0
    assert found.mean_rollouts == pytest.approx(4 * 14 / 16 + 14 * 2 / 16)
    assert found.in_costs == pytest.approx(found.mean_rollouts)
