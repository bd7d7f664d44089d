"""Problems that pydantic found in a config, in one line each, with the nearest valid key for an unknown one."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from v05ray.config import Config, Spec
from v05ray.config.written import model_of
from v05ray.registry import suggest


def explain(error: ValidationError, where: str) -> str:
    """`jobs/x.yaml: unknown key 'run.sed'; did you mean 'seed'?`, a line for each problem; `where` is the file."""
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
