import pytest

from v05ray import advantages, budget, recipes
from v05ray.errors import ConfigError
from v05ray.job.config_files import make_config
from v05ray.recipes import RECIPES


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_builds_and_meets_its_own_needs(name: str) -> None:
    values = recipes.get(name).defaults()
    estimator = advantages.build(**values["advantage"])
    rule = budget.build(values["budget"]["rule"].pop("name"), values["budget"]["rule"])
    recipes.check_needs(
        estimator,
        rule,
        value_enabled=values["value"]["enabled"],
        mode=values["budget"].get("mode", "async"),
        group_filter=values["learner"]["group_filter"],
        punishes_length=values["rewards"]["overlong_buffer"] is not None,
    )


def test_v05_by_hand() -> None:
    assert recipes.get("v05").defaults() == {
        "advantage": {"name": "v05"},
        "budget": {"rule": {"name": "osla", "cold_start": 4, "cost": 1 / 256, "n_max": 16}, "mode": "async"},
        "learner": {
            "policy_loss": {"name": "ppo"},
            "aggregation": "token_mean",
            "clip_low": 0.2,
            "clip_high": 0.2,
            "group_filter": "none",
            "kl_coefficient": 0.0,
            "kl_estimator": "k3",
        },
        "rewards": {"overlong_buffer": None},
        "value": {"enabled": True},
    }
    assert recipes.get("grpo").defaults()["value"] == {"enabled": False}
    assert recipes.get("vip").defaults()["value"] == {"enabled": True}  # the rule needs it, the estimator does not


def test_kl_and_filter_are_where_they_were_published() -> None:
    learners = {name: recipe.defaults()["learner"] for name, recipe in RECIPES.items()}
    penalties = {name: (v["kl_coefficient"], v["kl_estimator"]) for name, v in learners.items() if v["kl_coefficient"]}
    assert penalties == {"grpo": (0.04, "k3")}
    assert [name for name, values in learners.items() if values["group_filter"] != "none"] == ["dapo"]


def test_long_responses_are_punished_where_that_was_published_and_an_estimator_can_use_it() -> None:
    buffers = {name: recipe.defaults()["rewards"]["overlong_buffer"] for name, recipe in RECIPES.items()}
    assert {name: buffer for name, buffer in buffers.items() if buffer is not None} == {"dapo": "auto"}
    minimal = {"model": {"path": "m"}, "data": {"train": "jsonl"}}
    assert (
        make_config({**minimal, "recipe": "dapo", "rewards": {"overlong_buffer": None}}).rewards.overlong_buffer is None
    )
    with pytest.raises(ConfigError, match=r"overlong_buffer makes rewards below -1, and advantage 'v05' cannot"):
        make_config({**minimal, "rewards": {"overlong_buffer": 4}})
    with pytest.raises(ConfigError, match=r"overlong_buffer 25 is more than the longest .*max_tokens 24\); lower it"):
        make_config({**minimal, "recipe": "dapo", "rewards": {"overlong_buffer": 25}})


def test_a_users_word_beats_the_recipes_kl_and_filter() -> None:
    minimal = {"model": {"path": "m"}, "data": {"train": "jsonl"}}
    assert make_config({**minimal, "recipe": "grpo", "learner": {"kl_coefficient": 0}}).learner.kl_coefficient == 0
    assert (
        make_config({**minimal, "recipe": "dapo", "learner": {"group_filter": "none"}}).learner.group_filter == "none"
    )
    with pytest.raises(ConfigError, match=r"mixed leaves out every group of one rollout.*group_filter: none"):
        make_config({**minimal, "recipe": "remax", "learner": {"group_filter": "mixed"}})


def test_every_estimator_and_every_rule_has_a_recipe() -> None:
    used = [recipe.defaults() for recipe in RECIPES.values()]
    assert {values["advantage"]["name"] for values in used} == set(advantages.ESTIMATORS.names)
    assert {values["budget"]["rule"]["name"] for values in used} == set(budget.RULES.names)


def test_defaults_are_fresh_copies() -> None:
    recipes.get("v05").defaults()["budget"]["rule"]["cold_start"] = 99
    assert recipes.get("v05").defaults()["budget"]["rule"]["cold_start"] == 4


def test_an_unknown_recipe_is_suggested_away() -> None:
    with pytest.raises(ConfigError, match="unknown recipe 'v05_lo'; did you mean 'v05_loo'"):
        recipes.get("v05_lo")


def test_what_must_see_the_whole_batch_is_not_streamed_or_judged_alone() -> None:
    whole, group = advantages.build("bnpo"), advantages.build("rloo")
    with pytest.raises(ConfigError, match=r"'bnpo' needs the whole batch.*set learner.stream_tokens: 0 \(got 512\)"):
        recipes.check_needs(whole, budget.FixedRule(4), value_enabled=False, stream_tokens=512)
    with pytest.raises(ConfigError, match=r"'hora' allots over the whole batch.*set budget.mode: rounds"):
        recipes.check_needs(group, budget.build("hora"), value_enabled=False)
    recipes.check_needs(group, budget.FixedRule(4), value_enabled=False, stream_tokens=512)


@pytest.mark.parametrize(
    ("advantage", "rule", "message"),
    [
        (
            "v05",
            budget.FixedRule(4),
            "advantage 'v05' needs a prior .* value.enabled is false; set value.enabled: true",
        ),
        ("rloo", budget.OslaRule(), "budget rule 'osla' needs a prior"),
        (
            "rloo",
            budget.FixedRule(1),
            "'rloo' needs >= 2 rollouts per prompt, but the budget rule 'fixed' may stop at 1",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(advantage: str, rule: budget.Rule, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipes.check_needs(advantages.build(advantage), rule, value_enabled=False)
