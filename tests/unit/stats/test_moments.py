import pytest

from v05ray.stats.moments import RunningMean, lower_quantile, mean, median, sample_deviation, sample_variance


def test_moments_of_hand_worked_groups() -> None:
    assert mean([1, -1, -1, -1]) == -0.5
    assert sample_variance([1, -1, -1, -1]) == 1.0  # (1.5^2 + 3 * .5^2) / 3
    assert sample_deviation([1, -1]) == pytest.approx(2**0.5)
    assert median([1, -1, -1]) == -1
    assert median([1, -1]) == 0
    assert median([7, 1, 4, 2, 9, 3]) == 3.5
    assert median([7, 1, 4, 2, 9]) == 4
    assert sample_variance([0, 0.5, 1]) == 0.25  # (.25 + 0 + .25) / 2


def test_lower_quantile_is_the_least_value_that_reaches_the_share() -> None:
    assert lower_quantile([1, -1, 1, -1, 1], 0.4) == -1  # F(-1) = 2/5 reaches .4
    assert lower_quantile([1, -1, 1, 1, 1], 0.4) == 1  # F(-1) = 1/5 does not
    assert lower_quantile([3], 0.4) == 3
    assert lower_quantile([2, 1, 3], 1) == 3
    assert lower_quantile([2, 1, 3], 1e-12) == 1


@pytest.mark.parametrize("share", [0, -0.5, 1.5])
def test_a_share_is_above_0_and_at_most_1(share: float) -> None:
    with pytest.raises(ValueError, match=f"got {share}"):
        lower_quantile([1, 2], share)


def test_moments_refuse_too_few_values() -> None:
    with pytest.raises(ValueError, match="the mean of no values"):
        mean([])
    with pytest.raises(ValueError, match=">= 2 values, got 1"):
        sample_variance([1.0])
    with pytest.raises(ValueError, match="the median of no values"):
        median([])
    with pytest.raises(ValueError, match="a quantile of no values"):
        lower_quantile([], 0.5)


def test_running_mean_forgets_and_resumes() -> None:
    running = RunningMean(0.5)
    assert running.value(default=7) == 7
    running.add(1)
    running.add(4)
    assert running.value(default=0) == pytest.approx((0.5 * 1 + 4) / 1.5)
    resumed = RunningMean(0.5)
    resumed.load_state_dict(running.state_dict())
    running.add(-1)
    resumed.add(-1)
    assert resumed.value(0) == running.value(0)
    with pytest.raises(ValueError, match="total and weight"):
        resumed.load_state_dict({"mean": 1.0})


def test_a_running_mean_keeps_everything_by_default_and_weighs_values() -> None:
    running = RunningMean()
    for _ in range(3):
        running.add(1)
    running.add(5, weight=0.5)
    assert running.value(default=0) == pytest.approx((3 + 2.5) / 3.5)
    light = RunningMean()
    light.add(3, weight=0.25)
    assert light.value(default=0) == 3


@pytest.mark.parametrize("decay", [0, -0.5, 1.5])
def test_a_decay_is_above_0_and_at_most_1(decay: float) -> None:
    assert RunningMean(1).decay == 1
    with pytest.raises(ValueError, match=f"got {decay}"):
        RunningMean(decay)
