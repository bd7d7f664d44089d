import json
import random
from typing import Any

import pytest

from v05ray.stats.prior_error import PriorError, squared_error


def test_squared_error_of_hand_worked_groups() -> None:
    # mu = 0, (V - mu)^2 = .25, minus (1 - 0) / 3
    assert squared_error(0.5, [1, 1, -1, -1]) == pytest.approx(0.25 - 1 / 3)
    assert squared_error(-1, [1, 1]) == 4
    with pytest.raises(ValueError, match=">= 2 rewards, got 1"):
        squared_error(0, [1])


def test_squared_error_is_unbiased() -> None:
    rng = random.Random(0)
    p, prior, n = 0.3, 0.1, 40_000
    total = sum(squared_error(prior, [1.0 if rng.random() < p else -1.0 for _ in range(4)]) for _ in range(n))
    assert total / n == pytest.approx((prior - (2 * p - 1)) ** 2, abs=0.01)


def test_the_initial_guess_fades_as_groups_arrive() -> None:
    error = PriorError(window=4, initial=0.5, warm_groups=2)
    assert error.tau2 == 0.5
    error.add(-1, [1, 1])  # 4
    assert error.tau2 == pytest.approx((4 + 0.5) / 2)
    error.add(1, [1, 1])  # 0
    assert error.tau2 == 2
    for _ in range(4):
        error.add(1, [1, 1])
    assert (error.tau2, error.num_groups) == (0, 4)  # the window has forgotten the first


def test_it_is_never_negative() -> None:
    error = PriorError(warm_groups=0)
    error.add(0, [1, -1])  # 0 - 1
    assert error.tau2 == 0


def test_it_resumes_through_json() -> None:
    error = PriorError(window=3, warm_groups=1)
    for prior in (0.1, 0.9, -0.3, 0.4):
        error.add(prior, [1, -1, 1])
    resumed = PriorError(window=3, warm_groups=1)
    resumed.load_state_dict(json.loads(json.dumps(error.state_dict())))
    assert resumed.tau2 == error.tau2
    resumed.add(0.7, [1, 1])
    error.add(0.7, [1, 1])
    assert resumed.tau2 == error.tau2
    with pytest.raises(ValueError, match="state is its errors"):
        resumed.load_state_dict({})


def test_the_defaults_are_an_error_of_point_4_rms_for_32_groups_and_a_window_of_512() -> None:
    error = PriorError()
    assert error.tau2 == pytest.approx(0.4**2)
    error.add(-1, [1, 1])  # 4
    assert error.tau2 == pytest.approx((4 + 31 * 0.16) / 32)
    for _ in range(600):
        error.add(1, [1, 1])
    assert error.num_groups == 512


@pytest.mark.parametrize("settings", [{"window": 1}, {"initial": 0}, {"initial": 4}, {"warm_groups": 0}])
def test_the_edges_of_the_settings_are_allowed(settings: dict[str, Any]) -> None:
    error = PriorError(**settings)
    assert error.tau2 == settings.get("initial", 0.16)


@pytest.mark.parametrize("settings", [{"window": 0}, {"warm_groups": -1}, {"initial": -0.1}, {"initial": 4.1}])
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="window >= 1"):
        PriorError(**settings)
