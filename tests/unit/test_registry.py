"""Parts from outside the package: one form for every registry, and errors that say what, got and fix."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from v05ray import advantages, budget
from v05ray.data.sources import sources
from v05ray.errors import ConfigError
from v05ray.losses.base import LOSSES
from v05ray.registry import Registry
from v05ray.rewards.verifiers import verifiers
from v05ray.value.model import BACKENDS

MODULE = """
from collections.abc import Sequence

from v05ray.advantages import Advantages, Estimator
from v05ray.budget import Judgement, Rule


class Halved(Estimator):
    min_rollouts = 2

    def __init__(self, share: float = 0.5, *, shift: float):
        if not 0 < share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {share}")
        self.share, self.shift = share, shift

    def compute(self, groups):
        return [Advantages(tuple(self.share * r + self.shift for r in group.rewards)) for group in groups]


class NoCompute(Estimator):
    pass


class TooMany(Estimator):
    def compute(self, groups, more):
        return []


class Unknown(Estimator):
    needs = frozenset({"priors"})

    def compute(self, groups):
        return []


class Bare:
    def compute(self, groups):
        return []


class Fails(Estimator):
    def __init__(self):
        raise KeyError("lost")

    def compute(self, groups):
        return []


class NoLimit(Rule):
    def plan(self, priors):
        return {}

    def judge(self, evidence):
        return Judgement(1, "cap")


def number():
    return 3


three = 3
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parts_of_mine.py").write_text(MODULE)
    (tmp_path / "broken_part.py").write_text("def f(:\n    pass\n")
    (tmp_path / "failing_part.py").write_text("x = 1\ny = x / 0\n")
    (tmp_path / "lacking_part.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def build(name: str, **options: object):
    return advantages.build("python", path=f"parts_of_mine:{name}", options=options)


def test_a_class_from_outside_is_built_with_its_options_and_named_by_its_path():
    part = build("Halved", shift=1.0)
    assert part.compute([advantages.GroupView("p", (1.0, -1.0))])[0].values == (1.5, 0.5)
    assert part.name == "parts_of_mine:Halved"
    assert (part.scope, part.min_rollouts) == ("group", 2)


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("parts_of_mine", {}, "path must be 'package.module:name', got 'parts_of_mine'"),
        ("parts of mine:Halved", {}, "path must be 'package.module:name'"),
        (7, {}, "path must be 'package.module:name', got 7"),
        (
            "gone.away:Halved",
            {},
            "cannot import 'gone.away:Halved': No module named 'gone'; is its folder on PYTHONPATH?",
        ),
        ("parts_of_mine:Halve", {}, "module 'parts_of_mine' has no attribute 'Halve'; did you mean 'Halved'?"),
        ("broken_part:f", {}, "SyntaxError: invalid syntax (broken_part.py, line 1); fix that module"),
        ("failing_part:f", {}, "ZeroDivisionError: division by zero (failing_part.py, line 2)"),
        ("lacking_part:f", {}, "No module named 'a_package_that_is_not_there'; install what lacking_part needs"),
        ("parts_of_mine:three", {}, "advantage 'parts_of_mine:three' is a int; name a class, or a function"),
        ("parts_of_mine:Halved", {}, "advantage 'parts_of_mine:Halved' needs shift"),
        ("parts_of_mine:Halved", {"shfit": 1}, "'parts_of_mine:Halved' has no option 'shfit'; did you mean 'shift'?"),
        ("parts_of_mine:Halved", {"shift": 0, "share": 2}, "share must lie in (0, 1], got 2"),
        ("parts_of_mine:NoCompute", {}, "has no method 'compute'; make it a subclass of v05ray.advantages.Estimator"),
        (
            "parts_of_mine:TooMany",
            {},
            "compute(self, groups, more) cannot be called: missing a required argument: 'more'",
        ),
        ("parts_of_mine:Unknown", {}, "needs 'priors' is not known; did you mean 'prior'?"),
        ("parts_of_mine:Bare", {}, "has no method 'observe'; make it a subclass"),
        ("parts_of_mine:Fails", {}, "cannot be built: KeyError: 'lost' (parts_of_mine.py, line "),
        ("parts_of_mine:number", {}, "gave a int, without a method 'compute'; make it a subclass"),
    ],
)
def test_a_plugin_that_cannot_be_used_says_why(path: object, options: dict[str, object], message: str):
    with pytest.raises(ConfigError) as error:
        advantages.build("python", path=path, options=options)
    assert message in str(error.value)
    assert str(error.value).startswith("advantage ")
    assert "\n" not in str(error.value)


def test_options_of_a_plugin_go_under_options():
    with pytest.raises(ConfigError, match="advantage 'python' has no option 'shift'"):
        advantages.build("python", path="parts_of_mine:Halved", shift=1.0)
    with pytest.raises(ConfigError, match="options must be a mapping of names to values, got 3"):
        advantages.build("python", path="parts_of_mine:Halved", options=3)


def test_attributes_set_in_the_constructor_are_asked_of_the_part():
    with pytest.raises(ConfigError, match=r"budget rule 'parts_of_mine:NoLimit' has no attribute 'min_rollouts'; make"):
        budget.build("python", {"path": "parts_of_mine:NoLimit"})


@pytest.mark.parametrize("registry", [advantages.ESTIMATORS, budget.RULES, LOSSES, sources, verifiers, BACKENDS])
def test_every_registry_takes_parts_from_outside_in_the_same_form(registry: Registry):
    with pytest.raises(ConfigError, match=f"{registry.kind} 'python': .*No module named 'gone'"):
        registry.build("python", {"path": "gone:Away", "options": {}})
    with pytest.raises(ConfigError, match=f"{registry.kind} 'python' needs path"):
        registry.build("python", {})
    with pytest.raises(ConfigError, match=f"{registry.kind} 'python' has no option 'pth'; did you mean 'path'"):
        registry.build("python", {"pth": "gone:Away"})


def test_resolved_options_are_those_given_over_the_defaults():
    assert budget.RULES.choose("osla", {"cost": 0.01}).resolved.items() >= {"cost": 0.01, "cold_start": 4}.items()
    chosen = advantages.ESTIMATORS.choose("python", {"path": "parts_of_mine:Halved", "options": {"shift": 2}})
    assert chosen.resolved == {"share": 0.5, "shift": 2}


def test_what_is_offered_goes_to_builders_that_name_it_and_yields_to_what_is_given():
    registry: Registry[dict] = Registry("thing")
    registry.register("one")(lambda seed: {"seed": seed})
    registry.register("none")(lambda: {})
    assert registry.build("one", {}, offered={"seed": 3}) == {"seed": 3}
    assert registry.build("one", {"seed": None}, offered={"seed": 3}) == {"seed": 3}
    assert registry.build("one", {"seed": 4}, offered={"seed": 3}) == {"seed": 4}
    assert registry.build("none", {}, offered={"seed": 3}) == {}
    with pytest.raises(ConfigError, match="thing 'none' has no option 'seed'; it has none"):
        registry.build("none", {"seed": 3})


@pytest.mark.parametrize("registry", [advantages.ESTIMATORS, budget.RULES], ids=lambda one: one.kind)
def test_resolved_options_of_every_part_are_json_and_build_it(registry: Registry):
    for name in registry.names:
        options = {"n": 4} if name == "fixed" else {}
        if "mean_rollouts" in registry.option_types(name):
            options = {"mean_rollouts": 6.0}
        resolved = registry.resolved(name, options)
        assert resolved.keys() == registry.option_types(name).keys()
        assert json.loads(json.dumps(resolved)) == resolved
        assert registry.build(name, resolved).name == name


def test_a_plugins_resolved_options_are_of_its_own_form_and_what_is_no_json_is_left_out():
    options = {"path": "parts_of_mine:Halved", "options": {"shift": 2}}
    resolved = advantages.ESTIMATORS.resolved("python", options)
    assert resolved == {"path": "parts_of_mine:Halved", "options": {"share": 0.5, "shift": 2}}
    registry: Registry[object] = Registry("thing")
    registry.register("one")(lambda a=float("inf"), b=len, c=(1, 2), d=3: d)
    assert registry.resolved("one", {}) == {"d": 3}


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
