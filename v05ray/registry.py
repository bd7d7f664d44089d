"""Names for choices: one place per name, and errors that suggest the nearest valid one."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from v05ray.option_types import typed

T = TypeVar("T")


class ConfigError(ValueError):
    """Something a user wrote cannot be used; the message says what, what was got, and how to mend it."""


class RunError(RuntimeError):
    """A run cannot go on for a reason outside its code; the message says what, where, and how to go on."""


def suggest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?` where a valid name is near, in any case, else the list of valid names."""
    names = sorted(valid)
    folded = {one.casefold(): one for one in reversed(names)}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f"; did you mean {folded[near[0]]!r}?" if near else f"; valid: {', '.join(names)}"


class Registry(Generic[T]):
    """Maps a name to what builds it; options are checked against the builder's own signature."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._builders: dict[str, Callable[..., T]] = {}

    def register(self, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Decorator; refuses to take a name twice."""

        def add(builder: Callable[..., T]) -> Callable[..., T]:
            if name in self._builders:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._builders[name] = builder
            return builder

        return add

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._builders))

    def builder(self, name: str) -> Callable[..., T]:
        """What was registered; raises `ConfigError` with the nearest valid name."""
        if name not in self._builders:
            raise ConfigError(f"unknown {self.kind} {name!r}{suggest(name, self._builders)}")
        return self._builders[name]

    def option_types(self, name: str) -> Mapping[str, Any]:
        """The options of `name` with their types, from the builder's signature; `Any` where it gives none."""
        parameters = inspect.signature(self.builder(name)).parameters.values()
        return {
            p.name: Any if p.annotation is p.empty or isinstance(p.annotation, str) else p.annotation
            for p in parameters
        }

    def build(self, name: str, options: Mapping[str, Any]) -> T:
        """Builds `name` with keyword options, each as the type in the builder's signature.

        Raises `ConfigError` for options that are unknown, missing, of another type, or refused by the builder.
        """
        builder = self.builder(name)
        parameters = inspect.signature(builder).parameters
        for option in options:
            if option not in parameters:
                raise ConfigError(f"{self.kind} {name!r} has no option {option!r}{suggest(option, parameters)}")
        missing = [
            p.name for p in parameters.values() if p.default is inspect.Parameter.empty and p.name not in options
        ]
        if missing:
            raise ConfigError(f"{self.kind} {name!r} needs {', '.join(missing)}")
        settled = {option: self._typed(name, option, value) for option, value in options.items()}
        try:
            return builder(**settled)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.kind} {name!r}: {error}") from error

    def _typed(self, name: str, option: str, value: Any) -> Any:
        annotation = self.option_types(name)[option]
        try:
            return value if annotation is Any else typed(value, annotation)
        except ValueError as error:
            raise ConfigError(f"{self.kind} {name!r}: {option}: {error}, got {value!r:.80}") from None
