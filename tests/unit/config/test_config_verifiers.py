"""A list of verifiers in a job file: read, written back, changed by the command line, refused."""

from pathlib import Path

import pytest

from v05ray.config import VerifierSpec
from v05ray.errors import ConfigError
from v05ray.job.config_files import load_config, make_config, to_yaml
from v05ray.job.preflight import outside_code, prepare_verifiers
from v05ray.rewards.by_source import with_source_verifiers

LAYOUT = {"name": "python", "path": "mine:layout", "scale": "zero_one", "weight": 0.2}
JOB = """\
model: {path: m}
data:
  train:
    - {name: jsonl, path: x, label: sums, verifier: [last_integer, {name: exact, weight: 0.5}]}
    - {name: jsonl, path: y}
rewards:
  verifier:
    - math
    - {name: python, path: "mine:layout", scale: zero_one, weight: 0.2}
"""


def config_of(rewarded, **source):
    data = {"train": {"name": "jsonl", "path": "x", **source}}
    return make_config({"model": {"path": "m"}, "data": data, "rewards": {"verifier": rewarded}})


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def test_a_list_is_read_with_weights_and_labels():
    verifier = config_of(["math", LAYOUT]).rewards.verifier
    assert [(one.name, one.weight, one.label) for one in verifier.components] == [
        ("math", 1.0, "math"),
        ("python", 0.2, "layout"),
    ]
    assert verifier.components[1].options == {"path": "mine:layout", "scale": "zero_one"}
    assert verifier.shown == "math + layout"


def test_what_is_written_is_read_back_to_the_same(tmp_path):
    config = load_config(write(tmp_path, JOB))
    assert load_config(write(tmp_path, to_yaml(config))) == config
    assert "components" not in to_yaml(config)


def test_a_list_of_one_is_that_one():
    assert config_of(["exact"]).rewards.verifier == config_of("exact").rewards.verifier
    assert config_of([{"name": "exact", "ignore_case": True}]).rewards.verifier.options == {"ignore_case": True}
    assert config_of([{"name": "exact", "label": "words"}]).rewards.verifier.shown == "words"


@pytest.mark.parametrize(
    ("overrides", "shown", "weights"),
    [
        (["rewards.verifier.1.weight=2e-1"], "math + layout", [1, 0.2]),
        (["rewards.verifier.0.weight=3", "rewards.verifier.1.label=form"], "math + form", [3, 0.2]),
        (["rewards.verifier.0=exact"], "exact + layout", [1, 0.2]),
        (["rewards.verifier=[exact, {name: last_integer, weight: 0.5}]"], "exact + last_integer", [1, 0.5]),
        (["rewards.verifier=exact"], "exact", []),
    ],
)
def test_the_command_line_changes_one_by_its_place_or_all(tmp_path, overrides, shown, weights):
    verifier = load_config(write(tmp_path, JOB), overrides).rewards.verifier
    assert verifier.shown == shown
    assert [one.weight for one in verifier.components] == weights


def test_options_are_read_by_the_types_of_the_verifier_at_their_place(tmp_path):
    overrides = ["rewards.verifier.1.path=0042:f #1", "data.train.0.verifier.1.ignore_case=on"]
    config = load_config(write(tmp_path, JOB), overrides)
    assert config.rewards.verifier.components[1].options["path"] == "0042:f #1"
    assert config.data.train[0].verifier is not None
    assert config.data.train[0].verifier.components[1].options == {"ignore_case": True}


@pytest.mark.parametrize(
    ("verifier", "message"),
    [
        (["exact", "exact"], r"rewards\.verifier: .*two verifiers of a list are called 'exact'.*another `label`"),
        ([{"name": "math", "weight": 0}, "exact"], r"the first verifier .* above 0, got 0; put another one first"),
        (["math", {"name": "exact", "weight": "heavy"}], r"rewards\.verifier\.1\.weight: .*valid number.*got 'heavy'"),
        (["math", {"name": "exact", "weight": float("inf")}], r"rewards\.verifier\.1\.weight: .*finite"),
        (["math", {"name": "exact", "label": ""}], r"rewards\.verifier\.1\.label: .*at least 1 character"),
        (["math", {"weight": 1}], r"rewards\.verifier\.1\.name is required"),
        (["math", {"name": "by_source"}], r"'by_source' cannot be one of several verifiers; list single ones"),
        (["math", 3], r"rewards\.verifier\.1: "),
        ([], r"several verifiers are a list of one or more"),
        ({"name": "math", "weight": 2}, r"`weight` belongs to a verifier in a list; leave it out, or write a list"),
        ({"name": "weighted"}, r"several verifiers are a list"),
    ],
)
def test_what_is_no_list_of_verifiers_is_refused_in_one_line(verifier, message):
    with pytest.raises(ConfigError, match=message) as error:
        config_of(verifier)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("verifier", "message"),
    [
        (["math", "exakt"], r"exakt: unknown verifier 'exakt'; did you mean 'exact'\?"),
        (["math", {"name": "exact", "ignore_cas": True, "label": "words"}], r"words: .*did you mean 'ignore_case'"),
        (["math", {"name": "python", "label": "mine"}], r"mine: verifier 'python' needs path"),
    ],
)
def test_unknown_names_and_options_are_refused_with_the_label(verifier, message):
    with pytest.raises(ConfigError, match=message):
        prepare_verifiers(config_of(verifier))
    with pytest.raises(ConfigError, match=message):
        prepare_verifiers(config_of("math", label="a", verifier=verifier))


def test_a_place_that_is_none_is_refused(tmp_path):
    path = write(tmp_path, JOB)
    with pytest.raises(ConfigError, match=r"rewards\.verifier has 2 entries, counted from 0"):
        load_config(path, ["rewards.verifier.2.weight=1"])
    with pytest.raises(
        ConfigError, match=r"is a list: say which of its 2 entries, such as rewards\.verifier\.0\.weight"
    ):
        load_config(path, ["rewards.verifier.weight=1"])
    with pytest.raises(ConfigError, match=r"rewards\.verifier\.0: expected a verifier"):
        load_config(path, ["rewards.verifier.0=null"])


def test_sources_with_lists_of_their_own_are_served_and_their_code_is_named(tmp_path):
    config = load_config(write(tmp_path, JOB))
    options = with_source_verifiers(config).verifier.options
    assert [one["label"] for one in options["default"]] == ["math", "layout"]
    assert [one["weight"] for one in options["sources"]["sums"]] == [1.0, 0.5]
    assert outside_code(config) == ["rewards.verifier runs mine:layout"]


def test_it_is_said_where_the_others_can_outweigh_the_first(caplog):
    prepare_verifiers(config_of(["math", {"name": "exact", "weight": 0.5}]))
    assert caplog.text == ""
    prepare_verifiers(config_of(["math", {"name": "exact", "weight": 0.5}, {"name": "last_integer", "weight": -0.5}]))
    assert "rewards.verifier: math has a weight of 1 and the others 1 together" in caplog.text
    assert not VerifierSpec(name="math").others_can_outweigh
