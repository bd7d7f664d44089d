"""The case for `v05_eb`, at small scale: the table that `benchmarks/baseline_error.py` prints."""

import random

import pytest

from benchmarks.baseline_error import RMS_ERRORS, table, u_shaped

# Rms error of the prior: v05, v05_loo, v05_eb, v05_eb_loo, mean of 4, leave-one-out mean of 4.
EXPECTED = {
    0.0: (0.024, 0.032, 0.000, 0.000, 0.103, 0.138),
    0.1: (0.030, 0.038, 0.007, 0.007, 0.103, 0.138),
    0.2: (0.046, 0.054, 0.022, 0.024, 0.104, 0.138),
    0.4: (0.077, 0.090, 0.055, 0.063, 0.104, 0.139),
    0.6: (0.096, 0.116, 0.077, 0.094, 0.104, 0.139),
    0.8: (0.106, 0.130, 0.090, 0.114, 0.103, 0.137),
}


@pytest.fixture(scope="module")
def rows() -> dict[float, dict[str, float]]:
    return table(u_shaped(1500, random.Random(0)), seed=0)


@pytest.mark.parametrize("rms", RMS_ERRORS)
def test_the_table(rows: dict[float, dict[str, float]], rms: float) -> None:
    names = ("v05", "v05_loo", "v05_eb", "v05_eb_loo", "grpo", "rloo")
    assert [rows[rms][name] for name in names] == pytest.approx(EXPECTED[rms], abs=0.008)


@pytest.mark.parametrize("rms", RMS_ERRORS)
def test_empirical_bayes_beats_the_papers_weight_at_every_prior_quality(
    rows: dict[float, dict[str, float]], rms: float
) -> None:
    assert rows[rms]["v05_eb"] < rows[rms]["v05"]
    assert rows[rms]["v05_eb_loo"] < rows[rms]["v05_loo"]
    assert rows[rms]["v05_eb"] < rows[rms]["grpo"]
    assert rows[rms]["v05_eb_loo"] < rows[rms]["rloo"]
    if rms <= 0.6:
        assert rows[rms]["v05_eb_loo"] < rows[rms]["v05"]  # although it alone is unbiased


def test_a_far_off_prior_is_where_the_papers_weight_loses_to_the_mean(rows: dict[float, dict[str, float]]) -> None:
    assert rows[0.8]["v05"] > rows[0.8]["grpo"]
