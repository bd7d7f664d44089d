import itertools
from pathlib import Path

import pytest

from tests.unit.job.writing import MINIMAL, SHORT, write
from v05ray.config import Config, Section
from v05ray.errors import ConfigError
from v05ray.job.config_files import load_config, make_config, to_yaml
from v05ray.recipes import RECIPES


def test_defaults_are_the_paper():
    config = make_config(MINIMAL)
    assert config.advantage.name == "v05"
    assert config.budget.rule.name == "osla"
    assert config.budget.halt_fraction == 1 / 16
    assert (config.value.support_capacity, config.value.support_size) == (512, 256)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_makes_a_config_that_reads_back_equal(recipe: str, tmp_path: Path):
    config = make_config({**MINIMAL, "recipe": recipe})
    assert load_config(write(tmp_path, to_yaml(config))) == config


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


@pytest.mark.parametrize("name", ["0042", "2025-11-25", "2025-13-45", "on", "1e5", "null", "0x1F", "1_000", "no"])
def test_a_text_field_gets_the_text(tmp_path: Path, name: str):
    assert load_config(write(tmp_path, SHORT), [f"run.name={name}"]).run.name == name
    config = load_config(write(tmp_path, SHORT + f"run: {{name: {name}}}\n"))
    assert config.run.name == name
    assert load_config(write(tmp_path, to_yaml(config))) == config


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


@pytest.mark.parametrize("text", ["", "# nothing\n", "null\n", "~\n"])
def test_an_empty_file_lacks_what_has_no_default(tmp_path: Path, text: str):
    with pytest.raises(ConfigError, match="model is required"):
        load_config(write(tmp_path, text))
    with pytest.raises(ConfigError, match="expected a mapping of sections, got int"):
        load_config(write(tmp_path, "0042\n"))


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


def test_variables_of_the_environment_are_read_in_paths_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
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
