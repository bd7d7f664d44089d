"""Whole comparisons against what is known exactly."""

import math
import random

import pytest

from v05ray import recipes
from v05ray.errors import ConfigError
from v05ray.simulate.cluster import Cluster
from v05ray.simulate.compare import Contender, Row, Settings, compare
from v05ray.simulate.report import mean_mse
from v05ray.simulate.worlds import World, u_shaped

QUICK = Settings(batch_size=64, num_warm_epochs=1, num_epochs=2)


def rows(rates: list[float], rms: float, *names: str, settings: Settings = QUICK) -> dict[str, Row]:
    world = World.of(rates, prior_rms=rms)
    contenders = [Contender.parse(name) for name in names]
    return {row.name: row for row in compare(world, contenders, settings, Cluster(num_generators=2))}


def test_a_contender_is_a_recipe_or_an_estimator_at_a_rule() -> None:
    recipe = Contender.parse("v05_eb")
    assert (recipe.estimator, recipe.rule, recipe.rule_options["n_max"]) == ("v05_eb", "osla", 16)
    pair = Contender.parse("rloo@reinforce_ada:n=4:until=success")
    assert (pair.estimator, pair.rule, pair.rule_options) == ("rloo", "reinforce_ada", {"n": 4, "until": "success"})
    assert Contender.parse("grpo@hora").mode == "rounds"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("v05_ebb", "did you mean 'v05_eb'"),
        ("v05@osl", "did you mean 'osla'"),
        ("rloo@fixed:n", "KEY=VALUE"),
        ("rloo@fixed:n=1", "needs >= 2 rollouts"),
        ("rloo@fixed:m=4", "no option 'm'"),
    ],
)
def test_a_contender_that_cannot_be_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Contender.parse(text)


def test_the_mean_errs_as_its_variance_says_and_its_gain_is_known() -> None:
    rates = u_shaped(600, random.Random(2))
    found = rows(rates, 0.2, "grpo@fixed:n=4", "rloo@fixed:n=4")
    grpo, rloo = found["grpo@fixed:n=4"], found["rloo@fixed:n=4"]
    assert grpo.rollouts == 4
    assert grpo.mse == pytest.approx(mean_mse(rates, 4), abs=3 * grpo.mse_stderr)
    assert rloo.mse == pytest.approx(mean_mse(rates, 3), abs=3 * rloo.mse_stderr)
    assert grpo.gain == pytest.approx(0.75, abs=0.03)
    assert rloo.gain == pytest.approx(1.0, abs=0.04)
    assert grpo.false_rejections is None


def test_empirical_bayes_learns_how_good_the_prior_is() -> None:
    rates = u_shaped(400, random.Random(3))
    exact = rows(rates, 0.0, "v05_eb@fixed:n=4", "v05@fixed:n=4")
    wrong = rows(rates, 0.8, "v05_eb@fixed:n=4", "v05@fixed:n=4", "grpo@fixed:n=4")
    assert exact["v05_eb@fixed:n=4"].mse < 0.2 * exact["v05@fixed:n=4"].mse
    assert wrong["v05_eb@fixed:n=4"].mse < min(wrong["v05@fixed:n=4"].mse, wrong["grpo@fixed:n=4"].mse)


def test_the_bias_of_a_wrong_prior_shows_and_that_of_the_mean_does_not() -> None:
    settings = Settings(batch_size=200, num_warm_epochs=0, num_epochs=6)
    found = rows([0.5] * 200, 0.6, "v05@fixed:n=4", "rloo@fixed:n=4", settings=settings)
    assert found["v05@fixed:n=4"].bias > 0.1
    assert found["rloo@fixed:n=4"].bias < 0.06


def test_an_exact_prior_is_rejected_as_often_as_the_binomial_says() -> None:
    found = rows([0.5] * 800, 0.0, "v05")
    assert found["v05"].false_rejections == pytest.approx(0.125, abs=0.03)  # four equal rewards of four: 2/16
    assert found["v05"].false_acceptances is None  # no prior is wrong


def test_a_greedy_rollout_is_paid_for() -> None:
    assert rows([0.3] * 64, 0.0, "remax")["remax"].rollouts == 2


def test_every_recipe_can_be_compared() -> None:
    found = rows(u_shaped(64, random.Random(4)), 0.3, *recipes.RECIPES)
    for row in found.values():
        assert 0 <= row.mse <= 4, row
        assert row.makespan_s > 0, row
        assert row.over_bound >= 1 - 1e-9, row
        assert math.isfinite(row.gain), row


def test_contenders_meet_the_same_responses() -> None:
    found = rows(u_shaped(64, random.Random(5)), 0.3, "grpo", "dr_grpo", "bnpo")
    assert found["grpo"].mse == pytest.approx(found["dr_grpo"].mse) == pytest.approx(found["bnpo"].mse)
    assert found["grpo"].makespan_s == found["dr_grpo"].makespan_s


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_epochs >= 2"):
        Settings(num_epochs=1)
