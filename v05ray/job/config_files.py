"""Config files: read, merge, check, explain what is wrong.

From weakest to strongest, where the file names the recipe (or nothing does, and it is `v05`):

    field defaults < the recipe's parts < the YAML file < `dotted.key=value` overrides

and where the command line names it (`recipe=grpo`), which replaces the file's algorithm:

    field defaults < the YAML file < the recipe's parts < the other overrides

The parts of a recipe are what `Recipe.defaults` gives. Options of an estimator (or rule, verifier, source) that the
file names are left out, with one line that says so, where a stronger layer puts another one in its place that has no
such option. A number in a dotted key is a place in a list: `data.train.0.size=100`. An override given twice counts as
the last one says. A text or path field gets an override's value as it was typed; every other value is read as YAML.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from v05ray import advantages, budget, losses, recipes
from v05ray.config import Config, Spec
from v05ray.config.section import expand_path
from v05ray.config.written import (
    Scalar,
    Typed,
    Whole,
    element,
    is_spec,
    is_structured,
    members,
    model_of,
    read_yaml,
    settle,
    takes_text,
)
from v05ray.data import sources
from v05ray.errors import ConfigError
from v05ray.losses.updates import check_updates
from v05ray.registry import PLUGIN, Registry, suggest
from v05ray.rewards.verifiers import verifiers
from v05ray.value.model import BACKENDS

log = logging.getLogger(__name__)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Reads, merges and checks a run's config; logs what of the file is left out.

    Args:
        path: a YAML file.
        overrides: `dotted.key=value` strings.

    Raises:
        ConfigError: naming the file, the dotted key, what was got and the nearest valid name.
    """
    try:
        path = expand_path(path)
        if not path.is_file():
            state = "is no file" if path.exists() else "does not exist"
            raise ConfigError(f"config {str(path)!r} {state}; give the path of a YAML file, such as jobs/tiny_cpu.yaml")
        text = path.read_text(encoding="utf-8")
    except ConfigError:
        raise
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    except (OSError, ValueError) as error:  # of `expand_path` too
        raise ConfigError(f"config {str(path)!r:.200}: cannot be read: {error}") from error
    written = read_yaml(text, str(path))
    if isinstance(written, Scalar):
        written = written.value
    written = {} if written is None else written
    if not isinstance(written, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, got {type(written).__name__}")
    return make_config(written, overrides, where=str(path))


def make_config(written: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "config") -> Config:
    """Merges a nested mapping over its recipe's choices, validates it, and checks it across sections.

    `overrides` are `dotted.key=value` strings that replace what `written` says.
    """
    command: dict[str, Any] = {}
    for override in overrides:
        _apply_override(command, override)
    return _make(written, command, where=where)


def _make(file: Mapping[str, Any], command: Mapping[str, Any], *, where: str) -> Config:
    file, command = _normal(file, Config), _normal(command, Config)
    recipe = recipes.get(_recipe_name(command if "recipe" in command else file))
    parts = _Layer("recipe", recipe.defaults())
    lower, upper = _Layer("file", file), _Layer("command", command)
    by_command = "recipe" in command
    merging = _Merging(file_recipe=_parts_of(file), by_command=recipe.name if by_command else None)
    merged = merging.merge([lower, parts, upper] if by_command else [parts, lower, upper], Config)
    merged = settle({**merged, "recipe": recipe.name}, Config, _option_types)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error, where)) from None
    for named in _outside_code(config):
        log.warning("code from outside of v05ray: %s", named)
    _check_across(config)
    if merging.left_out:
        log.warning("%s: left out: %s", where, "; ".join(merging.left_out))
    return config


def _recipe_name(written: Mapping[str, Any]) -> str:
    value = written.get("recipe", Config.model_fields["recipe"].default)
    name = settle(value, str, _option_types, ("recipe",))
    return str(name).strip()


def _parts_of(file: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parts of the recipe that the file is written for; empty where it names an unknown one."""
    name = _recipe_name(file)
    return recipes.RECIPES[name].defaults() if name in recipes.RECIPES else {}


@dataclass(frozen=True)
class _Layer:
    source: str
    """`recipe`, `file` or `command`."""
    tree: Mapping[str, Any]


@dataclass
class _Merging:
    """Merges layers, from the weakest to the strongest, and notes what of the file does not come through."""

    file_recipe: Mapping[str, Any]
    by_command: str | None
    """The recipe that the command line names."""
    left_out: list[str] = field(default_factory=list)

    def merge(self, layers: Sequence[_Layer], annotation: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
        """Key by key; a named choice is merged by `_choose`."""
        merged: dict[str, Any] = {}
        for key in dict.fromkeys(key for layer in layers for key in layer.tree):
            here = (*path, key)
            found = [(layer.source, layer.tree[key]) for layer in layers if key in layer.tree]
            nested: list[_Layer] = []
            for source, value in found:  # a mapping is merged with those right below it
                nested = [*nested, _Layer(source, value)] if isinstance(value, dict) else []
            inner = _type_inside(annotation, key)
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

    def _choose(self, layers: Sequence[_Layer], annotation: Any, path: tuple[str, ...]) -> dict[str, Any]:
        """One `Spec`: the strongest layer that names it decides which, and whose options count."""
        whole = max((i for i, layer in enumerate(layers) if isinstance(layer.tree, Whole)), default=0)
        if layers[whole].source != "file" or self.by_command is None:
            layers = layers[whole:]
        names = [_text(layer.tree["name"]) for layer in layers if "name" in layer.tree]
        if not names:
            return self.merge(layers, annotation, path)
        model = model_of(annotation)
        has = {*_option_types(path, names[-1]), *(model.model_fields if model is not None else ())}
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
                kept.append(_Layer("file", {k: v for k, v in layer.tree.items() if k not in lacking}))
        merged = self.merge([_Layer(one.source, _options(one.tree)) for one in kept], annotation, path)
        return {"name": names[-1], **merged}

    def _merge_list(self, found: Sequence[tuple[str, Any]], annotation: Any, path: tuple[str, ...]) -> Any:
        """Several `Spec`s, or one as a list of one: a stronger layer replaces them all, or changes some by place."""
        name, items = ".".join(path), list[_Layer]()
        for source, value in found:
            if _names_places(value):
                for place, change in value.items():
                    if int(place) >= len(items):
                        raise ConfigError(f"{name}.{place}: {name} has {len(items)} entries, counted from 0")
                    layers = [items[int(place)], _Layer(source, change)]
                    if not all(isinstance(layer.tree, dict) for layer in layers):
                        what = "verifier" if path[-1] == "verifier" else "source"
                        raise ConfigError(f"{name}.{place}: expected a {what} with its options, got {change!r}")
                    chosen = self._choose(layers, element(annotation), (*path, place))
                    items[int(place)] = _Layer(source, chosen)
            elif isinstance(value, list):
                items = [_Layer(source, one) for one in value]
            elif isinstance(value, dict) and "name" not in value and len(items) > 0:
                key = next(iter(value))
                raise ConfigError(f"{name} is a list: say which of its {len(items)} entries, such as {name}.0.{key}")
            else:
                items = [] if value is None else [_Layer(source, value)]
        return [item.tree for item in items]

    def _note_replaced(self, found: Sequence[tuple[str, Any]], path: tuple[str, ...]) -> None:
        values = dict(found)
        if self.by_command is None or found[-1][0] != "recipe" or "file" not in values or path == ("recipe",):
            return
        written = settle(values["file"], float if isinstance(values["recipe"], float | int) else str, _option_types)
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


def _type_inside(annotation: Any, key: str) -> Any:
    if _is_place(key) and element(annotation) is not Any:
        return element(annotation)
    model = model_of(annotation)
    known = model.model_fields.get(key) if model is not None else None
    return Any if known is None else known.annotation


def _normal(tree: Mapping[str, Any], annotation: Any) -> dict[str, Any]:
    """Bare names of `Spec`s become mappings, and a section whose keys are all commented out an empty one."""
    normal: dict[str, Any] = {}
    for key, value in tree.items():
        inner = _type_inside(annotation, key)
        empty = value is None or (isinstance(value, Scalar) and value.value is None)
        if isinstance(value, BaseModel):
            value = value.model_dump()
        if is_spec(inner):
            value = _normal_spec(value, inner)
        elif model_of(inner) is not None and isinstance(value, Mapping):
            value = _normal(value, inner)
        elif model_of(inner) is not None and empty and type(None) not in members(inner):
            value = {}
        normal[key] = value
    return normal


def _normal_spec(value: Any, annotation: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, Scalar) and value.value is not None):
        return Whole(name=_text(value))
    if isinstance(value, list | tuple):
        return [_normal_spec(one, element(annotation)) for one in value]
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if not isinstance(value, Mapping):
        return value
    normal = _normal(value, annotation)
    return Whole(normal) if isinstance(value, Whole) else normal


def _registry(path: Sequence[str]) -> Registry[Any] | None:
    """Where the `Spec` at this dotted path finds what bears its name."""
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


def _option_types(path: tuple[str, ...], name: str) -> Mapping[str, Any]:
    registry = _registry(path)
    return registry.option_types(name) if registry is not None and name in (*registry.names, PLUGIN) else {}


def _outside_code(config: Config) -> list[str]:
    """What checking the config imports that is not part of this package; the verifiers' and sources' comes later."""
    choices = {
        "advantage": config.advantage,
        "budget.rule": config.budget.rule,
        "learner.policy_loss": config.learner.policy_loss,
        **({"value.backend": config.value.backend} if config.value.enabled else {}),
    }
    return [f"{key} runs {one.options.get('path')}" for key, one in choices.items() if one.name == PLUGIN]


def _check_across(config: Config) -> None:
    """What no single field can say: every named choice exists, and the recipe's needs are met."""
    estimator = advantages.build(config.advantage.name, **config.advantage.options)
    rule = budget.build(config.budget.rule.name, config.budget.rule.options)
    losses.build(config.learner)
    if config.value.enabled or config.value.backend.name != PLUGIN:
        backend = config.value.backend
        BACKENDS.choose(backend.name, backend.options, offered={"config": config.value, "cache": None})
    recipes.check_needs(
        estimator,
        rule,
        value_enabled=config.value.enabled,
        mode=config.budget.mode,
        stream_tokens=config.learner.stream_tokens,
        group_filter=config.learner.group_filter,
        punishes_length=config.rewards.overlong_buffer is not None,
    )
    check_updates(config)
    buffer = config.rewards.overlong_buffer
    if isinstance(buffer, int) and buffer > config.sampling.max_tokens:
        raise ConfigError(
            f"rewards.overlong_buffer {buffer} is more than the longest response (sampling.max_tokens "
            f"{config.sampling.max_tokens}); lower it, or write auto for a fifth"
        )
    if config.value.support_size > config.value.support_capacity:
        raise ConfigError(
            f"value.support_size {config.value.support_size} exceeds value.support_capacity "
            f"{config.value.support_capacity}; lower the one or raise the other"
        )
    if config.sampling.max_tokens >= config.model.max_length:
        raise ConfigError(
            f"sampling.max_tokens {config.sampling.max_tokens} leaves no room for a prompt within model.max_length "
            f"{config.model.max_length}; lower the one or raise the other"
        )
    if config.evaluation.max_tokens is not None and config.evaluation.max_tokens >= config.model.max_length:
        raise ConfigError(
            f"evaluation.max_tokens {config.evaluation.max_tokens} leaves no room for a prompt within model.max_length "
            f"{config.model.max_length}; lower the one or raise the other"
        )


def _apply_override(command: dict[str, Any], override: str) -> None:
    """Puts one `dotted.key=value` into the command line's layer."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} is not of the form dotted.key=value, such as run.num_steps=10")
    section, annotation = command, Config
    *parents, last = key.split(".")
    for parent in parents:
        annotation = _type_inside(annotation, parent)
        under: Any = section.setdefault(parent, {})
        if isinstance(under, Typed):  # an option that was given as `{...}` before
            under = section[parent] = read_yaml(under.text, f"override {override!r}")
        if not isinstance(under, dict) or (annotation is not Any and not is_structured(annotation)):
            raise ConfigError(f"override {override!r}: {parent!r} is not a section")
        section = under
    section[last] = _override_value(_type_inside(annotation, last), text, override)


def _override_value(annotation: Any, text: str, override: str) -> Any:
    if annotation is Any or not is_structured(annotation) or takes_text(annotation):
        return Typed(text)
    value = read_yaml(text, f"override {override!r}")
    if is_spec(annotation) and isinstance(value, dict) and "name" in value:
        return Whole(value)
    if is_spec(annotation) and isinstance(value, str):
        return Whole(name=value)
    return value


def _explain(error: ValidationError, where: str) -> str:
    """One line per problem, with the nearest valid key for an unknown one."""
    problems: dict[str, list[Any]] = {}
    for problem in error.errors():
        # The verifiers of a list are written in the place of a single one.
        key = ".".join(str(part) for part in problem["loc"] if part != "components" and not _is_alternative(part))
        problems.setdefault(key, []).append(problem)
    lines = []
    for key, (first, *others) in problems.items():
        if first["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key {key!r}{_nearest(first['loc'])}")
        elif first["type"] == "missing":
            lines.append(f"{where}: {key} is required")
        elif first["type"] == "too_short" and any(one.startswith(f"{key}.") for one in problems):
            continue  # its elements are the problem
        else:
            said = " or ".join(one["msg"].removeprefix("Value error, ") for one in (first, *others))
            lines.append(f"{where}: {key}: {said}, got {first['input']!r:.200}")
    return "\n".join(lines)


def _is_alternative(part: int | str) -> bool:
    """Whether a part of a location is pydantic's name of one of several types: `literal['auto']`, `constrained-int`."""
    return isinstance(part, str) and ("[" in part or part.startswith("constrained-"))


def _nearest(location: Sequence[int | str]) -> str:
    name = str(location[-1])
    if len(location) == 1:  # the section may have been left out
        inside = [f"{section}.{name}" for section in Config.model_fields if name in _fields_at([section])]
        if inside and name not in Config.model_fields:
            return f"; did you mean {' or '.join(map(repr, inside))}?"
    return suggest(name, _fields_at(location[:-1]))


def _fields_at(location: Sequence[int | str]) -> list[str]:
    section: type[BaseModel] = Config
    for part in location:
        known = section.model_fields.get(str(part))
        inner = None if known is None else model_of(known.annotation)
        if inner is None or issubclass(inner, Spec):
            return []
        section = inner
    return list(section.model_fields)


def to_yaml(config: Config) -> str:
    """The resolved config, as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
