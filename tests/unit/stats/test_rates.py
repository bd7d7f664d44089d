import pytest
from hypothesis import given
from hypothesis import strategies as st

from v05ray.stats.rates import expected_calibration_error, laplace_rate


def test_laplace_rate_by_hand() -> None:
    assert laplace_rate(0, 0) == 0.5
    assert laplace_rate(3.0, 4) == pytest.approx(4 / 6)


@given(st.lists(st.floats(0, 1), max_size=50))
def test_law_the_rate_is_never_certain(outcomes: list[float]) -> None:
    assert 0 < laplace_rate(sum(outcomes), len(outcomes)) < 1


def test_calibration_error_by_hand() -> None:
    """Bin .2 says .2 twice for 0 and 1 (gap .3), the last bin .95 for 1 and 1 (gap .05)."""
    pairs = [(0.2, 0.0), (0.2, 1.0), (0.9, 1.0), (1.0, 1.0)]
    assert expected_calibration_error(pairs) == pytest.approx((2 * 0.3 + 2 * 0.05) / 4)
    assert expected_calibration_error([]) == 0
