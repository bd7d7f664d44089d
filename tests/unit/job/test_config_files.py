import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from v05ray.config import Config, Section
from v05ray.errors import ConfigError
from v05ray.job.config_files import load_config, make_config, to_yaml
from v05ray.recipes import RECIPES
from v05ray.registry import Registry

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


JOBS = sorted((Path(__file__).parents[3] / "jobs").glob("*.yaml"))
SHORT = "model: {path: m}\ndata: {train: {name: jsonl, path: x}}\n"


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


@pytest.mark.parametrize("name", ["0042", "2025-11-25", "2025-13-45", "on", "1e5", "null", "0x1F", "1_000", "no"])
def test_a_text_field_gets_the_text(tmp_path: Path, name: str):
    assert load_config(write(tmp_path, SHORT), [f"run.name={name}"]).run.name == name
    config = load_config(write(tmp_path, SHORT + f"run: {{name: {name}}}\n"))
    assert config.run.name == name
    assert load_config(write(tmp_path, to_yaml(config))) == config


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "learner: {clip_low: 0.1}\nlearner: {clip_high: 0.3}\n",
            "line 4: 'learner' is written twice (first on line 3)",
        ),
        ("run:\n  seed: 1\n  num_steps: 3\n  seed: 2\n", "line 6: 'run.seed' is written twice (first on line 4)"),
        ("run: {seed: 1, seed: 1}\n", "line 3: 'run.seed' is written twice"),
        ("a: [\n", "not valid YAML"),
        ("run: &a [*a]\n", "an alias contains itself"),
    ],
)
def test_what_is_written_twice_or_is_no_yaml_is_refused_with_its_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, SHORT + text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_section_with_all_its_keys_commented_out_is_an_empty_one(tmp_path: Path):
    assert load_config(write(tmp_path, SHORT + "learner:\n  # learning_rate: 1\n")).learner.clip_low == 0.2


def test_the_home_folder_is_expanded_in_every_path_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/ada")
    published = "value.published={checkpoint: ~/c, backbone: ~/b, head: h}"
    paths = ["run.output_dir=~/x", "model.path=~", "value.bundle=~/v", "cluster.temp_dir=~/t", published]
    config = load_config(write(tmp_path, SHORT), paths)
    assert (config.run.output_dir, config.model.path) == (Path("/home/ada/x"), Path("/home/ada"))
    assert (config.value.bundle, config.cluster.temp_dir) == (Path("/home/ada/v"), Path("/home/ada/t"))
    assert config.value.published is not None
    assert config.value.published.checkpoint == Path("/home/ada/c")
    assert config.value.published.head == Path("h")
    assert load_config(write(tmp_path, SHORT), ["model.path=a~b/~"]).model.path == Path("a~b/~")
    with pytest.raises(ConfigError, match=r"model.path: .*no home folder is known for '~nobody-here'"):
        load_config(write(tmp_path, SHORT), ["model.path=~nobody-here/m"])


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


@pytest.mark.parametrize("text", ["", "# nothing\n", "null\n", "~\n"])
def test_an_empty_file_lacks_what_has_no_default(tmp_path: Path, text: str):
    with pytest.raises(ConfigError, match="model is required"):
        load_config(write(tmp_path, text))
    with pytest.raises(ConfigError, match="expected a mapping of sections, got int"):
        load_config(write(tmp_path, "0042\n"))


def test_of_an_override_given_twice_the_last_one_counts(tmp_path: Path):
    path = write(tmp_path, SOURCES)
    assert load_config(path, ["run.seed=1", "run.seed=2"]).run.seed == 2
    assert load_config(path, ["advantage.sigma_floor=0.5", "advantage=v05_eb"]).advantage.name == "v05_eb"


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "-x", "a b", "a/b", "ünï", "x\n", "~", "a" * 201, ""])
def test_a_run_is_not_named_what_is_no_safe_name_of_a_folder(name: str):
    with pytest.raises(ConfigError, match=r"run\.name: a name "):
        make_config(MINIMAL | {"run": {"name": name}})


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10), ("-1", None), ("1_000", 1000), ("1e3", 1000), ("1:30", None), ("true", None), ("yes", None)],
)
def test_a_number_is_read_as_people_mean_it_and_truth_is_none(tmp_path: Path, text: str, value: int | None):
    for load in (
        lambda: load_config(write(tmp_path, SHORT), [f"run.num_steps={text}"]),
        lambda: load_config(write(tmp_path, SHORT + f"run: {{num_steps: {text}}}\n")),
    ):
        if value is None:
            with pytest.raises(ConfigError, match=r"run\.num_steps: "):
                load()
        else:
            assert load().run.num_steps == value


@pytest.mark.parametrize("field", ["prefix", "suffix", "assistant_prefix"])
def test_null_is_not_written_before_or_after_a_question(tmp_path: Path, field: str):
    with pytest.raises(ConfigError, match=f"data.{field}: null would be written there as text"):
        load_config(write(tmp_path, SHORT), [f"data.{field}=null"])
    assert getattr(load_config(write(tmp_path, SHORT), [f"data.{field}="]).data, field) == ""


def test_variables_of_the_environment_stand_in_paths_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCRATCH", "/big")
    monkeypatch.delenv("NOWHERE", raising=False)
    path = write(tmp_path, SHORT)
    config = load_config(path, ["run.output_dir=$SCRATCH/x", "model.path=${SCRATCH}/m", "data.suffix=$SCRATCH"])
    assert (str(config.run.output_dir), str(config.model.path), config.data.suffix) == ("/big/x", "/big/m", "$SCRATCH")
    with pytest.raises(ConfigError, match=r"run.output_dir: the environment has no variable 'NOWHERE'"):
        load_config(path, ["run.output_dir=$NOWHERE/x"])
    (tmp_path / "a$NOWHERE").mkdir()
    assert load_config(path, [f"model.path={tmp_path}/a$NOWHERE"]).model.path.name == "a$NOWHERE"


@pytest.mark.parametrize("address", ["s3://bucket/x", "file:///x", "hf://org/model", "https://host/m"])
@pytest.mark.parametrize("key", ["run.output_dir", "model.path"])
def test_an_address_is_no_path(tmp_path: Path, key: str, address: str):
    with pytest.raises(ConfigError, match=f"{key}: .* is an address, not a path"):
        load_config(write(tmp_path, SHORT), [f"{key}={address}"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipe=GRPO", "unknown recipe 'GRPO'; did you mean 'grpo'?"),
        ("num_steps=5", "unknown key 'num_steps'; did you mean 'run.num_steps'?"),
        ("num_threads=5", "did you mean 'generators.num_threads' or 'value.num_threads' or 'learner.num_threads'?"),
        ("RUN.seed=5", "unknown key 'RUN'; did you mean 'run'?"),
        ("generators.num_threads=two", "generators.num_threads: .*valid integer.* or .*'auto', got 'two'"),
        ("budget.rule.n_max=abc", "budget rule 'osla': n_max: expected a whole number, got 'abc'"),
        ("budget.rule.cold_start=4.5", "cold_start: expected a whole number, got 4.5"),
        ("advantage.sigma_floor=null", "advantage 'v05': sigma_floor: expected a number, got None"),
        ("advantage.sigma_floor=yes", "advantage 'v05': sigma_floor: "),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(tmp_path: Path, override: str, message: str):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as caught:
        load_config(write(tmp_path, SHORT), [override])
    assert "\n" not in str(caught.value)


def test_a_source_that_cannot_be_read_is_one_line(tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, SHORT), ["data.train={name: jsonl, weight: abc}"])
    assert str(caught.value).count("\n") == 0
    assert "data.train.0.weight: Input should be a valid number" in str(caught.value)


def test_aliases_may_repeat_values_but_not_without_end(tmp_path: Path):
    shared = "model: {path: m}\ndata:\n  train: &t {name: jsonl, path: x}\n  eval: {<<: *t, path: y}\n"
    config = load_config(write(tmp_path, shared))
    assert config.data.eval is not None
    assert (config.data.train[0].options, config.data.eval[0].options) == ({"path": "x"}, {"path": "y"})
    names = "abcdefgh"
    doubling = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in itertools.pairwise(names)
    )
    with pytest.raises(ConfigError, match="line 6: more than 100,000 values; is it the right file"):
        load_config(write(tmp_path, doubling))


@pytest.mark.parametrize(
    ("path", "message"),
    [(".", "is no file"), ("no.yaml", "does not exist"), ("x" * 300, "cannot be read"), ("a\0b", "cannot be read")],
)
def test_a_path_that_is_no_config_file_is_said(path: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(Path(path))


def test_options_of_a_registry_have_the_types_of_its_builder():
    registry: Registry[object] = Registry("thing")
    registry.register("x")(lambda size, share=0.5, names=(): (size, share, names))
    assert registry.build("x", {"size": object}) == (object, 0.5, ())  # without a type, anything goes

    @registry.register("y")
    def y(size: int, share: float = 0.5, names: str | Sequence[str] = (), on: bool = False) -> object:
        return size, share, names, on

    assert y is registry.builder("y")
    assert registry.build("y", {"size": 2.0, "names": ["a"], "on": True}) == (2, 0.5, ["a"], True)
    for option, value in (
        ("size", "a"),
        ("size", True),
        ("size", 1.5),
        ("share", [1]),
        ("names", 5),
        ("names", [5]),
        ("on", "no"),
    ):
        with pytest.raises(ConfigError, match=f"thing 'y': {option}: "):
            registry.build("y", {"size": 1, option: value})
