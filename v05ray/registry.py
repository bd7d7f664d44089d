"""Names for choices: one place per name, and errors that suggest the nearest valid one.

Every registry also takes code from outside this package, in one form:

    {name: python, path: "package.module:name", options: {...}}

`path` names a class, or a function that makes the part; it gets the `options` as keywords, checked against its own
signature like those of the built-in parts.
"""

import difflib
import importlib
import inspect
import json
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from v05ray.errors import ConfigError
from v05ray.option_types import typed

T = TypeVar("T")


def suggest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?` where a valid name is near, in any case, else the list of valid names."""
    names = sorted(valid)
    folded = {one.casefold(): one for one in reversed(names)}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f"; did you mean {folded[near[0]]!r}?" if near else f"; valid: {', '.join(names)}"


PLUGIN = "python"
"""The name under which every registry takes code from outside this package."""
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def import_target(path: object) -> Any:
    """What `path` ("package.module:name") names; raises `ConfigError` where it cannot be imported."""
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise ConfigError(f"path must be 'package.module:name', got {path!r}")
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        own = error.name is not None and f"{module_name}.".startswith(f"{error.name}.")
        fix = "is its folder on PYTHONPATH?" if own else f"install what {module_name} needs"
        raise ConfigError(f"cannot import {path!r}: {error}; {fix}") from error
    except Exception as error:  # the module is anyone's code: what it raises is reported, with its place
        raise ConfigError(f"cannot import {path!r}: {in_one_line(error)}; fix that module") from error
    if not hasattr(module, name):
        public = [one for one in vars(module) if not one.startswith("_")]
        near = suggest(name, public) if public else "; it is empty"
        raise ConfigError(f"cannot import {path!r}: module {module_name!r} has no attribute {name!r}{near}")
    return getattr(module, name)


def in_one_line(error: BaseException) -> str:
    """An error of code from outside in one line: its kind, its words and where it was raised."""
    words = " ".join(str(error).split())
    frames = [] if isinstance(error, SyntaxError) else traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" ({Path(frame.filename).name}, line {frame.lineno})" for frame in frames)
    return f"{type(error).__name__}: {words}{place}"


def check_options(label: str, builder: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raises `ConfigError` for an option that the builder's signature does not have, or that it needs and lacks."""
    parameters = _parameters(label, builder)
    named = [p.name for p in parameters.values() if p.kind in _NAMED]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in named:
                valid = suggest(option, named) if named else "; it has none"
                raise ConfigError(f"{label} has no option {option!r}{valid}")
    missing = [name for name in named if parameters[name].default is inspect.Parameter.empty and name not in options]
    if missing:
        raise ConfigError(f"{label} needs {', '.join(missing)}")


def _parameters(label: str, builder: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(builder).parameters
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{label} has no signature that can be read: {error}; name a class or a function") from error


def _as_typed(label: str, parameter: inspect.Parameter | None, option: str, value: Any) -> Any:
    """The value as the builder's signature has it; raises `ConfigError` for one of another type."""
    try:
        return value if parameter is None else typed(value, _annotation(parameter))
    except ValueError as error:
        raise ConfigError(f"{label}: {option}: {error}, got {value!r:.80}") from None


def _annotation(parameter: inspect.Parameter) -> Any:
    """The parameter's type; `Any` where it gives none, or as text alone."""
    given = parameter.annotation
    return Any if given is parameter.empty or isinstance(given, str) else given


def _is_json(value: object) -> bool:
    try:
        return json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class Choice(Generic[T]):
    """A named part, found and checked, and not yet built."""

    label: str
    """What messages call it: `budget rule 'osla'`, `budget rule 'my_rules:Halving'`."""
    builder: Callable[..., T]
    options: Mapping[str, Any]
    """The options as the config has them."""
    is_plugin: bool = False

    @property
    def resolved(self) -> dict[str, Any]:
        """The options with the defaults of those that were not given."""
        named = [p for p in _parameters(self.label, self.builder).values() if p.kind in _NAMED]
        defaults = {p.name: p.default for p in named if p.default is not inspect.Parameter.empty}
        return {**defaults, **self.options}

    def build(self) -> T:
        """Raises `ConfigError` for what the builder refuses."""
        try:
            return self.builder(**self.options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.label}: {error}") from error
        except Exception as error:  # a plugin is anyone's code: what it raises is reported, with its place
            if not self.is_plugin:
                raise
            raise ConfigError(f"{self.label} cannot be built: {in_one_line(error)}") from error


@dataclass(frozen=True, slots=True)
class Form:
    """What code from outside has to have so that it can replace a built-in part."""

    methods: Mapping[str, int] = field(default_factory=dict)
    """Method that it must define to the number of its positional arguments; `__call__` for the part itself."""
    inherited: Mapping[str, int] = field(default_factory=dict)
    """The same for methods that have a default in the part's Protocol."""
    attributes: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    """Attribute to the words that it may hold, one or a set of them; None where it is not made of words."""
    fix: str = ""
    """How to get all of it: `make it a subclass of v05ray.budget.Rule`."""

    def check_class(self, label: str, made: type) -> None:
        """Raises `ConfigError` where a class lacks a method or one takes other arguments, before anything is built."""
        for name, count in {**self.methods, **self.inherited}.items():
            owner = next((one for one in made.__mro__ if name in vars(one)), None)
            empty = owner is None or owner is object or (name in self.methods and getattr(owner, "_is_protocol", False))
            if empty:
                raise ConfigError(f"{label} has no method {name!r}; {self.fix}")
            method = vars(owner)[name]
            if inspect.isfunction(method):
                self._check_call(label, name, method, count + 1)

    def check_part(self, label: str, part: Any) -> None:
        """Raises `ConfigError` where what was built lacks a method or an attribute, or one is not as it must be."""
        for name, count in {**self.methods, **self.inherited}.items():
            method = getattr(part, name, None)
            if not callable(method):
                raise ConfigError(f"{label} gave a {type(part).__name__}, without a method {name!r}; {self.fix}")
            self._check_call(label, name, method, count)
        for name, words in self.attributes.items():
            if not hasattr(part, name):
                raise ConfigError(f"{label} has no attribute {name!r}; {self.fix}")
            held = getattr(part, name)
            for word in [held] if isinstance(held, str) else held if words is not None else ():
                if words is not None and word not in words:
                    raise ConfigError(f"{label}: {name} {word!r} is not known{suggest(str(word), words)}")

    def _check_call(self, label: str, name: str, method: Callable[..., Any], count: int) -> None:
        try:
            signature = inspect.signature(method)
        except (TypeError, ValueError):
            return  # of C code nothing is known
        try:
            signature.bind(*[None] * count)
        except TypeError as error:
            raise ConfigError(f"{label}: {name}{signature} cannot be called: {error}; {self.fix}") from None


class Registry(Generic[T]):
    """Maps a name to what builds it; options are checked against the builder's own signature."""

    def __init__(self, kind: str, form: Form | None = None) -> None:
        """`form` is asked of parts that come from outside."""
        self.kind, self._form = kind, form or Form()
        self._builders: dict[str, Callable[..., T]] = {PLUGIN: self._from_outside}

    def register(self, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Decorator; refuses to take a name twice. One registered as `python` makes of code from outside a part."""

        def add(builder: Callable[..., T]) -> Callable[..., T]:
            if name in self._builders and self._builders[name] != self._from_outside:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._builders[name] = builder
            return builder

        return add

    @property
    def names(self) -> tuple[str, ...]:
        """All registered names, sorted."""
        return tuple(sorted(name for name, builder in self._builders.items() if builder != self._from_outside))

    def builder(self, name: str) -> Callable[..., T]:
        """What was registered; raises `ConfigError` with the nearest valid name."""
        if name not in self._builders:
            raise ConfigError(f"unknown {self.kind} {name!r}{suggest(name, self._builders)}")
        return self._builders[name]

    def option_types(self, name: str) -> Mapping[str, Any]:
        """The options of `name` with their types, from the builder's signature; `Any` where it gives none."""
        parameters = inspect.signature(self.builder(name)).parameters.values()
        return {p.name: _annotation(p) for p in parameters}

    def choose(self, name: str, options: Mapping[str, Any], offered: Mapping[str, Any] | None = None) -> Choice[T]:
        """Finds `name` and checks the options; imports what a plugin's path names, and builds nothing.

        `offered` are values that a builder gets where its signature names them and no option (or None) was given, such
        as the run's `seed`. Raises `ConfigError` for an unknown name, and for options unknown or missing.
        """
        builder = self.builder(name)
        label, is_plugin = f"{self.kind} {name!r}", builder == self._from_outside
        if is_plugin:
            check_options(label, builder, options)
            label, builder, options = self._outside(**options)
        takes = _parameters(label, builder)
        given = {key: value for key, value in (offered or {}).items() if key in takes and options.get(key) is None}
        options = {**options, **given}
        check_options(label, builder, options)
        options = {name: _as_typed(label, takes.get(name), name, value) for name, value in options.items()}
        return Choice(label, self._checked(label, builder) if is_plugin else builder, options, is_plugin)

    def build(self, name: str, options: Mapping[str, Any], offered: Mapping[str, Any] | None = None) -> T:
        """Builds `name` with keyword options; see `choose`. Raises `ConfigError` also for what the builder refuses."""
        return self.choose(name, options, offered).build()

    def resolved(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with their defaults, as `build` takes them, for a record; JSON values alone.

        A default that is no JSON value cannot be recorded and is left out: it stays the builder's.
        """
        chosen = self.choose(name, options)
        whole = {key: value for key, value in chosen.resolved.items() if key in chosen.options or _is_json(value)}
        return {"path": options["path"], "options": whole} if chosen.is_plugin else whole

    def _from_outside(self, path: str, options: Mapping[str, Any] | None = None) -> T:
        return self.build(PLUGIN, {"path": path, "options": options})

    def _outside(
        self, path: str, options: Mapping[str, Any] | None = None
    ) -> tuple[str, Callable[..., T], Mapping[str, Any]]:
        try:
            target = import_target(path)
        except ConfigError as error:
            raise ConfigError(f"{self.kind} {PLUGIN!r}: {error}") from error.__cause__
        label = f"{self.kind} {path!r}"
        if not callable(target):
            raise ConfigError(f"{label} is a {type(target).__name__}; name a class, or a function that makes the part")
        if not isinstance(options or {}, Mapping):
            raise ConfigError(f"{label}: options must be a mapping of names to values, got {options!r}")
        if inspect.isclass(target):
            self._form.check_class(label, target)
        return label, cast("Callable[..., T]", target), options or {}

    def _checked(self, label: str, target: Callable[..., T]) -> Callable[..., T]:
        """`target`, whose result is refused where it has not the registry's form, and gets a name if it has none."""

        def build(**options: Any) -> T:
            part: Any = target(**options)
            self._form.check_part(label, part)
            if "name" in self._form.attributes and not part.name:
                part.name = label.split("'")[1]
            return part

        build.__signature__ = inspect.signature(target)  # type: ignore[attr-defined]
        return build
