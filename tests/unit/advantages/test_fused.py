import math
import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gradient_gain import gains
from v05ray import advantages
from v05ray.advantages import GroupView
from v05ray.budget import OslaRule
from v05ray.errors import ConfigError
from v05ray.stats.shrinkage import fuse, fuse_eb_loo, fuse_loo

FUSED = ["v05", "v05_loo", "v05_eb", "v05_eb_loo"]


def test_v05_by_hand() -> None:
    # V = 1 is clipped to .95; mu = -.5: d = 1.45, B = mu + 1/(k d) = -.5 + 1/5.8
    baseline = -0.5 + 1 / 5.8
    sigma = math.sqrt(1 - baseline**2)
    expected = [(r - baseline) / sigma for r in (-1, -1, -1, 1)]
    assert advantages.get("v05")([-1, -1, -1, 1], prior=1.0) == pytest.approx(expected, abs=1e-5)
    # The prior agrees: B = V = .6, sigma = .8
    assert advantages.get("v05")([1, 1, -1, 1], prior=0.6) == pytest.approx([0.5, 0.5, -2, 0.5], abs=1e-5)


def test_v05_loo_by_hand() -> None:
    # V = 0: baselines 0, 0, 0 and, without the -1, 2/3 (see test_shrinkage)
    last = (-1 - 2 / 3) / math.sqrt(1 - 4 / 9)
    assert advantages.get("v05_loo")([1, 1, 1, -1], prior=0.0) == pytest.approx([1, 1, 1, last], abs=1e-5)


def test_v05_eb_by_hand() -> None:
    # tau2 = .25, V = .5, mu = 0: s2 = (1 - 1/36) / 4 (see test_shrinkage), B = .5 s2 / (.25 + s2)
    noise = (1 - 1 / 36) / 4
    baseline = 0.5 * noise / (0.25 + noise)
    sigma = math.sqrt(1 - baseline**2)
    values = advantages.get("v05_eb", initial_tau2=0.25)([1, 1, -1, -1], prior=0.5)
    assert values == pytest.approx([(r - baseline) / sigma for r in (1, 1, -1, -1)], abs=1e-5)


@pytest.mark.parametrize("name", FUSED)
def test_a_missing_prior_is_refused_with_the_fix(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} needs prior, got none for 'group'; set value.enabled: true"):
        advantages.get(name)([1, -1])


def test_heavy_tails_are_bounded_and_counted() -> None:
    group = GroupView("p", (1, 1, 1, -1), prior=0.98)
    bounded = advantages.build("v05").compute([group])[0]
    free = advantages.build("v05", v_max=1.0, sigma_floor=0.0).compute([group])[0]
    assert free.values[-1] == pytest.approx(-9.95, abs=0.01)  # -1.98 / sqrt(1 - .98^2)
    assert bounded.values[-1] == pytest.approx(-6.245, abs=0.001)  # -1.95 / sqrt(1 - .95^2)
    assert (free.num_bounded, bounded.num_bounded) == (0, 4)
    floored = advantages.build("v05", v_max=1.0, sigma_floor=0.5).compute([group])[0]
    assert floored.values[-1] == pytest.approx(-1.98 / 0.5, abs=1e-4)
    assert floored.num_bounded == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [({"v_max": 0}, "v_max"), ({"sigma_floor": 2}, "sigma_floor"), ({"eps": 0, "sigma_floor": 0}, "not both")],
)
def test_bad_bounds_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        advantages.build("v05", **options)


@pytest.mark.parametrize("name", ["v05_loo", "v05_eb_loo"])
@given(
    prior=st.floats(-1, 1),
    rewards=st.lists(st.sampled_from([-1.0, 1.0]), min_size=2, max_size=12),
    own=st.sampled_from([-1.0, 1.0]),
)
def test_leave_one_out_ignores_its_own_reward(name: str, prior: float, rewards: list[float], own: float) -> None:
    # A_i is linear in r_i with a slope that the others alone set, so the two values differ by 2 slopes.
    changed = [own, *rewards[1:]]
    estimator = advantages.build(name, eps=0.0)
    (one,) = estimator.compute([GroupView("p", tuple(rewards), prior)])
    (other,) = estimator.compute([GroupView("p", tuple(changed), prior)])
    assert (one.values[0] == other.values[0]) == (own == rewards[0])
    assert one.weights is not None
    assert other.weights is not None
    assert one.weights[0] == other.weights[0]


def test_the_papers_baseline_shrinks_the_gradient_and_leave_one_out_does_not() -> None:
    # E[(r_i - B) r_i] / Var(r) is the gain on the policy gradient; 1 means unbiased. p = .5, K = 4, exact prior.
    def gain(name: str, error: float) -> float:
        rows = []
        for rewards in product((-1.0, 1.0), repeat=4):
            baselines = _baselines(name, error, rewards)
            rows.append(sum((r - b) * r for r, b in zip(rewards, baselines, strict=True)) / 4)
        return sum(rows) / len(rows)

    assert gain("v05", 0.0) == pytest.approx(0.91, abs=0.01)
    assert gain("v05", 0.8) == pytest.approx(0.76, abs=0.01)
    assert gain("v05_loo", 0.0) == pytest.approx(1)
    assert gain("v05_loo", 0.8) == pytest.approx(1)
    assert gain("v05_eb_loo", 0.8) == pytest.approx(1)


def test_an_adaptive_budget_leaves_leave_one_out_nearly_unbiased() -> None:
    _, row = gains(OslaRule(), 0.5, 0.8, num_groups=3000)
    assert row["v05_loo"] == pytest.approx(0.96, abs=0.02)
    assert row["v05"] == pytest.approx(0.89, abs=0.02)


def _baselines(name: str, prior: float, rewards: tuple[float, ...]) -> list[float]:
    if name == "v05":
        return [fuse(prior, rewards).baseline] * len(rewards)
    if name == "v05_loo":
        return [f.baseline for f in fuse_loo(prior, rewards)]
    return [f.baseline for f in fuse_eb_loo(prior, rewards, 0.3)]


def test_empirical_bayes_learns_from_cold_starts_alone() -> None:
    estimator = advantages.build("v05_eb", warm_groups=0, window=8)
    # (V - mu)^2 - (1 - mu^2) / (k - 1) over the first two rewards: .25 - 0 for +1 +1 against .5
    estimator.observe([GroupView("p", (1, 1, -1, -1), prior=0.5, num_cold_start=2)])
    assert estimator.metrics() == {"v05/tau2": 0.25, "v05/tau2_groups": 1.0}
    estimator.observe([GroupView("q", (1, -1), prior=0.5, num_cold_start=1)])
    assert estimator.metrics()["v05/tau2_groups"] == 1.0  # one reward says nothing of its own noise


def test_empirical_bayes_finds_the_priors_error_and_resumes() -> None:
    rng = random.Random(1)
    estimator = advantages.build("v05_eb_loo", window=4000)
    for i in range(4000):
        p = rng.uniform(0.2, 0.8)
        prior = 2 * p - 1 + rng.choice((-0.3, 0.3))
        rewards = tuple(1.0 if rng.random() < p else -1.0 for _ in range(4))
        estimator.observe([GroupView(str(i), rewards, prior)])
    assert estimator.metrics()["v05/tau2"] == pytest.approx(0.09, abs=0.02)
    resumed = advantages.build("v05_eb_loo", window=4000)
    resumed.load_state_dict(estimator.state_dict())
    group = GroupView("p", (1, -1, -1), prior=0.2)
    assert resumed.compute([group]) == estimator.compute([group])
