"""Config files: read, merge, check, explain what is wrong.

From weakest to strongest: field defaults, the named recipe's choices, the YAML file, dotted overrides such as
`learner.learning_rate=2e-5`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from v05ray import advantages, budget, recipes
from v05ray.config import Config
from v05ray.registry import ConfigError, suggest


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Reads, merges and checks a run's config.

    Args:
        path: a YAML file.
        overrides: `dotted.key=value` strings; the value is read as YAML.

    Raises:
        ConfigError: naming the file, the dotted key, what was got and the nearest valid name.
    """
    if not path.is_file():
        raise ConfigError(
            f"config {str(path)!r} does not exist; give the path of a YAML file, such as jobs/tiny_cpu.yaml"
        )
    try:
        written = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(written, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, got {type(written).__name__}")
    for override in overrides:
        _apply_override(written, override)
    return make_config(written, where=str(path))


def make_config(written: Mapping[str, Any], *, where: str = "config") -> Config:
    """Merges a nested mapping over its recipe's choices, validates it, and checks it across sections."""
    recipe = written.get("recipe", Config.model_fields["recipe"].default)
    merged = _merge(recipes.get(str(recipe)).defaults(), written)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error, where)) from None
    _check_across(config)
    return config


def _check_across(config: Config) -> None:
    """What no single field can say: every named choice exists, and the recipe's needs are met."""
    estimator = advantages.build(config.advantage.name, **config.advantage.options)
    rule = budget.build(config.budget.rule.name, config.budget.rule.options)
    recipes.check_needs(
        estimator,
        rule,
        value_enabled=config.value.enabled,
        mode=config.budget.mode,
        stream_tokens=config.learner.stream_tokens,
        group_filter=config.learner.group_filter,
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


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` wins, key by key; a `Spec` written under another name replaces the recipe's whole Spec."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            renamed = "name" in under and value.get("name", under["name"]) != under["name"]
            merged[key] = dict(value) if renamed else _merge(under, value)
        else:
            merged[key] = value
    return merged


def _apply_override(written: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} is not of the form dotted.key=value, such as run.num_steps=10")
    section: dict[str, Any] = written
    *parents, last = key.split(".")
    for parent in parents:
        under: Any = section.setdefault(parent, {})
        if isinstance(under, str):  # a bare Spec name gets options
            under = section[parent] = {"name": under}
        if not isinstance(under, dict):
            raise ConfigError(f"override {override!r}: {parent!r} is not a section")
        section = under
    value = yaml.safe_load(text)
    section[last] = _number(value)


def _number(value: Any) -> Any:
    """YAML 1.1 reads `2e-5` as a string; people mean the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(error: ValidationError, where: str) -> str:
    """One line per problem, with the nearest valid key for an unknown one."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(
                f"{where}: unknown key {key!r}{suggest(str(problem['loc'][-1]), _fields_at(problem['loc'][:-1]))}"
            )
        elif problem["type"] == "missing":
            lines.append(f"{where}: {key} is required")
        else:
            lines.append(f"{where}: {key}: {problem['msg']}, got {problem['input']!r}")
    return "\n".join(lines)


def _fields_at(location: Sequence[int | str]) -> list[str]:
    section: type[BaseModel] = Config
    for part in location:
        inner = section.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        section = inner
    return list(section.model_fields)


def to_yaml(config: Config) -> str:
    """The resolved config, as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
