"""Config files: read, merge (`merging`), check, explain what is wrong (`explaining`).

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from v05ray import advantages, budget, losses, recipes
from v05ray.config import Config
from v05ray.config.section import expand_path
from v05ray.config.written import Scalar, Typed, Whole, is_spec, is_structured, read_yaml, settle, takes_text
from v05ray.errors import ConfigError
from v05ray.job.explaining import explain
from v05ray.job.merging import Layer, Merging, normal, option_types, type_inside
from v05ray.losses.updates import check_updates
from v05ray.registry import PLUGIN
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
    file, command = normal(file, Config), normal(command, Config)
    recipe = recipes.get(_recipe_name(command if "recipe" in command else file))
    parts = Layer("recipe", recipe.defaults())
    lower, upper = Layer("file", file), Layer("command", command)
    by_command = "recipe" in command
    merging = Merging(file_recipe=_parts_of(file), by_command=recipe.name if by_command else None)
    merged = merging.merge([lower, parts, upper] if by_command else [parts, lower, upper], Config)
    merged = settle({**merged, "recipe": recipe.name}, Config, option_types)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(explain(error, where)) from None
    for named in _outside_code(config):
        log.warning("code from outside of v05ray: %s", named)
    _check_across(config)
    if merging.left_out:
        log.warning("%s: left out: %s", where, "; ".join(merging.left_out))
    return config


def _recipe_name(written: Mapping[str, Any]) -> str:
    value = written.get("recipe", Config.model_fields["recipe"].default)
    name = settle(value, str, option_types, ("recipe",))
    return str(name).strip()


def _parts_of(file: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parts of the recipe that the file is written for; empty where it names an unknown one."""
    name = _recipe_name(file)
    return recipes.RECIPES[name].defaults() if name in recipes.RECIPES else {}


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
        annotation = type_inside(annotation, parent)
        under: Any = section.setdefault(parent, {})
        if isinstance(under, Typed):  # an option that was given as `{...}` before
            under = section[parent] = read_yaml(under.text, f"override {override!r}")
        if not isinstance(under, dict) or (annotation is not Any and not is_structured(annotation)):
            raise ConfigError(f"override {override!r}: {parent!r} is not a section")
        section = under
    section[last] = _override_value(type_inside(annotation, last), text, override)


def _override_value(annotation: Any, text: str, override: str) -> Any:
    if annotation is Any or not is_structured(annotation) or takes_text(annotation):
        return Typed(text)
    value = read_yaml(text, f"override {override!r}")
    if is_spec(annotation) and isinstance(value, dict) and "name" in value:
        return Whole(value)
    if is_spec(annotation) and isinstance(value, str):
        return Whole(name=value)
    return value


def to_yaml(config: Config) -> str:
    """The resolved config, as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
