"""What every section of the config tree is made of."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from v05ray.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, le=1)]


_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def expand_path(path: Any) -> Any:
    """`~/x`, `~user/x`, `$NAME/x` and `${NAME}/x` as the path they mean; everything else as it is.

    Raises `ValueError`: empty, an address such as `s3://bucket/x`, or a user or variable that is not known.
    """
    text = str(path) if isinstance(path, Path) else path
    if not isinstance(text, str):
        return path
    if text == "":
        raise ValueError("an empty path; the current folder is `.`")
    if "\0" in text:
        raise ValueError("a path cannot hold a NUL character")
    if _ADDRESS.match(text):
        raise ValueError(
            f"{text.partition('://')[0]}:// is an address, not a path of this machine; copy it there first"
        )
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError(f"no home folder is known for {text.split('/')[0]!r}; write the path out")
    if "$" in expanded and not os.path.lexists(expanded):
        expanded = _VARIABLE.sub(_value_of, expanded)
    return type(path)(expanded)


def given_path(path: Path, what: str) -> Path:
    """A path of the command line, as `expand_path` reads it; raises `ConfigError` that begins with `what`."""
    try:
        return expand_path(path)
    except ValueError as error:
        raise ConfigError(f"{what} {str(path)!r:.200}: {error}") from error


def _value_of(variable: re.Match[str]) -> str:
    name = variable[1] or variable[2]
    if name not in os.environ:
        raise ValueError(f"the environment has no variable {name!r}; set it, or write the path out")
    return os.environ[name]


FilePath = Annotated[Path, BeforeValidator(expand_path)]
"""A file or folder of this machine: a leading `~` is the home folder, `$NAME` a variable of the environment; a relative
path starts at the current folder."""


def _no_null(text: str) -> str:
    if text.strip() in ("null", "~"):
        raise ValueError("null would be written there as text; leave it out, or write ''")
    return text


Text = Annotated[str, AfterValidator(_no_null)]
"""Any text, also an empty one; `null` is refused, which would be four letters."""
Threads = Annotated[int, Field(ge=1)] | Literal["auto"]
"""A number of threads, or the choice left to the machine (`machine.fit` resolves it before actors start)."""


def count_threads(setting: Threads) -> int:
    """The number; 1 while the choice is still open, as in tests of a single part."""
    return 1 if setting == "auto" else setting


class Section(BaseModel):
    """Base of every section: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Spec(BaseModel):
    """A named choice with its options: `{name: osla, cold_start: 4}`; a bare string means the name alone."""

    model_config = ConfigDict(extra="allow", frozen=True)
    several_of: "ClassVar[type[Spec] | None]" = None
    """What a list in its place holds; None where there cannot be one."""
    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


def _as_written(spec: Spec) -> Any:
    return spec.model_dump(mode="json") if spec.options else spec.name


NamedChoice = Annotated[Spec, PlainSerializer(_as_written)]
"""A named choice that is written as its name alone where it has no options."""
