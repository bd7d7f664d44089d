"""What every section of the config tree is made of."""

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]


def expand_home(path: Any) -> Any:
    """`~/x` and `~user/x` as the absolute path they mean; everything else as it is. Raises `ValueError`."""
    text = str(path) if isinstance(path, Path) else path
    if text == "":
        raise ValueError("an empty path; the current folder is `.`")
    if not isinstance(text, str) or not text.startswith("~"):
        return path
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError(f"no home folder is known for {text.split('/')[0]!r}; write the path out")
    return type(path)(expanded)


FilePath = Annotated[Path, BeforeValidator(expand_home)]
"""A file or folder of this machine: a leading `~` is the home folder; a relative path starts at the current folder."""
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
