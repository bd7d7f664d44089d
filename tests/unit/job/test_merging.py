from pathlib import Path

import pytest

from tests.unit.job.writing import MINIMAL, SHORT, write
from v05ray.errors import ConfigError
from v05ray.job.config_files import load_config, make_config, to_yaml
from v05ray.recipes import RECIPES


def test_file_beats_recipe_and_overrides_beat_file(tmp_path: Path):
    path = write(tmp_path, "recipe: dapo\nmodel: {path: m}\ndata: {train: jsonl}\nlearner: {clip_high: 0.5}\n")
    assert load_config(path).learner.clip_high == 0.5
    assert load_config(path, ["learner.clip_high=0.3"]).learner.clip_high == 0.3
    assert make_config({**MINIMAL, "recipe": "dapo"}).learner.clip_high == pytest.approx(0.28)


def test_another_estimator_replaces_the_recipes_whole_choice_and_an_option_adds_to_it():
    assert make_config({**MINIMAL, "advantage": {"sigma_floor": 0.3}}).advantage.name == "v05"
    renamed = make_config({**MINIMAL, "advantage": {"name": "rloo"}}).advantage
    assert (renamed.name, renamed.options) == ("rloo", {})


def test_overrides_read_numbers_as_people_write_them_and_reach_into_specs(tmp_path: Path):
    path = write(tmp_path, to_yaml(make_config(MINIMAL)))
    config = load_config(path, ["learner.learning_rate=2e-5", "budget.rule.cost=1e-3", "data.eval=jsonl", "run.seed=7"])
    assert config.learner.learning_rate == 2e-5
    assert config.budget.rule.options["cost"] == 1e-3
    assert [source.name for source in config.data.eval or ()] == ["jsonl"]
    assert config.run.seed == 7


@pytest.mark.parametrize("override", ["run.seed", "=3", "run.seed.x=3"])
def test_an_override_that_is_none_is_refused(tmp_path: Path, override: str):
    path = write(tmp_path, to_yaml(make_config(MINIMAL)))
    with pytest.raises(ConfigError, match="override"):
        load_config(path, [override])


JOBS = sorted((Path(__file__).parents[3] / "jobs").glob("*.yaml"))


def test_every_recipe_replaces_the_algorithm_of_every_job_file():
    assert len(JOBS) >= 4
    for job in JOBS:
        for name, recipe in RECIPES.items():
            config, parts = load_config(job, [f"recipe={name}"]), recipe.defaults()
            assert (config.recipe, config.advantage.name) == (name, parts["advantage"]["name"])
            assert config.budget.rule.model_dump() == parts["budget"]["rule"]
            assert config.budget.mode == parts["budget"]["mode"]
            parts["learner"]["policy_loss"] = parts["learner"]["policy_loss"]["name"]
            assert config.learner.model_dump().items() >= parts["learner"].items()
            assert config.value.enabled == parts["value"]["enabled"]


def test_a_recipe_of_the_command_line_replaces_every_part_in_the_file_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = write(
        tmp_path,
        SHORT
        + "advantage: {name: v05, sigma_floor: 0.3}\nbudget: {mode: rounds, halt_fraction: 0.5, rule: {cost: 1}}\n"
        "learner: {clip_high: 0.5, stream_tokens: 99, learning_rate: 1e-3, aggregation: token_mean}\n"
        "value: {enabled: false, pool_size: 2}\n",
    )
    config = load_config(path, ["recipe=bnpo"])
    assert (config.advantage.name, config.advantage.options) == ("bnpo", {})
    assert config.budget.rule.model_dump() == {"name": "fixed", "n": 16}
    assert (config.budget.mode, config.learner.clip_high, config.learner.stream_tokens) == ("async", 0.2, 0)
    # What is no part of a recipe stays.
    assert (config.budget.halt_fraction, config.learner.learning_rate, config.value.pool_size) == (0.5, 1e-3, 2)
    (line,) = caplog.messages
    for said in (
        "advantage.sigma_floor (no option of 'bnpo')",
        "budget.rule.cost (no option of 'fixed')",
        "learner.clip_high (recipe=bnpo sets 0.2)",
        "budget.mode (recipe=bnpo sets async)",
        "learner.stream_tokens (recipe=bnpo sets 0)",
    ):
        assert said in line
    assert "aggregation" not in line


def test_options_that_the_new_estimator_has_too_stay_and_the_command_line_outranks_the_recipe(tmp_path: Path):
    path = write(tmp_path, SHORT + "advantage: {sigma_floor: 0.3}\nlearner: {clip_high: 0.5}\n")
    config = load_config(path, ["recipe=v05_eb", "learner.clip_high=0.4", "budget.rule.cost=1e-3"])
    assert config.advantage.model_dump() == {"name": "v05_eb", "sigma_floor": 0.3}
    assert config.learner.clip_high == 0.4
    assert config.budget.rule.options == {"cold_start": 4, "cost": 1e-3, "n_max": 16}
    assert load_config(path, ["recipe=grpo", "advantage.name=rloo"]).advantage.model_dump() == {"name": "rloo"}
    assert load_config(path, ["advantage=grpo"]).advantage.model_dump() == {"name": "grpo"}
    with pytest.raises(ConfigError, match="'grpo' has no option 'sigma_floor'"):
        load_config(path, ["recipe=grpo", "advantage.sigma_floor=0.3"])
    with pytest.raises(ConfigError, match=r"'bnpo' needs the whole batch.*stream_tokens: 0"):
        load_config(path, ["recipe=bnpo", "learner.stream_tokens=9"])


def test_a_recipe_that_the_file_names_lies_beneath_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = write(tmp_path, SHORT + "recipe: grpo\nlearner: {clip_high: 0.5}\nadvantage: {std_floor: 1}\n")
    with pytest.raises(ConfigError, match="'grpo' has no option 'std_floor'"):
        load_config(path)
    assert load_config(path, ["advantage.name=rloo"]).advantage.model_dump() == {"name": "rloo"}
    assert "advantage.std_floor (no option of 'rloo')" in caplog.text
    assert load_config(path, ["advantage.name=rloo"]).learner.clip_high == 0.5
    for typo in ("", "grop"):
        with pytest.raises(ConfigError, match=f"unknown recipe '{typo}'"):
            load_config(path, [f"recipe={typo}"])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.suffix= Put the answer after #### on a new line", " Put the answer after #### on a new line"),
        ("data.suffix= Answer with just the number.", " Answer with just the number."),
        ('data.suffix="a\\nb #1"', "a\nb #1"),
        ("data.suffix=' a '", " a "),
        ("data.suffix='a' or 'b'", "'a' or 'b'"),
        ("data.suffix={x}: [y", "{x}: [y"),
        ("data.suffix=a=b", "a=b"),
        ("data.suffix=", ""),
        ("data.system_prompt=null", None),
        ("data.shuffle=off", False),
        ("run.seed=7 # the seventh", 7),
        ("learner.betas=[0.8, 0.9]", (0.8, 0.9)),
        ("run.output_dir=/x/out put #1", Path("/x/out put #1")),
        ("data.eval=null", None),
    ],
)
def test_an_overrides_value_is_taken_as_typed(tmp_path: Path, override: str, value: object):
    config: object = load_config(write(tmp_path, SHORT), [override])
    for key in override.partition("=")[0].split("."):
        config = getattr(config, key)
    assert config == value


def test_options_are_read_by_the_types_of_what_takes_them(tmp_path: Path):
    path = write(tmp_path, SHORT)
    config = load_config(path, ["data.train.path=a #1.jsonl", "data.train.answer_after=####", "data.train.source=0042"])
    assert config.data.train[0].options == {"path": "a #1.jsonl", "answer_after": "####", "source": "0042"}
    assert load_config(path, ["data.train.path=[a.jsonl, 0042]"]).data.train[0].options["path"] == ["a.jsonl", "0042"]
    rewards = load_config(path, ["rewards.verifier=exact", "rewards.verifier.ignore_case=yes"]).rewards
    assert rewards.verifier.options == {"ignore_case": True}
    written = write(tmp_path, SHORT + "advantage: {sigma_floor: 3e-1}\n")
    assert load_config(written).advantage.options == {"sigma_floor": 0.3}


SOURCES = """\
model: {path: m}
data:
  train:
    - {name: reasoning_gym, task: gcd, size: 5, seed: 1, weight: 2}
    - jsonl
    - {name: jsonl, path: x, weight: 1, verifier: math}
"""


@pytest.mark.parametrize(
    ("overrides", "place", "expected"),
    [
        (["data.train.0.size=100"], 0, {"name": "reasoning_gym", "task": "gcd", "size": 100, "seed": 1, "weight": 2}),
        (["data.train.1.path=0042"], 1, {"name": "jsonl", "path": "0042"}),
        (
            ["data.train.2.verifier=exact", "data.train.2.verifier.ignore_case=on"],
            2,
            {"name": "jsonl", "path": "x", "weight": 1, "verifier": {"name": "exact", "ignore_case": True}},
        ),
        (["data.train.0.name=jsonl", "data.train.0.path=y"], 0, {"name": "jsonl", "path": "y", "weight": 2}),
        (["data.train.0={name: jsonl, path: 0042}"], 0, {"name": "jsonl", "path": "0042"}),
        (["data.train=jsonl", "data.train.path=y"], 0, {"name": "jsonl", "path": "y"}),
        (["data.train=[{name: jsonl, path: y}]"], 0, {"name": "jsonl", "path": "y"}),
    ],
)
def test_a_number_in_a_dotted_key_is_a_place_in_a_list(tmp_path: Path, overrides, place: int, expected: dict):
    path = write(tmp_path, SOURCES)
    sources = load_config(path, overrides).data.train
    assert sources[place].model_dump(mode="json") == expected
    before = load_config(path).data.train
    if len(sources) == len(before):
        assert [s for i, s in enumerate(sources) if i != place] == [s for i, s in enumerate(before) if i != place]


def test_one_source_is_a_list_of_one(tmp_path: Path):
    path = write(tmp_path, "model: {path: m}\ndata: {train: {name: jsonl, path: x}}\n")
    for override in ("data.train.0.path=y", "data.train.path=y"):
        assert load_config(path, [override]).data.train[0].options == {"path": "y"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train.size=100", r"data\.train is a list: say which of its 3 entries, such as data\.train\.0\.size"),
        ("data.train.3.size=100", r"data\.train\.3: data\.train has 3 entries, counted from 0"),
        ("data.eval.0.size=100", r"data\.eval\.0: data\.eval has 0 entries"),
        ("data.train.0=null", r"data\.train\.0: expected a source"),
        ("run.0.seed=1", r"unknown key 'run\.0'"),
        ("run.output_dir=", r"run\.output_dir: .*an empty path; the current folder is `\.`"),
    ],
)
def test_a_place_that_is_none_is_refused(tmp_path: Path, override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, SOURCES), [override])


def test_of_an_override_given_twice_the_last_one_counts(tmp_path: Path):
    path = write(tmp_path, SOURCES)
    assert load_config(path, ["run.seed=1", "run.seed=2"]).run.seed == 2
    assert load_config(path, ["advantage.sigma_floor=0.5", "advantage=v05_eb"]).advantage.name == "v05_eb"
