"""The field's estimators on numbers worked by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v05ray import advantages
from v05ray.advantages import Advantages, GroupView
from v05ray.errors import ConfigError

approx = pytest.approx


def values(name: str, *rewards: list[float], **options: float) -> list[list[float]]:
    groups = [GroupView(f"p{i}", tuple(r)) for i, r in enumerate(rewards)]
    return [list(result.values) for result in advantages.build(name, **options).compute(groups)]


def test_remax_subtracts_the_greedy_reward() -> None:
    assert advantages.get("remax")([1, -1], greedy_reward=1) == [0, -2]


def test_opo_weighs_by_length() -> None:
    # (10 * 1 - 30 * 1) / 40 = -.5
    assert advantages.get("opo")([1, -1], lengths=[10, 30]) == [1.5, -0.5]
    # (10 * .5 - 30 * 1) / 40 = -.625
    assert advantages.get("opo")([0.5, -1], lengths=[10, 30]) == [1.125, -0.375]
    # One token is enough: the baseline is its response's reward.
    assert advantages.get("opo")([1, -1], lengths=[1, 0]) == [0, -2]
    with pytest.raises(ValueError, match="all responses of 'group' are empty"):
        advantages.get("opo")([1, -1], lengths=[0, 0])


def test_reinforce_pp_whitens_the_raw_rewards_of_the_batch() -> None:
    # 1 1 -1 | -1: mean 0, sd^2 = 4/3
    sd = math.sqrt(4 / 3)
    assert values("reinforce_pp", [1, 1, -1], [-1]) == [approx([1 / sd, 1 / sd, -1 / sd], abs=1e-5), approx([-1 / sd])]
    # 1 -1 | -1 -1: mean -.5, sd 1, to which 1e-6 is added
    assert values("reinforce_pp", [1, -1], [-1, -1]) == [
        approx([1.5 / 1.000001, -0.5 / 1.000001], rel=1e-9),
        approx([-0.5 / 1.000001] * 2, rel=1e-9),
    ]
    with pytest.raises(
        ConfigError, match=r"^reinforce_pp whitens over the batch and needs >= 2 rollouts in it, got 1$"
    ):
        values("reinforce_pp", [1])


def test_reinforce_pp_baseline_centres_each_group_first() -> None:
    # 1 -1 and 1 1 -> 1 -1 0 0: sd^2 = 2/3
    sd = math.sqrt(2 / 3)
    assert values("reinforce_pp_baseline", [1, -1], [1, 1]) == [approx([1 / sd, -1 / sd], abs=1e-5), [0, 0]]
    with pytest.raises(ConfigError, match=r"^reinforce_pp_baseline whitens over the batch"):
        values("reinforce_pp_baseline")


def test_bnpo_divides_by_the_fitted_density() -> None:
    # p = .25 and .75: m = .5, v = 1/16, a = b = 1 + (4 - 1) / 6 = 1.5; Beta(x; 1.5, 1.5) = 8/pi sqrt(x (1-x))
    density = 8 / math.pi * math.sqrt(3 / 16)
    hard, easy = values("bnpo", [1, -1, -1, -1], [1, 1, 1, -1])
    assert hard == approx([0.75 / density] + 3 * [-0.25 / density])
    assert easy == approx(3 * [0.25 / density] + [-0.75 / density])


def test_bnpo_is_uniform_where_the_fit_degenerates_or_says_so() -> None:
    assert values("bnpo", [1, -1], [1, -1]) == [[0.5, -0.5], [0.5, -0.5]]  # v = 0
    assert values("bnpo", [1, 1], [-1, -1]) == [[0, 0], [0, 0]]  # m = .5, v = .25: a = b = 1


def test_mc_grpo_by_hand() -> None:
    # median 0, deviations 1 .5 0 .5 1: MAD .5
    (result,) = advantages.build("mc_grpo").compute([GroupView("p", (-1, -0.5, 0, 0.5, 1))])
    assert result.values == approx([-1 / 0.501, -0.5 / 0.501, 0, 0.5 / 0.501, 1 / 0.501])
    assert (result.dropped, result.num_bounded) == ({2}, 0)


def test_mc_grpo_guards_a_vanishing_deviation() -> None:
    # median 1, deviations 0 0 2: MAD 0, so the sample deviation, sqrt(4/3), replaces it
    (result,) = advantages.build("mc_grpo").compute([GroupView("p", (1, 1, -1))])
    assert result.values == approx([0, 0, -2 / (math.sqrt(4 / 3) + 1e-3)])
    assert (result.dropped, result.num_bounded) == ({0}, 3)
    (equal,) = advantages.build("mc_grpo").compute([GroupView("p", (1, 1))])
    assert equal == Advantages((0.0, 0.0))
    (equal,) = advantages.build("mc_grpo").compute([GroupView("p", (1, 1, 1))])  # the median one is spent here, too
    assert equal == Advantages((0.0, 0.0, 0.0), dropped=frozenset({0}))
    (even,) = advantages.build("mc_grpo").compute([GroupView("p", (1, -1))])  # median 0, MAD 1, none to drop
    assert even == Advantages((1 / 1.001, -1 / 1.001))


def test_qae_takes_its_sign_from_the_difficulty() -> None:
    # 4 of 10 fail: F(-1) = .4 reaches K, so the baseline is -1; with 3 failures it is 1.
    hard = advantages.get("qae")([1] * 6 + [-1] * 4)
    assert hard[-1] == 0
    assert hard[0] == approx(2 / math.sqrt(0.96 * 10 / 9), abs=1e-5)
    easy = advantages.get("qae")([1] * 7 + [-1] * 3)
    assert easy[0] == 0
    assert easy[-1] == approx(-2 / math.sqrt(0.84 * 10 / 9), abs=1e-5)


def test_qae_adds_a_millionth_to_the_deviation() -> None:
    # F(-1) = 3/4 reaches K: baseline -1; sd = 1
    assert advantages.get("qae")([1, -1, -1, -1]) == approx([2 / 1.000001, 0, 0, 0], rel=1e-9)


def test_ha_dw_reweighs_by_the_distance_to_the_anchor() -> None:
    # C = .5, p = .25: a hard prompt. grpo gives 1.5 and -.5 (sd 1).
    up, down = math.exp(0.25), math.exp(-0.25)
    assert values("ha_dw", [1, -1, -1, -1], lam=2.0)[0] == approx([3 * up] + 3 * [-1 * down], abs=1e-5)
    estimator = advantages.build("ha_dw")
    estimator.observe([GroupView("a", (1, 1)), GroupView("b", (1, -1))])
    assert estimator.metrics() == {"v05/difficulty_anchor": 0.75}


def test_krpo_by_hand() -> None:
    # Q = 0, R = 1, x = 0, P = 1. After 1: gain .5, x .5, P .5. After -1: gain 1/3, x 0, P 1/3.
    options = {"process_noise": 0, "reward_noise": 1}
    assert values("krpo", [1, -1], **options)[0] == approx([math.sqrt(3), -math.sqrt(3)])
    estimator = advantages.build("krpo", **options)
    estimator.observe([GroupView("a", (1, -1))])
    assert estimator.state_dict() == approx({"mean": 0, "variance": 1 / 3})


def test_spo_remembers_each_prompt() -> None:
    estimator = advantages.build("spo", discount=1.0, initial=1.0)
    estimator.observe([GroupView("a", (1, 1))])
    # a: (3, 1), p = .75, baseline .5. b is new: baseline 0.
    results = estimator.compute([GroupView("a", (1, -1)), GroupView("b", (1,))])
    assert [list(r.values) for r in results] == [[0.5, -1.5], [1]]


def test_ebpo_shrinks_to_the_running_mean() -> None:
    # Before any batch S = (1/4) / (1/4 + 1) = .2 towards 0
    assert values("ebpo", [1, -1, -1, -1])[0] == approx([1 + 0.4, -0.6, -0.6, -0.6])
    estimator = advantages.build("ebpo")
    estimator.observe([GroupView("a", (1, 1, 1, -1)), GroupView("b", (-1, -1, -1, -1))])
    # means .5 and -1: centre -.25; within (1 + 0) / 2; between 1.125 - (1/4 + 0) / 2 = 1
    assert estimator.metrics() == approx({"v05/ebpo_mean": -0.25, "v05/ebpo_within": 0.5, "v05/ebpo_between": 1.0})
    shrink = 0.25 / 1.25  # n = 2
    (result,) = estimator.compute([GroupView("c", (1, -1))])
    assert result.values == approx([1 + 0.25 * shrink, -1 + 0.25 * shrink])


def test_james_stein_by_hand() -> None:
    # b (1 1): others a (1 -1), c (-1 -1): centre -.5, reward variances 2 and 0 -> v = 1 / (2 - 1); their means spread
    # .5, less their noise (1 + 0) / 2: s = 0. l = 2/3 1 / (1 + 0): baseline 1/3 - 1/3 = 0.
    # a: the others show no noise: l = 0, rloo. c: mirror of b.
    a, b, c = values("james_stein", [1, -1], [1, 1], [-1, -1])
    assert a == approx([2, -2])
    assert b == approx([1, 1])
    assert c == approx([-1, -1])


def test_james_stein_of_uneven_groups_by_hand() -> None:
    # The last group's others: means 0 1 -1 (spread 1), reward variances 2 0 0: s = 1 - (1 + 0 + 0) / 3 = 2/3,
    # v = (2/3) / (3 - 1) = 1/3, l = 3/4 (1/3) / (1/3 + 2/3) = 1/4, centre 0.
    result = values("james_stein", [1, -1], [1, 1], [-1, -1], [1, 1, -1])[-1]
    assert result == approx([1 - 0, 1 - 0, -1 - 0.75])


def test_james_stein_where_noise_and_spread_do_not_add_up_to_one() -> None:
    # The last group's others: means 1 0 0 1, reward variances 0 2 2 0, two rollouts each: spread 1/3,
    # s = 1/3 - (0 + 1 + 1 + 0) / 4 = -1/6, held at 0; of three rollouts v = 1 / 2: l = 4/5 (1/2) / (1/2 + 0) = 4/5.
    # Baselines 1/5 x the others' mean + 4/5 x 1/2: .2 x 0 + .4 for each 1, .2 x 1 + .4 for the -1.
    result = values("james_stein", [1, 1], [1, -1], [1, -1], [1, 1], [1, 1, -1])[-1]
    assert result == approx([0.6, 0.6, -1.6])


def test_james_stein_of_few_groups_is_rloo() -> None:
    assert values("james_stein", [1, -1, -1], [1, 1]) == [approx([2, -1, -1]), approx([0, 0])]


UNBIASED = ["rloo", "v05_loo", "v05_eb_loo", "james_stein", "spo", "remax"]


@pytest.mark.parametrize("name", UNBIASED)
@given(
    rewards=st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=5), min_size=3, max_size=6),
    own=st.floats(-1, 1),
)
def test_an_unbiased_baseline_has_not_seen_its_own_reward(name: str, rewards: list[list[float]], own: float) -> None:
    options = {"sigma_floor": 1.0, "eps": 0.0} if name.startswith("v05") else {}  # then A = r - B
    estimator = advantages.build(name, **options)

    def baseline(first: float) -> float:
        changed = [[first, *rewards[0][1:]], *rewards[1:]]
        groups = [GroupView(str(i), tuple(r), 0.25, None, 0.5) for i, r in enumerate(changed)]
        return first - estimator.compute(groups)[0].values[0]

    assert baseline(own) == approx(baseline(rewards[0][0]), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("qae", {"quantile": 1}, r"quantile must be in \(0, 1\), got 1"),
        ("ha_dw", {"lam": 0}, "lam must be > 0"),
        ("krpo", {"reward_noise": 0}, "reward_noise > 0"),
        ("spo", {"initial": 0}, "initial counts > 0"),
        ("ebpo", {"decay": 0}, "decay must be in"),
        ("v05_eb", {"window": 0}, "window >= 1"),
        ("v05_eb", {"noise_floor": 0}, "noise_floor"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        advantages.build(name, **options)
