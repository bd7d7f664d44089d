"""Layers of a config, merged key by key from the weakest to the strongest; a named choice is merged as a whole.

Options of an estimator (or rule, verifier, source) that the file names are left out, and listed in `Merging.left_out`,
where a stronger layer puts another one in its place that has no such option.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from v05ray import advantages, budget, losses
from v05ray.config.written import Scalar, Typed, Whole, element, is_spec, members, model_of, settle
from v05ray.data import sources
from v05ray.errors import ConfigError
from v05ray.registry import PLUGIN, Registry
from v05ray.rewards.verifiers import verifiers
from v05ray.value.model import BACKENDS


@dataclass(frozen=True)
class Layer:
    """Part of a config, as it was written in one place."""

    source: str
    """`recipe`, `file` or `command`."""
    tree: Mapping[str, Any]


@dataclass
class Merging:
    """Merges layers, from the weakest to the strongest, and notes what of the file is left out."""

    file_recipe: Mapping[str, Any]
    """The parts of the recipe that the file is written for."""
    by_command: str | None
    """The recipe that the command line names."""
    left_out: list[str] = field(default_factory=list)

    def merge(self, layers: Sequence[Layer], annotation: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
        """Key by key; a named choice is merged by `_choose`."""
        merged: dict[str, Any] = {}
        for key in dict.fromkeys(key for layer in layers for key in layer.tree):
            here = (*path, key)
            found = [(layer.source, layer.tree[key]) for layer in layers if key in layer.tree]
            nested: list[Layer] = []
            for source, value in found:  # a mapping is merged with those right below it
                nested = [*nested, Layer(source, value)] if isinstance(value, dict) else []
            inner = type_inside(annotation, key)
            if is_spec(inner) and any(isinstance(value, list) or _names_places(value) for _, value in found):
                merged[key] = self._merge_list(found, inner, here)
            elif not nested:
                merged[key] = found[-1][1]
                self._note_replaced(found, here)
            elif is_spec(inner):
                merged[key] = self._choose(nested, inner, here)
            else:
                merged[key] = self.merge(nested, inner, here)
        return merged

    def _choose(self, layers: Sequence[Layer], annotation: Any, path: tuple[str, ...]) -> dict[str, Any]:
        """One `Spec`: the strongest layer that names it decides which, and whose options count."""
        whole = max((i for i, layer in enumerate(layers) if isinstance(layer.tree, Whole)), default=0)
        if layers[whole].source != "file" or self.by_command is None:
            layers = layers[whole:]
        names = [_text(layer.tree["name"]) for layer in layers if "name" in layer.tree]
        if not names:
            return self.merge(layers, annotation, path)
        model = model_of(annotation)
        has = {*option_types(path, names[-1]), *(model.model_fields if model is not None else ())}
        kept = []
        for layer in layers:
            inherited = _at(self.file_recipe, path).get("name")
            own = _text(layer.tree.get("name", inherited if layer.source == "file" else names[-1]))
            if own == names[-1] or layer.source == "command":
                kept.append(layer)
            elif layer.source == "file":
                if inherited is not None and own != _text(inherited):  # the file's own departure from its recipe
                    self.left_out.append(f"{'.'.join(path)} {own!r} (recipe={self.by_command} sets {names[-1]!r})")
                lacking = [key for key in layer.tree if key not in has and key != "name"]
                self.left_out += [f"{'.'.join((*path, key))} (no option of {names[-1]!r})" for key in lacking]
                kept.append(Layer("file", {k: v for k, v in layer.tree.items() if k not in lacking}))
        merged = self.merge([Layer(one.source, _options(one.tree)) for one in kept], annotation, path)
        return {"name": names[-1], **merged}

    def _merge_list(self, found: Sequence[tuple[str, Any]], annotation: Any, path: tuple[str, ...]) -> Any:
        """Several `Spec`s, or one as a list of one: a stronger layer replaces them all, or changes some by place."""
        name, items = ".".join(path), list[Layer]()
        for source, value in found:
            if _names_places(value):
                for place, change in value.items():
                    if int(place) >= len(items):
                        raise ConfigError(f"{name}.{place}: {name} has {len(items)} entries, counted from 0")
                    layers = [items[int(place)], Layer(source, change)]
                    if not all(isinstance(layer.tree, dict) for layer in layers):
                        what = "verifier" if path[-1] == "verifier" else "source"
                        raise ConfigError(f"{name}.{place}: expected a {what} with its options, got {change!r}")
                    chosen = self._choose(layers, element(annotation), (*path, place))
                    items[int(place)] = Layer(source, chosen)
            elif isinstance(value, list):
                items = [Layer(source, one) for one in value]
            elif isinstance(value, dict) and "name" not in value and len(items) > 0:
                key = next(iter(value))
                raise ConfigError(f"{name} is a list: say which of its {len(items)} entries, such as {name}.0.{key}")
            else:
                items = [] if value is None else [Layer(source, value)]
        return [item.tree for item in items]

    def _note_replaced(self, found: Sequence[tuple[str, Any]], path: tuple[str, ...]) -> None:
        values = dict(found)
        if self.by_command is None or found[-1][0] != "recipe" or "file" not in values or path == ("recipe",):
            return
        written = settle(values["file"], float if isinstance(values["recipe"], float | int) else str, option_types)
        if written != values["recipe"]:
            self.left_out.append(f"{'.'.join(path)} (recipe={self.by_command} sets {values['recipe']})")


def _names_places(value: Any) -> bool:
    """Whether it says of places in a list what to change there: `{"0": {"size": 100}}`."""
    return isinstance(value, dict) and bool(value) and all(_is_place(str(key)) for key in value)


def _is_place(key: str) -> bool:
    return key.isascii() and key.isdigit()


def _options(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "name"}


def _text(name: Any) -> str:
    return name.text.strip() if isinstance(name, Scalar | Typed) else str(name)


def _at(tree: Mapping[str, Any], path: Iterable[str]) -> Mapping[str, Any]:
    for key in path:
        inner = tree.get(key)
        tree = inner if isinstance(inner, Mapping) else {}
    return tree


def type_inside(annotation: Any, key: str) -> Any:
    """The type of the field (or, for a number, of the list's elements) that `key` names; `Any` if unknown."""
    if _is_place(key) and element(annotation) is not Any:
        return element(annotation)
    model = model_of(annotation)
    known = model.model_fields.get(key) if model is not None else None
    return Any if known is None else known.annotation


def normal(tree: Mapping[str, Any], annotation: Any) -> dict[str, Any]:
    """Bare names of `Spec`s become mappings, and a section whose keys are all commented out an empty one.

    `{"advantage": "rloo", "run": None}` -> `{"advantage": {"name": "rloo"}, "run": {}}`.
    """
    result: dict[str, Any] = {}
    for key, value in tree.items():
        inner = type_inside(annotation, key)
        empty = value is None or (isinstance(value, Scalar) and value.value is None)
        if isinstance(value, BaseModel):
            value = value.model_dump()
        if is_spec(inner):
            value = _normal_spec(value, inner)
        elif model_of(inner) is not None and isinstance(value, Mapping):
            value = normal(value, inner)
        elif model_of(inner) is not None and empty and type(None) not in members(inner):
            value = {}
        result[key] = value
    return result


def _normal_spec(value: Any, annotation: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, Scalar) and value.value is not None):
        return Whole(name=_text(value))
    if isinstance(value, list | tuple):
        return [_normal_spec(one, element(annotation)) for one in value]
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if not isinstance(value, Mapping):
        return value
    result = normal(value, annotation)
    return Whole(result) if isinstance(value, Whole) else result


def _registry(path: Sequence[str]) -> Registry[Any] | None:
    """The registry of the `Spec` at this dotted path."""
    if path[-1:] == ("verifier",) or (path[-2:-1] == ("verifier",) and path[-1].isdigit()):
        return verifiers
    if path[:1] == ("data",):
        return sources
    return {
        ("advantage",): advantages.ESTIMATORS,
        ("budget", "rule"): budget.RULES,
        ("learner", "policy_loss"): losses.LOSSES,
        ("value", "backend"): BACKENDS,
    }.get(tuple(path))


def option_types(path: tuple[str, ...], name: str) -> Mapping[str, Any]:
    """Types by option of the choice `name` at a dotted path: `("advantage",), "rloo"`; empty for an unknown one."""
    registry = _registry(path)
    return registry.option_types(name) if registry is not None and name in (*registry.names, PLUGIN) else {}
