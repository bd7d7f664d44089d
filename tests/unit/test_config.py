from pathlib import Path

import pytest

from v05ray.config import Config, Section
from v05ray.config_files import load_config, make_config, to_yaml
from v05ray.recipes import RECIPES
from v05ray.registry import ConfigError

MINIMAL = {"model": {"path": "m"}, "data": {"train": "jsonl"}}


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def test_defaults_are_the_paper():
    config = make_config(MINIMAL)
    assert config.advantage.name == "v05"
    assert config.budget.rule.name == "osla"
    assert config.budget.halt_fraction == 1 / 16
    assert (config.value.support_capacity, config.value.support_size) == (512, 256)


def test_file_beats_recipe_and_overrides_beat_file(tmp_path: Path):
    path = write(tmp_path, "recipe: dapo\nmodel: {path: m}\ndata: {train: jsonl}\nlearner: {clip_high: 0.5}\n")
    assert load_config(path).learner.clip_high == 0.5
    assert load_config(path, ["learner.clip_high=0.3"]).learner.clip_high == 0.3
    assert make_config({**MINIMAL, "recipe": "dapo"}).learner.clip_high == pytest.approx(0.28)


def test_another_estimator_replaces_the_recipes_whole_choice_and_an_option_adds_to_it():
    assert make_config({**MINIMAL, "advantage": {"sigma_floor": 0.3}}).advantage.name == "v05"
    renamed = make_config({**MINIMAL, "advantage": {"name": "rloo"}}).advantage
    assert (renamed.name, renamed.options) == ("rloo", {})


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_makes_a_config_that_reads_back_equal(recipe: str, tmp_path: Path):
    config = make_config({**MINIMAL, "recipe": recipe})
    assert load_config(write(tmp_path, to_yaml(config))) == config


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"learner": {"learning_rat": 1}}, "unknown key 'learner.learning_rat'; did you mean 'learning_rate'?"),
        ({"learnr": {}}, "unknown key 'learnr'; did you mean 'learner'?"),
        ({"recipe": "grop"}, "unknown recipe 'grop'; did you mean 'grpo'?"),
        ({"advantage": {"name": "v06"}}, "unknown advantage 'v06'; did you mean 'v05'?"),
        ({"advantage": {"sigma_flor": 1}}, "has no option 'sigma_flor'; did you mean 'sigma_floor'?"),
        ({"budget": {"rule": {"name": "osla", "n_max": 2}}}, "n_max"),
        ({"run": {"prompts_per_step": 0}}, "run.prompts_per_step: Input should be greater than or equal to 1, got 0"),
        ({"value": {"enabled": False}}, "value.enabled"),
        ({"value": {"support_size": 600}}, "value.support_size 600 exceeds value.support_capacity 512"),
        ({"sampling": {"max_tokens": 512}}, "sampling.max_tokens 512 leaves no room"),
        ({"model": {}}, "model.path is required"),
        ({"recipe": "grpo", "budget": {"rule": {"name": "fixed", "n": 1}}}, "2"),
    ],
)
def test_what_is_wrong_is_named_with_its_mending(written: dict, message: str):
    with pytest.raises(ConfigError) as caught:
        make_config({**MINIMAL, **written})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- a\n", "expected a mapping of sections, got list"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.yaml")


def test_overrides_read_numbers_as_people_write_them_and_reach_into_specs(tmp_path: Path):
    path = write(tmp_path, to_yaml(make_config(MINIMAL)))
    config = load_config(path, ["learner.learning_rate=2e-5", "budget.rule.cost=1e-3", "data.eval=jsonl", "run.seed=7"])
    assert config.learner.learning_rate == 2e-5
    assert config.budget.rule.options["cost"] == 1e-3
    assert [source.name for source in config.data.eval or ()] == ["jsonl"]
    assert config.run.seed == 7


def test_one_source_of_prompts_or_a_list_is_saved_as_it_was_written(tmp_path: Path):
    gcd = {"name": "reasoning_gym", "task": "gcd", "size": 5}
    for train in (gcd, [gcd, {"name": "jsonl", "path": "x", "weight": 2.0, "label": "mine", "verifier": "math"}]):
        config = make_config({**MINIMAL, "data": {"train": train}})
        dumped = config.model_dump(mode="json")["data"]["train"]
        if isinstance(train, dict):
            assert dumped == gcd
        else:
            assert dumped == [gcd, {**train[1], "verifier": {"name": "math"}}]
        assert load_config(write(tmp_path, to_yaml(config))) == config
    assert [source.options for source in config.data.train] == [{"task": "gcd", "size": 5}, {"path": "x"}]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], r"data\.train: Tuple should have at least 1 item"),
        ([{"name": "jsonl", "weight": 0}], r"data\.train\.0\.weight: Input should be greater than 0"),
        ([{"name": "jsonl"}, {"path": "x"}], r"data\.train\.1\.name is required"),
    ],
)
def test_a_list_of_sources_that_cannot_be_read_is_refused_by_its_place(train, message):
    with pytest.raises(ConfigError, match=message):
        make_config({**MINIMAL, "data": {"train": train}})


@pytest.mark.parametrize("override", ["run.seed", "=3", "run.seed.x=3"])
def test_an_override_that_is_none_is_refused(tmp_path: Path, override: str):
    path = write(tmp_path, to_yaml(make_config(MINIMAL)))
    with pytest.raises(ConfigError, match="override"):
        load_config(path, [override])


def test_every_field_says_what_it_is():
    sections = [field.annotation for field in Config.model_fields.values()]
    fields = [
        f
        for section in sections
        if isinstance(section, type) and issubclass(section, Section)
        for f in section.model_fields.items()
    ]
    assert [name for name, field in fields if not field.description] == []
    assert len(fields) > 50
