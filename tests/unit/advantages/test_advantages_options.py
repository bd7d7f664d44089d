"""The options of the estimators: the edges of their ranges, and what their defaults come to."""

import dataclasses
import math
from typing import Any

import pytest

from v05ray import advantages
from v05ray.advantages import GroupView
from v05ray.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v05", {"v_max": 1}),
        ("v05", {"sigma_floor": 1}),
        ("v05", {"sigma_floor": 0}),
        ("v05", {"eps": 0}),
        ("v05_eb", {"prior_strength": 0}),
        ("v05_eb", {"noise_floor": 1}),
        ("krpo", {"process_noise": 0}),
        ("krpo", {"mean": 1}),
        ("krpo", {"mean": -1}),
        ("ebpo", {"decay": 1}),
        ("ha_dw", {"decay": 1}),
        ("spo", {"discount": 1}),
    ],
)
def test_the_edges_of_the_ranges_are_allowed(name: str, options: dict[str, Any]) -> None:
    (result,) = advantages.build(name, **options).compute([GroupView("p", (1, -1, -1), prior=0.5)])
    assert all(math.isfinite(value) for value in result.values)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v05", {"v_max": 0}),
        ("v05", {"v_max": -0.5}),
        ("v05", {"v_max": 1.1}),
        ("v05", {"sigma_floor": -0.1}),
        ("v05", {"sigma_floor": 1.1}),
        ("v05", {"eps": -1e-9}),
        ("v05", {"eps": 0, "sigma_floor": 0}),
        ("v05_eb", {"prior_strength": -0.1}),
        ("v05_eb", {"noise_floor": 0}),
        ("v05_eb", {"noise_floor": 1.1}),
        ("krpo", {"process_noise": -1e-9}),
        ("krpo", {"reward_noise": 0}),
        ("krpo", {"mean": 1.1}),
        ("krpo", {"mean": -1.1}),
        ("krpo", {"variance": 0}),
        ("qae", {"quantile": 0}),
        ("qae", {"quantile": 1}),
        ("qae", {"quantile": 1.5}),
        ("qae", {"quantile": -0.5}),
        ("ha_dw", {"lam": 0}),
        ("ha_dw", {"lam": -1}),
        ("ha_dw", {"decay": 0}),
        ("grpo", {"eps": -1e-9}),
    ],
)
def test_beyond_the_ranges_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"advantage '{name}': "):
        advantages.build(name, **options)


def test_a_deviation_is_held_from_below_by_the_floor_and_eps_is_added() -> None:
    # B = V = .6 (the evidence agrees): sigma .8, floored at 1, plus 1
    values = advantages.get("v05", sigma_floor=1, eps=1)([1, 1, -1, 1], prior=0.6)
    assert values == pytest.approx([0.2, 0.2, -0.8, 0.2])


def test_bounds_are_counted_only_where_they_change_something() -> None:
    at_the_edge = GroupView("p", (1, 1, 1, 1), prior=0.95)  # clipped to itself; sigma .312 is above the floor
    assert advantages.build("v05").compute([at_the_edge])[0].num_bounded == 0
    below = GroupView("p", (-1, -1, -1, -1), prior=-0.96)
    assert advantages.build("v05").compute([below])[0].num_bounded == 4


def test_krpo_by_default_trusts_rewards_a_hundred_times_more_than_its_start() -> None:
    x, variance = 0.0, 1.0
    for reward in (1, -1):
        variance += 1e-5
        gain = variance / (variance + 1e-2)
        x, variance = x + gain * (reward - x), variance * (1 - gain)
    expected = [(reward - x) / math.sqrt(variance) for reward in (1, -1)]
    assert advantages.get("krpo")([1, -1]) == pytest.approx(expected)
    assert expected[0] == pytest.approx(14.18, abs=0.01)


def test_running_means_forget_a_tenth_per_batch_by_default() -> None:
    ebpo, ha_dw = advantages.build("ebpo"), advantages.build("ha_dw")
    for rewards in ((1, 1), (-1, -1)):
        ebpo.observe([GroupView("a", rewards)])
        ha_dw.observe([GroupView("a", rewards)])
    assert ebpo.metrics()["v05/ebpo_mean"] == pytest.approx((0.9 - 1) / 1.9)
    assert ha_dw.metrics()["v05/difficulty_anchor"] == pytest.approx(0.9 / 1.9)


def test_spo_forgets_a_tenth_per_visit_and_starts_from_half_a_count_by_default() -> None:
    spo = advantages.build("spo")
    spo.observe([GroupView("p", (1, 1))])  # a = .45 + 2, b = .45
    (result,) = spo.compute([GroupView("p", (1,))])
    assert result.values == pytest.approx([1 - (2 * 2.45 / 2.9 - 1)])


def test_ha_dw_pushes_up_on_hard_prompts_and_down_on_easy_ones() -> None:
    # grpo gives +-1.5 and -+.5; C = 1/2, so d = +-1/4
    up, down = math.exp(0.25), math.exp(-0.25)
    assert advantages.get("ha_dw")([1, -1, -1, -1]) == pytest.approx([1.5 * up] + 3 * [-0.5 * down], abs=1e-5)
    assert advantages.get("ha_dw")([1, 1, 1, -1]) == pytest.approx(3 * [0.5 * down] + [-1.5 * up], abs=1e-5)


def test_ebpo_before_the_first_batch_and_without_noise() -> None:
    ebpo = advantages.build("ebpo")
    assert ebpo.metrics() == {"v05/ebpo_mean": 0.0, "v05/ebpo_within": 1.0, "v05/ebpo_between": 1.0}
    ebpo.observe([GroupView("a", (1,)), GroupView("b", (-1,))])  # groups of one say nothing
    assert ebpo.metrics()["v05/ebpo_within"] == 1.0
    ebpo.observe([GroupView("a", (1, 1)), GroupView("b", (-1, -1))])  # no noise: the group's mean alone
    assert ebpo.metrics() == {"v05/ebpo_mean": 0.0, "v05/ebpo_within": 0.0, "v05/ebpo_between": 2.0}
    assert ebpo.compute([GroupView("c", (1, -1, -1))])[0].values == pytest.approx([4 / 3, -2 / 3, -2 / 3])


def test_ebpo_holds_a_negative_spread_between_prompts_at_0() -> None:
    ebpo = advantages.build("ebpo")
    ebpo.observe([GroupView("a", (1, -1)), GroupView("b", (1, -1))])  # means equal: 0 - 2/2 = -1
    assert ebpo.metrics()["v05/ebpo_between"] == 0
    # S = 1: the global mean alone, which is 0
    assert ebpo.compute([GroupView("c", (1, 1))])[0].values == pytest.approx([1, 1])


def test_bnpo_of_skewed_rates_by_hand() -> None:
    # x: p = 1/4 and 1/2: m = 3/8, v = 1/64; spread = ((15/64) / (1/64) - 1) / 3 = 14/3
    a, b = 1 + 14 / 3 * 3 / 8, 1 + 14 / 3 * 5 / 8
    norm = math.gamma(a + b) / math.gamma(a) / math.gamma(b)
    low, even = (norm * p ** (a - 1) * (1 - p) ** (b - 1) for p in (0.25, 0.5))
    groups = [GroupView("low", (1, -1, -1, -1)), GroupView("even", (1, -1))]
    first, second = advantages.build("bnpo").compute(groups)
    assert first.values == pytest.approx([0.75 / low] + 3 * [-0.25 / low])
    assert second.values == pytest.approx([0.5 / even, -0.5 / even])


def test_bnpo_of_solved_and_failed_groups_is_0() -> None:
    groups = [GroupView("solved", (1, 1)), GroupView("failed", (-1, -1)), GroupView("even", (1, -1))]
    solved, failed, even = advantages.build("bnpo").compute(groups)
    assert (solved.values, failed.values) == ((0, 0), (0, 0))
    assert even.values[0] > 0


@pytest.mark.parametrize("number", [-1.5, -1.0000001, 1.0000001, 1.5, math.nan])
def test_no_number_beyond_the_scale_gets_an_advantage(number: float) -> None:
    whole = {"rewards": (1.0, -1.0), "prior": 0.0, "greedy_reward": 0.0}
    for change in ({"rewards": (1.0, number)}, {"prior": number}, {"greedy_reward": number}):
        with pytest.raises(ValueError, match=r"must be in \[-1, 1\]"):
            advantages.build("remax").compute([GroupView("p", **{**whole, **change})])


@pytest.mark.parametrize("name", ["remax", "spo", "v05"])
def test_a_group_without_rollouts_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} needs >= 1 rollouts, got 0 for 'p'"):
        advantages.build(name).compute([GroupView("p", (), prior=0.0, greedy_reward=0.0)])


def test_bnpo_of_graded_rewards_by_hand() -> None:
    # one group: v = 0, so the density is 1; x = .75 and .25, p = .5
    assert advantages.get("bnpo")([0.5, -0.5]) == pytest.approx([0.25, -0.25])


def test_records_are_frozen_and_slotted() -> None:
    for record in (GroupView("p", (1.0,)), advantages.Advantages((1.0,))):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, dataclasses.fields(record)[0].name, None)
        assert not hasattr(record, "__dict__")


def test_a_deviation_at_the_floor_is_not_counted_as_bounded() -> None:
    # The evidence agrees: B = V = .6, sigma = .8
    group = GroupView("p", (1, 1, -1, 1), prior=0.6)
    assert advantages.build("v05", sigma_floor=0.8).compute([group])[0].num_bounded == 0
    assert advantages.build("v05", sigma_floor=0.81).compute([group])[0].num_bounded == 4


def test_two_rollouts_are_enough_to_whiten() -> None:
    one, other = advantages.build("reinforce_pp").compute([GroupView("a", (1,)), GroupView("b", (-1,))])
    assert one.values == pytest.approx([0.5**0.5], abs=1e-5)  # deviation sqrt(2)
    assert other.values == pytest.approx([-(0.5**0.5)], abs=1e-5)


def test_the_anchor_of_ha_dw_is_even_before_the_first_batch() -> None:
    ha_dw = advantages.build("ha_dw")
    assert ha_dw.metrics() == {"v05/difficulty_anchor": 0.5}
    ha_dw.observe([])
    assert ha_dw.metrics() == {"v05/difficulty_anchor": 0.5}


def test_refusals_say_the_ranges_and_what_was_given() -> None:
    with pytest.raises(ConfigError) as error:
        advantages.build("krpo", variance=0)
    assert str(error.value) == (
        "advantage 'krpo': needs process_noise >= 0, reward_noise > 0, -1 <= mean <= 1, variance > 0; "
        "got 1e-05, 0.01, 0.0, 0"
    )
    with pytest.raises(ConfigError) as error:
        advantages.build("v05", v_max=2)
    assert str(error.value) == (
        "advantage 'v05': needs eps >= 0, 0 < v_max <= 1, 0 <= sigma_floor <= 1, not both eps and sigma_floor 0; "
        "got eps=1e-06, v_max=2, sigma_floor=0.1"
    )
    with pytest.raises(ConfigError, match=r"^advantage 'spo': needs discount > 0 and initial counts > 0, got 0 and"):
        advantages.build("spo", discount=0)


def test_ebpo_of_groups_that_show_neither_noise_nor_spread_takes_the_groups_own_mean() -> None:
    ebpo = advantages.build("ebpo")
    ebpo.observe([GroupView("a", (1, 1)), GroupView("b", (1, 1))])
    assert ebpo.metrics() == {"v05/ebpo_mean": 1.0, "v05/ebpo_within": 0.0, "v05/ebpo_between": 0.0}
    assert ebpo.compute([GroupView("c", (1, -1, -1, -1))])[0].values == pytest.approx([1.5, -0.5, -0.5, -0.5])


def test_spo_forgets_the_prompt_seen_longest_ago_beyond_its_capacity() -> None:
    spo = advantages.build("spo", capacity=1)
    spo.observe([GroupView("a", (1, 1)), GroupView("b", (1, 1))])
    forgotten, kept = spo.compute([GroupView("a", (1,)), GroupView("b", (1,))])
    assert forgotten.values == (1.0,)  # baseline 0, as of a new prompt
    assert kept.values[0] < 1


@pytest.mark.parametrize("name", ["v05_eb", "v05_eb_loo"])
def test_the_error_of_the_prior_by_default(name: str) -> None:
    """A start of .4 rms, which 32 groups replace one by one; 512 groups are remembered."""
    estimator = advantages.build(name)
    assert estimator.metrics() == {"v05/tau2": 0.16, "v05/tau2_groups": 0.0}
    wrong = GroupView("p", (1, 1), prior=0.0)  # (0 - 1)^2 - 0 = 1
    estimator.observe([wrong])
    assert estimator.metrics()["v05/tau2"] == pytest.approx((1 + 31 * 0.16) / 32)
    for count in (511, 1):
        estimator.observe([wrong] * count)
        assert estimator.metrics() == {"v05/tau2": 1.0, "v05/tau2_groups": 512.0}


def test_the_options_of_empirical_bayes_reach_the_formula() -> None:
    # Two (of three) equal rewards beside V = 0 and no strength: m = 1, so s2 is the floor over 2. tau2 = .1 = s2 at a
    # floor of .2: w = 1/2, B = 1/2.
    options = {"prior_strength": 0, "noise_floor": 0.2, "initial_tau2": 0.1, "eps": 0}
    half = 0.5 / 0.75**0.5
    assert advantages.get("v05_eb", **options)([1, 1], prior=0.0) == pytest.approx([half] * 2)
    assert advantages.get("v05_eb_loo", **options)([1, 1, 1], prior=0.0) == pytest.approx([half] * 3)
    # A strength of 6 with two rewards of 1: m = 2 / 8, s2 = (15/16) / 2 = tau2.
    options = {"prior_strength": 6, "initial_tau2": 15 / 32, "eps": 0}
    assert advantages.get("v05_eb", **options)([1, 1], prior=0.0) == pytest.approx([half] * 2)
    assert advantages.get("v05_eb_loo", **options)([1, 1, 1], prior=0.0) == pytest.approx([half] * 3)
    # V = 1 is clipped: at v_max = .5 and tau2 = 0 the baseline is .5.
    bounded = advantages.build("v05_eb", v_max=0.5, initial_tau2=0, eps=0).compute([GroupView("p", (1, -1), prior=1.0)])
    assert bounded[0].values == pytest.approx([half, -3 * half])
