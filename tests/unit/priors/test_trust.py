import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v05ray.priors.trust import Outcome, PriorTrust, fit_platt
from v05ray.stats.rates import expected_calibration_error
from v05ray.types import Prior

SCORES = st.floats(-1, 1)
OUTCOMES = st.lists(st.tuples(st.one_of(st.none(), SCORES), SCORES, st.integers(1, 16)), max_size=12)


def simulate(num_groups: int, seed: int, *, flipped: bool = False, noise: float = 0.0) -> list[Outcome]:
    """Prompts of success rate U(.05, .95), four rollouts each; the prior is the truth, blurred or turned around."""
    rng = random.Random(seed)
    outcomes = []
    for _ in range(num_groups):
        rate = rng.uniform(0.05, 0.95)
        prior = 2 * rate - 1 + rng.gauss(0, noise)
        prior = max(-0.95, min(0.95, -prior if flipped else prior))
        mean = sum(1 if rng.random() < rate else -1 for _ in range(4)) / 4
        outcomes.append(Outcome(prior, mean, 4))
    return outcomes


def feed(trust: PriorTrust, outcomes: list[Outcome], step: int = 32) -> None:
    for start in range(0, len(outcomes), step):
        trust.observe(outcomes[start : start + step])


def test_scores_of_two_groups_worked_by_hand():
    trust = PriorTrust()
    # Probabilities .75 and .5 against observed 1 and 0; the base rate before any outcome is .5.
    trust.observe([Outcome(0.5, 1.0, 4), Outcome(0.0, -1.0, 4)])
    metrics = trust.metrics()
    assert metrics["v05/prior_brier"] == pytest.approx((0.0625 + 0.25) / 2)
    assert metrics["v05/prior_brier_base_rate"] == pytest.approx(0.25)
    assert metrics["v05/prior_skill"] == pytest.approx(1 - 0.3125 / 0.5)
    # |mu - V| = .5 and 1 against the radius 1 / sqrt(4) = .5, which still accepts at equality.
    assert metrics["v05/prior_rejected_share"] == 0.5
    # (V - mu)^2 = .25 and 1; the noise (1 - mu^2) / 3 of a unanimous group is 0.
    assert metrics["v05/prior_tau2"] == pytest.approx(0.625)
    # Bins [.7, .8) and [.5, .6): gaps .25 and .5.
    assert metrics["v05/prior_ece"] == pytest.approx(0.375)
    # Laplace: (1 + 0 + 1) / (2 + 2).
    assert metrics["v05/prior_base_rate"] == 0.5


def test_tau2_takes_the_rollouts_own_noise_off():
    trust = PriorTrust()
    trust.observe([Outcome(0.5, 0.0, 4)])  # (.5)^2 - (1 - 0) / 3 < 0
    assert trust.metrics()["v05/prior_tau2"] == 0.0


def test_groups_without_a_raw_prior_move_the_base_rate_alone():
    trust = PriorTrust()
    trust.observe([(None, 1.0, 4), (None, 1.0, 4)])
    assert trust.base_rate == pytest.approx(3 / 4)
    assert "v05/prior_brier" not in trust.metrics()


def test_early_priors_pass_unchanged_but_for_the_clip():
    trust = PriorTrust(v_max=0.9)
    early = trust.transform(Prior("p", 0.25, 3))
    assert early.value == pytest.approx(0.25)
    assert early == Prior("p", early.value, 3)
    assert trust.transform(Prior("p", -1.0, 3)).value == pytest.approx(-0.9)
    base = Prior("p", 0.99, 3, "base_rate")
    assert trust.transform(base) is base


def test_a_good_prior_is_never_dropped():
    trust = PriorTrust()
    for seed in range(20):
        feed(trust, simulate(64, seed, noise=0.2))
        assert trust.trusted
    assert trust.metrics()["v05/prior_skill"] > 0.3


def test_a_flipped_prior_is_caught_within_the_window_and_falls_back_to_the_base_rate():
    trust = PriorTrust(window=256, min_groups=64)
    feed(trust, simulate(64, 0, flipped=True))
    assert not trust.trusted
    prior = trust.transform(Prior("p", 0.8, 3))
    assert prior.value == pytest.approx(2 * trust.base_rate - 1)
    assert prior == Prior("p", prior.value, 3, "base_rate")


def test_a_prior_that_turns_bad_later_is_caught_and_comes_back_when_it_is_good_again():
    trust = PriorTrust(window=128, min_groups=64)
    feed(trust, simulate(256, 0))
    assert trust.trusted
    feed(trust, simulate(128, 1, flipped=True))
    assert not trust.trusted
    feed(trust, simulate(256, 2))
    assert trust.trusted
    assert trust.metrics()["v05/prior_num_fallbacks"] == 1


def test_the_gate_has_hysteresis():
    """Skill that dithers around zero closes the gate once; it opens above `return_skill` alone."""
    trust = PriorTrust(window=64, min_groups=64, recalibrate=False, return_skill=0.5)
    feed(trust, simulate(64, 0, flipped=True))
    feed(trust, simulate(256, 1, noise=0.5))
    assert 0 < trust.window_skill < 0.5
    assert not trust.trusted


def test_without_the_fallback_the_bad_prior_stays():
    trust = PriorTrust(recalibrate=False, fallback=False)
    feed(trust, simulate(256, 0, flipped=True))
    assert trust.trusted
    assert trust.transform(Prior("p", 0.5, 1)).value == pytest.approx(0.5)


def test_recalibration_repairs_an_overconfident_prior():
    rng = random.Random(0)
    outcomes = []
    for _ in range(512):
        margin = rng.gauss(0, 0.7)
        rate = 1 / (1 + math.exp(-margin))
        overconfident = 2 / (1 + math.exp(-3 * margin - 1)) - 1
        mean = sum(1 if rng.random() < rate else -1 for _ in range(4)) / 4
        outcomes.append(Outcome(overconfident, mean, 4))
    plain, repaired = PriorTrust(recalibrate=False), PriorTrust()
    feed(plain, outcomes)
    feed(repaired, outcomes)
    assert repaired.metrics()["v05/prior_platt_slope"] == pytest.approx(1 / 3, abs=0.1)  # logits are cut at 5
    assert repaired.window_skill > plain.window_skill + 0.1


def test_platt_of_a_calibrated_prior_is_the_identity_and_the_ridge_holds_it_there():
    pairs = [(p / 20, p / 20) for p in range(1, 20)]
    assert fit_platt(pairs, ridge=1.0) == pytest.approx((1.0, 0.0), abs=1e-6)
    assert fit_platt([(0.9, 0.0)] * 3, ridge=1e6) == pytest.approx((1.0, 0.0), abs=1e-4)


def test_platt_solves_its_own_optimality_condition():
    pairs = [(0.2, 0.5), (0.4, 0.25), (0.6, 0.75), (0.9, 0.7), (0.8, 1.0)]
    slope, intercept = fit_platt(pairs, ridge=2.0)
    residuals = [(math.log(p / (1 - p)), p, y) for p, y in pairs]
    probabilities = [1 / (1 + math.exp(-(slope * x + intercept))) for x, _, _ in residuals]
    gradient0 = 2.0 * (slope - 1) + sum((q - y) * x for q, (x, _, y) in zip(probabilities, residuals, strict=True))
    gradient1 = 2.0 * intercept + sum(q - y for q, (_, _, y) in zip(probabilities, residuals, strict=True))
    assert gradient0 == pytest.approx(0, abs=1e-6)
    assert gradient1 == pytest.approx(0, abs=1e-6)


def test_a_group_counts_as_many_times_as_it_has_rollouts():
    pairs, weights = [(0.2, 0.5), (0.4, 0.25), (0.9, 1.0)], [4, 1, 2]
    repeated = [pair for pair, weight in zip(pairs, weights, strict=True) for _ in range(weight)]
    assert fit_platt(pairs, ridge=2.0, weights=weights) == pytest.approx(fit_platt(repeated, ridge=2.0), abs=1e-6)


def test_a_muted_prior_on_rare_successes_is_sharpened():
    """Half of the prompts are never solved, half one time in six; V0 says .06 and .11."""
    rng = random.Random(0)
    outcomes = []
    for _ in range(1024):
        rate, said = rng.choice([(0.0, 0.06), (0.16, 0.11)])
        mean = sum(1 if rng.random() < rate else -1 for _ in range(4)) / 4
        outcomes.append(Outcome(2 * said - 1, mean, 4))
    plain, repaired = PriorTrust(recalibrate=False), PriorTrust()
    feed(plain, outcomes)
    feed(repaired, outcomes)
    assert repaired.metrics()["v05/prior_platt_slope"] > 2
    assert repaired.window_skill > plain.window_skill + 0.03


def test_recalibrating_a_prior_that_knows_nothing_makes_it_the_base_rate():
    rng = random.Random(1)
    outcomes = []
    for _ in range(1024):
        mean = sum(1 if rng.random() < 0.1 else -1 for _ in range(4)) / 4
        outcomes.append(Outcome(rng.uniform(-0.95, -0.5), mean, 4))
    trust = PriorTrust(fallback=False)
    feed(trust, outcomes)
    assert trust.window_skill == pytest.approx(0, abs=0.02)


def test_a_prior_that_points_the_wrong_way_gets_slope_zero_not_a_negative_one():
    slope, intercept = fit_platt([(0.9, 0.1)] * 50 + [(0.1, 0.7)] * 50, ridge=0.1)
    assert slope == 0
    assert 1 / (1 + math.exp(-intercept)) == pytest.approx(0.4, abs=0.01)


def test_calibration_error_worked_by_hand():
    # Bin [.2, .3): mean .2 against .5; bin [.9, 1]: mean .95 against 1.
    assert expected_calibration_error([(0.2, 0.0), (0.2, 1.0), (0.9, 1.0), (1.0, 1.0)]) == pytest.approx(
        0.5 * 0.3 + 0.5 * 0.05
    )
    assert expected_calibration_error([]) == 0


@given(st.lists(OUTCOMES, max_size=8), OUTCOMES)
def test_a_restored_state_continues_identically(past, future):
    trust = PriorTrust(window=24, min_groups=4)
    for outcomes in past:
        trust.observe(outcomes)
    copy = PriorTrust(window=24, min_groups=4)
    copy.load_state_dict(json.loads(json.dumps(trust.state_dict())))
    for one in (trust, copy):
        one.observe(future)
    assert copy.metrics() == trust.metrics()
    assert copy.transform(Prior("p", 0.3, 0)) == trust.transform(Prior("p", 0.3, 0))


@given(st.lists(OUTCOMES, max_size=8), SCORES, SCORES)
def test_whatever_was_seen_the_prior_stays_in_bounds_and_in_order(past, one, other):
    trust = PriorTrust(window=24, min_groups=4)
    for outcomes in past:
        trust.observe(outcomes)
    low, high = (trust.transform(Prior("p", value, 0)).value for value in sorted((one, other)))
    assert -0.95 <= low <= high <= 0.95
    assert all(math.isfinite(value) for value in trust.metrics().values())


@pytest.mark.parametrize(
    ("outcome", "message"),
    [((1.5, 0.0, 4), "raw prior"), ((0.0, math.nan, 4), "mean"), ((0.0, 0.0, 0), "at least one rollout")],
)
def test_outcomes_outside_the_scale_are_refused(outcome, message):
    with pytest.raises(ValueError, match=message):
        PriorTrust().observe([outcome])


def test_windows_smaller_than_the_first_judgement_are_refused():
    with pytest.raises(ValueError, match="min_groups <= window"):
        PriorTrust(window=10, min_groups=20)
