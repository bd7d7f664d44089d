import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v05ray.stats.shrinkage import Fusion, bias_squared, fuse, fuse_eb, fuse_eb_loo, fuse_loo, noise_variance

priors = st.floats(-1, 1)
signs = st.lists(st.sampled_from([-1.0, 1.0]), min_size=1, max_size=64)
graded = st.lists(st.floats(-1, 1), min_size=1, max_size=64)


def test_agreement_keeps_the_prior() -> None:
    fusion = fuse(0.5, [1, 1, -1, 1])  # mu = .5
    assert (fusion.weight, fusion.baseline, fusion.bias_squared) == (0, 0.5, 0)


def test_a_tie_is_agreement() -> None:
    assert fuse(0.5, [1, 1, -1, -1]).weight == 0  # |0 - .5| = 1/sqrt(4)
    assert fuse(0.0, [1, 1, 1, 1, 1, -1, -1, -1, -1]).weight == 0  # mu = 1/9 < 1/3


def test_disagreement_moves_towards_the_mean() -> None:
    fusion = fuse(1.0, [-1, -1, -1, 1])  # mu = -.5, b2 = 2.25 - .25 = 2, w = 2 / 2.25
    assert fusion.bias_squared == pytest.approx(2)
    assert fusion.weight == pytest.approx(8 / 9)
    assert fusion.baseline == pytest.approx(-0.5 + 1 / (4 * 1.5))  # mu - 1/(k (mu - V)) = -1/3


def test_without_rewards_the_prior_is_the_baseline_and_the_mean_has_no_weight() -> None:
    assert fuse(0.3, []) == Fusion(weight=0, baseline=0.3, bias_squared=0)
    assert fuse_eb(0.3, [], 0.2) == Fusion(weight=0, baseline=0.3, bias_squared=0.2)
    assert fuse_loo(0.3, [1]) == [Fusion(weight=0, baseline=0.3, bias_squared=0)]
    assert fuse_eb_loo(0.3, [1], 0.2) == [Fusion(weight=0, baseline=0.3, bias_squared=0.2)]


def test_leave_one_out_of_a_hand_worked_group() -> None:
    # V = 0, rewards 1 1 1 -1. Without a 1: mu = 1/3, |mu| < 1/sqrt(3), so V. Without the -1: mu = 1, b2 = 2/3,
    # w = (2/3) / (2/3 + 1/3) = 2/3.
    fusions = fuse_loo(0.0, [1, 1, 1, -1])
    assert [f.baseline for f in fusions] == pytest.approx([0, 0, 0, 2 / 3])
    assert fuse_loo(0.4, [1.0])[0].baseline == 0.4


def test_scale_errors_name_the_fix() -> None:
    with pytest.raises(ValueError, match=r"prior must be in \[-1, 1\], got 1.5; a probability p becomes 2 p - 1"):
        fuse(1.5, [1])
    with pytest.raises(ValueError, match="reward must be in"):
        fuse(0.5, [math.nan])


@pytest.mark.parametrize("number", [-1.0001, 1.0001, -1.5, 1.5, math.inf, math.nan])
def test_no_number_beyond_the_scale_is_fused(number: float) -> None:
    for function in (fuse, fuse_loo, lambda prior, rewards: fuse_eb(prior, rewards, 0.1)):
        with pytest.raises(ValueError, match=r"in \[-1, 1\]"):
            function(number, [1.0])
        with pytest.raises(ValueError, match=r"in \[-1, 1\]"):
            function(0.0, [1.0, number])


@given(priors, graded)
def test_the_baseline_lies_between_prior_and_mean(prior: float, rewards: list[float]) -> None:
    mean = math.fsum(rewards) / len(rewards)
    for fusion in (fuse(prior, rewards), fuse_eb(prior, rewards, 0.1)):
        assert min(mean, prior) <= fusion.baseline <= max(mean, prior)
    assert abs(fuse(prior, rewards).baseline - mean) <= 1 / math.sqrt(len(rewards)) + 1e-12


@given(priors, graded)
def test_the_weight_is_zero_exactly_within_one_sigma(prior: float, rewards: list[float]) -> None:
    distance = abs(math.fsum(rewards) / len(rewards) - prior)
    radius = 1 / math.sqrt(len(rewards))
    if distance <= radius:
        assert fuse(prior, rewards).weight == 0
    elif distance > radius + 1e-9:
        assert fuse(prior, rewards).weight > 0


def test_the_radius_bound_is_attained() -> None:
    fusion = fuse(0.5, [1, 1, 1, 1])
    assert 1 - fusion.baseline == 1 / math.sqrt(4)


@given(priors, st.integers(1, 30))
def test_the_weight_grows_with_the_distance_and_with_k(prior: float, k: int) -> None:
    weights = [bias_squared(0, m / 20, k) for m in range(41)]
    assert weights == sorted(weights)
    longer = [fuse(prior, [1.0] * n).weight for n in (k, 2 * k, 4 * k)]
    assert longer == sorted(longer)


def test_the_weight_tends_to_one_for_a_wrong_prior() -> None:
    assert fuse(-0.5, [1.0] * 4096).weight > 0.999


@given(st.floats(0, 4), st.floats(0.01, 1), st.floats(0, 1))
def test_the_best_fixed_weight_is_d2_over_d2_plus_s2(d2: float, s2: float, weight: float) -> None:
    def error(w: float) -> float:
        return w * w * s2 + (1 - w) ** 2 * d2

    assert error(d2 / (d2 + s2)) <= error(weight) + 1e-12


@given(priors, st.lists(st.sampled_from([-1.0, 1.0]), min_size=2, max_size=32))
def test_leave_one_out_is_the_fusion_of_the_others(prior: float, rewards: list[float]) -> None:
    for i, (fusion, bayes) in enumerate(zip(fuse_loo(prior, rewards), fuse_eb_loo(prior, rewards, 0.2), strict=True)):
        others = rewards[:i] + rewards[i + 1 :]
        assert fusion.baseline == pytest.approx(fuse(prior, others).baseline, abs=1e-12)
        assert bayes.baseline == pytest.approx(fuse_eb(prior, others, 0.2).baseline, abs=1e-12)


@given(priors, signs)
def test_a_perfect_past_trusts_the_prior_and_a_hopeless_one_the_mean(prior: float, rewards: list[float]) -> None:
    assert fuse_eb(prior, rewards, 0.0).baseline == prior
    assert fuse_eb(prior, rewards, 1e9).baseline == pytest.approx(sum(rewards) / len(rewards), abs=1e-6)


def test_empirical_bayes_of_a_hand_worked_group() -> None:
    # V = .5, rewards 1 1 -1 -1: m = (0 * 4 + 2 * .5) / 6 = 1/6, s2 = (1 - 1/36) / 4, tau2 = .25
    noise = (1 - 1 / 36) / 4
    assert noise_variance(0.5, 0, 4) == pytest.approx(noise)
    fusion = fuse_eb(0.5, [1, 1, -1, -1], 0.25)
    assert fusion.weight == pytest.approx(0.25 / (0.25 + noise))
    assert fusion.baseline == pytest.approx(0.5 * noise / (0.25 + noise))


def test_the_noise_has_a_floor_where_prior_and_rewards_are_sure() -> None:
    assert noise_variance(1.0, 1.0, 5) == pytest.approx(0.05 / 5)


def test_strength_and_floor_of_the_noise_are_settings() -> None:
    assert noise_variance(0.5, 1.0, 2, prior_strength=0) == pytest.approx(0.05 / 2)  # m = mu = 1: the floor
    assert noise_variance(0.0, 1.0, 1, prior_strength=3) == pytest.approx(1 - 1 / 16)  # m = 1/4
    assert noise_variance(1.0, 1.0, 1, floor=1) == 1
    # A floor of 1 makes s2 = 1/k = 1/2; tau2 = 1/2 then weighs both alike.
    assert fuse_eb(0.0, [1, 1], 0.5, prior_strength=0, floor=1).baseline == 0.5
    assert [one.baseline for one in fuse_eb_loo(0.0, [1, 1, 1], 0.5, prior_strength=0, floor=1)] == [0.5] * 3


@pytest.mark.parametrize(
    ("tau2", "settings"),
    [
        (-0.1, {}),
        (math.inf, {}),
        (math.nan, {}),
        (0.1, {"prior_strength": -0.1}),
        (0.1, {"floor": 0}),
        (0.1, {"floor": 1.1}),
    ],
)
def test_empirical_bayes_refuses_settings_out_of_range(tau2: float, settings: dict[str, float]) -> None:
    for function in (fuse_eb, fuse_eb_loo):
        with pytest.raises(
            ValueError, match=r"tau2 must be finite and >= 0, got|needs prior_strength >= 0 and 0 < floor"
        ):
            function(0.0, [1], tau2, **settings)


def test_a_fusion_is_frozen_and_slotted() -> None:
    fusion = fuse(0.5, [1])
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(fusion, "weight", 1.0)  # noqa: B010  (the type checker would refuse the assignment)
    assert not hasattr(fusion, "__dict__")
