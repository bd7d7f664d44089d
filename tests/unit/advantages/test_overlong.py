"""DAPO's soft overlong punishment: the equation, and what of it an estimator sees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v05ray import advantages
from v05ray.advantages import ESTIMATORS, GroupView
from v05ray.advantages.overlong import Overlong
from v05ray.errors import ConfigError


@pytest.mark.parametrize(
    ("length", "expected"),
    # DAPO's own: L_max = 20,480, L_cache = 4,096, so 16,384 tokens are free.
    [(1, 0), (16_384, 0), (16_385, -1 / 4096), (18_432, -0.5), (20_480, -1), (20_481, -1)],
)
def test_equation_13_by_hand(length: int, expected: float) -> None:
    assert Overlong(20_480, 4_096).punishment(length) == pytest.approx(expected)


def test_the_automatic_buffer_is_dapos_share() -> None:
    assert Overlong.of("auto", 20_480) == Overlong(20_480, 4_096)
    assert Overlong.of("auto", 3) == Overlong(3, 1)  # at least one token
    assert Overlong.of(7, 20) == Overlong(20, 7)
    assert Overlong.of(None, 20) is None


@given(st.integers(1, 300), st.data())
def test_law_longer_is_never_better_and_the_punishment_is_bounded(max_tokens: int, data: st.DataObject) -> None:
    overlong = Overlong(max_tokens, data.draw(st.integers(1, max_tokens)))
    found = [overlong.punishment(length) for length in range(max_tokens + 2)]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (0, -1)


def test_the_advantage_is_that_of_the_sum_by_hand() -> None:
    # Lengths 10, 18, 20 of at most 20 with a buffer of 4 cost 0, 1/2, 1: rewards 1, 1/2, -2 with mean -1/6.
    view = Overlong(20, 4).punished(GroupView("p", (1.0, 1.0, -1.0), lengths=(10, 18, 20)))
    assert view.rewards == (1.0, 0.5, -2.0)
    (found,) = advantages.build("dr_grpo").compute([view])
    assert found.values == pytest.approx((7 / 6, 4 / 6, -11 / 6))


@pytest.mark.parametrize("name", ESTIMATORS.names)
def test_an_estimator_takes_punished_rewards_or_says_that_it_cannot(name: str) -> None:
    estimator = advantages.build(name)
    group = GroupView("p", (1.0, -1.0, -1.0), 0.1, (10, 18, 20), -1.0, 3)
    punished = Overlong(20, 4).punished(group)
    if estimator.takes_punishments:
        shifted = [estimator.compute([one])[0] for one in (group, punished)]
        assert shifted[0].values != shifted[1].values
    else:
        with pytest.raises(ConfigError, match=r"cannot use rewards below -1.*'p'.*leave rewards\.overlong_buffer out"):
            estimator.compute([punished])
    short = GroupView("p", (1.0, -1.0, -1.0), 0.1, (1, 2, 3), -1.0, 3)
    assert estimator.compute([Overlong(20, 4).punished(short)]) == estimator.compute([short])


def test_a_reward_out_of_range_is_still_refused() -> None:
    view = Overlong(20, 4).punished(GroupView("p", (1.0, -1.5), lengths=(10, 10)))
    with pytest.raises(ValueError, match=r"-1\.5 as reward"):
        advantages.build("grpo").compute([view])
