"""Values as they were written, and what they mean for the field that gets them.

YAML 1.1 reads `on` as true and `2025-11-25` as a date. Whether that is right depends on the field, which is known only
once all layers of a config are merged. So `read_yaml` keeps the text of such scalars (`Scalar`), a `key=value` keeps
all of its text (`Typed`), and `settle` decides: a text field gets the text, a number never true or false, any other the
YAML value. Numbers are read as in YAML 1.2: `010` is 10, not 8, and `1:30` is text, not 90.
"""

import datetime
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from v05ray.config.section import Spec
from v05ray.errors import ConfigError

_NULLS = ("", "~", "null", "Null", "NULL")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_MOST_VALUES = 100_000
"""Values that a document may hold, counted where they are used: an alias repeats its values."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A plain YAML scalar that is not text by YAML's rules, such as `0042`, `on` or `null`."""

    text: str
    value: Any


@dataclass(frozen=True, slots=True)
class Typed:
    """The value of a `key=value`, as typed."""

    text: str


class Whole(dict[str, Any]):
    """A `Spec` written as a whole (a bare name, or `key={name: ...}`): nothing of a weaker layer's is kept."""


class _Loader(yaml.SafeLoader):
    """Keys are text, and plain scalars keep theirs."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}


def _plain(construct: Callable[[Any, Any], Any]) -> Callable[[_Loader, Any], Any]:
    def make(loader: _Loader, node: Any) -> Any:
        if ":" in node.value and not node.tag.endswith(":timestamp"):  # base 60 in YAML 1.1
            return node.value
        if node.tag.endswith(":int") and _LEADING_ZERO.fullmatch(node.value):  # octal in YAML 1.1
            return Scalar(node.value, int(node.value.replace("_", ""), 10))
        try:
            value = construct(loader, node)
        except ValueError:  # `2025-13-45` has the form of a date
            return node.value
        return Scalar(node.value, value) if node.style is None else value

    return make


for _kind in ("null", "bool", "int", "float", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _plain(getattr(yaml.SafeLoader, f"construct_yaml_{_kind}")))
_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: node.value)  # a plain `=`


def read_yaml(text: str, where: str) -> Any:
    """Mappings, lists, text and `Scalar`s; None for an empty document.

    Raises:
        ConfigError: not YAML, a key is written twice, or it holds more than `_MOST_VALUES` values; names `where`, the
            line and the key.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_repeated(node, where, {})
        return loader.construct_document(node)
    except RecursionError as error:
        raise ConfigError(f"{where}: nested too deep for a config; is it the right file?") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"{where}{line}: not valid YAML: {problem}") from error


def _refuse_repeated(node: Any, where: str, sizes: dict[int, int], path: tuple[str, ...] = ()) -> int:
    """The number of values in a node; `sizes` holds those of the nodes seen, 0 while a node is being looked at."""
    size = sizes.get(id(node))
    if size is None:
        sizes[id(node)] = 0
        size = 1 + sum(_refuse_repeated(one, where, sizes, inner) for one, inner in _inside(node, where, path))
        sizes[id(node)] = size
    if size == 0:
        raise ConfigError(f"{where}, line {node.start_mark.line + 1}: an alias contains itself")
    if size > _MOST_VALUES:
        raise ConfigError(
            f"{where}, line {node.start_mark.line + 1}: more than {_MOST_VALUES:,} values; is it the right file?"
        )
    return size


def _inside(node: Any, where: str, path: tuple[str, ...]) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """The nodes within one, each with its dotted path; refuses keys that are no names, or written twice."""
    if isinstance(node, yaml.SequenceNode):
        yield from ((one, (*path, str(index))) for index, one in enumerate(node.value))
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{where}, line {line}: a key must be a name")
        dotted = ".".join((*path, key.value))
        if key.value in lines and key.value != "<<":
            raise ConfigError(
                f"{where}, line {line}: {dotted!r} is written twice (first on line {lines[key.value]}), and one "
                "would be lost; merge the two"
            )
        lines[key.value] = line
        yield value, (*path, key.value)


def members(annotation: Any) -> list[Any]:
    """The alternatives of a type, without `Annotated`: `Path | None` -> [Path, NoneType]."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [one for part in get_args(annotation) for one in members(part)]
    return [annotation]


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The section or `Spec` among the alternatives, also where a list of several is taken."""
    found = [one for member in members(annotation) for one in (member, *get_args(member)[:1])]
    return next((one for one in found if isinstance(one, type) and issubclass(one, BaseModel)), None)


def is_spec(annotation: Any) -> bool:
    """Whether the field is a named choice."""
    model = model_of(annotation)
    return model is not None and issubclass(model, Spec)


def _is_text(member: Any) -> bool:
    if get_origin(member) is Literal:
        return all(isinstance(one, str) for one in get_args(member))
    return isinstance(member, type) and issubclass(member, str | Path)


def takes_text(annotation: Any) -> bool:
    """Whether the field takes a text, alone or beside other types."""
    return any(map(_is_text, members(annotation)))


def is_structured(annotation: Any) -> bool:
    """Whether the field takes a mapping or a list."""
    kinds = [get_origin(one) or one for one in members(annotation)]
    if model_of(annotation) is not None:
        return True
    return any(isinstance(k, type) and issubclass(k, Mapping | Sequence) and not issubclass(k, str) for k in kinds)


OptionTypes = Callable[[tuple[str, ...], str], Mapping[str, Any]]
"""(dotted path of a `Spec`, its name) -> the types of its options, as far as they are known."""


def settle(value: Any, annotation: Any, option_types: OptionTypes, path: tuple[str, ...] = ()) -> Any:
    """`value` without `Scalar` and `Typed`, as the type `annotation` wants it; `Any` where nothing is known."""
    if isinstance(value, Typed):
        return _settle_typed(value.text, annotation, option_types, path)
    if isinstance(value, Scalar):
        return _settle_scalar(value, annotation)
    if isinstance(value, dict):
        known = _types_inside(value, annotation, option_types, path)
        return {k: settle(v, known(k), option_types, (*path, k)) for k, v in value.items()}
    if isinstance(value, list):
        inner = element(annotation)
        return [settle(one, inner, option_types, (*path, str(i))) for i, one in enumerate(value)]
    if isinstance(value, str) and any(member in (int, float) for member in members(annotation)):
        return _number(value)  # `2e-5` is text in YAML 1.1; people mean the number
    return value


def _types_inside(
    value: Mapping[str, Any], annotation: Any, option_types: OptionTypes, path: tuple[str, ...]
) -> Callable[[str], Any]:
    model = model_of(annotation)
    if model is not None:
        known = {name: field.annotation for name, field in model.model_fields.items()}
        if issubclass(model, Spec) and isinstance(value.get("name"), str):
            known = {**option_types(path, value["name"]), **known}
        return lambda key: known.get(key, Any)
    for member in members(annotation):
        origin, arguments = get_origin(member), get_args(member)
        if isinstance(origin, type) and issubclass(origin, Mapping) and len(arguments) == 2:
            return lambda key: arguments[1]
    return lambda key: Any


def element(annotation: Any) -> Any:
    """What a list of this type holds; `Any` where nothing is known of it."""
    for member in members(annotation):
        origin, arguments = get_origin(member), get_args(member)
        if isinstance(origin, type) and issubclass(origin, Sequence) and arguments:
            return arguments[0]
        if isinstance(member, type) and issubclass(member, Spec) and member.several_of is not None:
            return member.several_of
    return Any


def _settle_scalar(scalar: Scalar, annotation: Any) -> Any:
    alternatives = members(annotation)
    others = [one for one in alternatives if one is not types.NoneType and not _is_text(one)]
    if scalar.value is None and (types.NoneType in alternatives or others):
        return None
    if isinstance(scalar.value, bool) and others and all(one in (int, float) for one in others):
        return scalar.text  # for a number, true would count as 1
    text = all(is_structured(one) for one in others) and (is_spec(annotation) or any(map(_is_text, alternatives)))
    return scalar.text if text or isinstance(scalar.value, datetime.date) else scalar.value


def _settle_typed(text: str, annotation: Any, option_types: OptionTypes, path: tuple[str, ...]) -> Any:
    alternatives = members(annotation)
    others = [one for one in alternatives if one is not types.NoneType and not _is_text(one)]
    textual = takes_text(annotation)
    where = f"override {'.'.join(path)}={text}"
    if types.NoneType in alternatives and text.strip() in _NULLS:
        return None
    quoted = _unquoted(text)
    if quoted is not None:
        return quoted if annotation is Any or textual else _number(quoted)
    if any(is_structured(one) for one in others) and text.lstrip()[:1] in ("{", "["):
        return settle(read_yaml(text, where), annotation, option_types, path)
    if textual and all(is_structured(one) for one in others):
        return text.strip() if all(get_origin(one) is Literal for one in alternatives) else text
    if annotation is Any:
        return _open(text, where)
    return _number(settle(read_yaml(text, where), annotation, option_types, path))


def _open(text: str, where: str) -> Any:
    """For an option of unknown type: a number, a word of YAML's, a list or mapping; else the text, never cut."""
    if text.lstrip()[:1] in ("{", "["):
        return settle(read_yaml(text, where), Any, lambda path, name: {})
    loader = _Loader("")
    tag = loader.resolve(yaml.ScalarNode, text.strip(), (True, False))
    made = loader.construct_object(yaml.ScalarNode(tag, text.strip()))
    return _number(made.value if isinstance(made, Scalar) and not isinstance(made.value, datetime.date) else text)


def _unquoted(text: str) -> str | None:
    """The content of a value typed in YAML's quotes; None where it is not quoted as a whole."""
    inside = text.strip()
    if len(inside) < 2 or inside[0] not in ("'", '"') or inside[-1] != inside[0]:
        return None
    try:
        content = yaml.safe_load(inside)
    except yaml.YAMLError:
        return None
    return content if isinstance(content, str) else None


def _number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
