"""What the tests of a code task are, as data sets have them. Standard library only.

    {"inputs": ["1 2\\n", ...], "outputs": ["3\\n", ...]}            APPS, TACO, PRIME, verl: input and output
    {"inputs": [[1, 2], ...], "outputs": [3, ...], "fn_name": "add"}   the same: calls, a list of arguments each
    [{"input": "1 2\\n", "output": "3\\n", "type": "stdin"}, ...]    LiveCodeBench, DeepCoder; `functional` tests have
                                                                       a line of JSON for each argument
    ["assert add(1, 2) == 3", ...]                                     MBPP
    def check(candidate): ...                                          HumanEval, with `entry_point`
    from solution import add; def test_add(): ...                      KodCode: pytest's functions, unittest's classes
    {"test_list": [...], "test_setup_code": "...", "entry_point": ...}, {"functional": TEXT}, {"test": TEXT}

Each also as JSON text. What belongs to them may be in the row's metadata: `entry_point` or `fn_name`,
`test_setup_code`, `test_imports`.
"""

import ast
import builtins
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from v05ray.rewards.references import UnreadableReference

_TEXTS = ("functional", "test", "test_code", "unit_test")
_LISTS = ("test_list", "assert_case", "asserts")
_CASES = ("tests", "test_cases", "cases", "public_test_cases")
_NAMES = ("entry_point", "fn_name", "func_name", "function_name")
_SETUPS = ("test_setup_code", "test_imports", "setup", "import_prefix")
CONTEXT_FIELDS = (*_NAMES, *_SETUPS)
"""Fields beside the tests that belong to them."""
_STDIN, _FUNCTIONAL = ("stdin", "stdin_stdout", "standard_input"), ("functional", "function_call", "function", "call")


@dataclass(frozen=True, slots=True)
class Streams:
    """Standard input and what is to be written for it."""

    input: str
    expected: str


@dataclass(frozen=True, slots=True)
class Call:
    """Arguments and the value that is to be returned for them."""

    args: Sequence[Any]
    expected: Any
    may_be_wrapped: bool = False
    """Whether an expected list of one item may also mean that item, as in APPS."""


@dataclass(frozen=True, slots=True)
class Asserts:
    """A task's own code that tests the program."""

    setup: tuple[str, ...]
    asserts: tuple[str, ...]
    """Each a test of its own."""
    text: str
    """Definitions of tests, run once before."""
    check: str | None
    """The name of what `check(candidate)` of `text` is given."""
    entry_points: tuple[str, ...]
    """Names that are the program's although Python has some of its own by that name, such as MBPP's `sum`."""


@dataclass(frozen=True, slots=True)
class CodeReference:
    """The tests of one row: either cases or asserts."""

    cases: tuple[Streams, ...] | tuple[Call, ...] = ()
    function: str | None = None
    """Name of the function that cases of arguments call."""
    asserts: Asserts | None = None


def read_code_reference(answer: str, metadata: Mapping[str, Any]) -> CodeReference:
    """The tests; raises `UnreadableReference` for what is none of the forms above."""
    context = {name: metadata[name] for name in CONTEXT_FIELDS if metadata.get(name)}
    return _read(answer, json.dumps(context, default=str))


@lru_cache(maxsize=1024)
def _read(answer: str, context: str) -> CodeReference:
    value = _parsed(answer)
    fields: dict[str, Any] = json.loads(context)
    if isinstance(value, Mapping):
        fields |= {name: value[name] for name in CONTEXT_FIELDS if value.get(name)}
        value = _within(value)
    if isinstance(value, str):
        return CodeReference(asserts=_asserts(value, (), fields))
    if isinstance(value, Mapping):
        return _paired(value, fields)
    if not isinstance(value, list) or not value:
        raise UnreadableReference(f"the tests {answer!r:.60} are none of the forms that code tasks have")
    if all(isinstance(one, str) for one in value):
        return CodeReference(asserts=_asserts("", value, fields))
    if all(isinstance(one, Mapping) and "input" in one and "output" in one for one in value):
        return _listed(value, fields)
    raise UnreadableReference(f"the list of tests {answer!r:.60} holds neither asserts nor pairs of input and output")


def _parsed(answer: str) -> Any:
    """JSON, which may be JSON text in turn, or Python code."""
    text = answer.strip()
    if not text:
        raise UnreadableReference("there are no tests; name their field with data.answer_field")
    value: Any = text
    while isinstance(value, str) and value.lstrip()[:1] in ("[", "{", '"'):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            try:
                ast.parse(value)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                raise UnreadableReference(f"the tests {text!r:.60} are neither JSON nor code: {error}") from None
            break
    return value


def _within(value: Mapping[str, Any]) -> Any:
    """The tests in a mapping, which names them in one of several ways."""
    if "inputs" in value and "outputs" in value:
        return value
    if "input" in value and "output" in value:
        return [value]
    found = [name for name in (*_TEXTS, *_LISTS, *_CASES) if value.get(name)]
    if len(found) != 1:
        said = (
            f"several of them ({', '.join(found)})" if found else f"none, but {', '.join(map(str, value)) or 'nothing'}"
        )
        names = ", ".join(("inputs and outputs", *_TEXTS, *_LISTS, *_CASES))
        raise UnreadableReference(f"tests are looked for in {names}; the reference has {said}")
    tests = value[found[0]]
    return _parsed(tests) if isinstance(tests, str) else tests


def _name(fields: Mapping[str, Any]) -> str | None:
    name = next((fields[one] for one in _NAMES if fields.get(one)), None)
    if name is None:
        return None
    if not isinstance(name, str) or not name.removeprefix("Solution().").isidentifier():
        raise UnreadableReference(f"the function to be tested, {name!r:.60}, is no name")
    return name.removeprefix("Solution().")


def _paired(value: Mapping[str, Any], fields: Mapping[str, Any]) -> CodeReference:
    inputs, outputs = (_parsed(part) if isinstance(part, str) else part for part in (value["inputs"], value["outputs"]))
    if not isinstance(inputs, list) or not isinstance(outputs, list) or not inputs or len(inputs) != len(outputs):
        sizes = " and ".join(
            str(len(part)) if isinstance(part, list) else repr(part)[:40] for part in (inputs, outputs)
        )
        raise UnreadableReference(f"inputs and outputs must be lists of one length that is not 0, got {sizes}")
    name = _name(fields)
    if name is None:
        return CodeReference(cases=tuple(map(_streams, inputs, outputs)))
    return CodeReference(cases=tuple(map(_call, inputs, outputs)), function=name)


def _streams(given: Any, expected: Any) -> Streams:
    return Streams(_text(given, "input"), _text(expected, "output"))


def _text(value: Any, what: str) -> str:
    if isinstance(value, list) and all(isinstance(line, str | int | float) for line in value):
        return "\n".join(map(str, value))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UnreadableReference(
            f"the {what} {value!r:.60} is no text; calls need the name of their function, `fn_name`"
        )
    return str(value)


def _call(given: Any, expected: Any) -> Call:
    """APPS and TACO have lists of arguments, LiveCodeBench a line of JSON for each."""
    if isinstance(given, str):
        return Call([_json(line) for line in given.splitlines() if line.strip()], _json(expected))
    if not isinstance(given, list):
        raise UnreadableReference(f"the arguments {given!r:.60} are no list")
    return Call(given, expected, may_be_wrapped=True)


def _json(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UnreadableReference(f"{text!r:.60} of a call is not JSON") from None


def _listed(cases: Sequence[Mapping[str, Any]], fields: Mapping[str, Any]) -> CodeReference:
    kinds = {case.get("type", case.get("testtype")) for case in cases}
    names = {name for case in cases if (name := _name({**fields, **_context_of(case)})) is not None}
    if len(kinds) > 1 or len(names) > 1:
        raise UnreadableReference(
            f"the tests are of several kinds or functions: {kinds}, {names or 'none'}; split them"
        )
    (kind,), name = kinds, next(iter(names), None)
    if kind is None:
        kind = "stdin" if name is None else "functional"
    if kind in _STDIN:
        return CodeReference(cases=tuple(_streams(case["input"], case["output"]) for case in cases))
    if kind not in _FUNCTIONAL:
        raise UnreadableReference(f"tests of type {kind!r} are not known; valid: stdin, functional")
    if name is None:
        raise UnreadableReference(
            "functional tests need the name of their function: `fn_name`, beside them or in metadata"
        )
    return CodeReference(cases=tuple(_call(case["input"], case["output"]) for case in cases), function=name)


def _context_of(case: Mapping[str, Any]) -> dict[str, Any]:
    inner = case.get("metadata")
    return {**(inner if isinstance(inner, Mapping) else {}), **{name: case[name] for name in _NAMES if case.get(name)}}


def _asserts(text: str, listed: Sequence[str], fields: Mapping[str, Any]) -> Asserts:
    setup = tuple(_setup(fields[name]) for name in _SETUPS if fields.get(name))
    for source in setup:
        _parse(source)
    body, asserts = _split(_parse(text))
    asserts += [one for one in listed if _parse(one).body]
    tree = _parse(body)
    check = None
    if any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body) and not _calls_check(
        asserts
    ):
        check = _name(fields)
        if check is None:
            raise UnreadableReference(
                "the tests are a `check(candidate)`, and what it is to be given is not named: `entry_point`"
            )
    elif not asserts and not any(map(_is_test, tree.body)):
        raise UnreadableReference(f"the tests {text!r:.60} test nothing: no assert, check(candidate) or test function")
    if not any(map(_tests, (*map(_parse, asserts), tree))):
        raise UnreadableReference("the tests hold no assert and raise nothing, so that every program would pass")
    named = _name(fields)
    return Asserts(setup, tuple(asserts), body, check, (named,) if named else _tested_by_all(asserts))


def _setup(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _parse(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnreadableReference(f"the test {source!r:.60} is not Python: {error}") from None


def _split(tree: ast.Module) -> tuple[str, list[str]]:
    """(what is not an assert, each assert) of a text whose top level is both; all of it where the order matters."""
    asserts = [node for node in tree.body if isinstance(node, ast.Assert)]
    others = [node for node in tree.body if not isinstance(node, ast.Assert)]
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    if not asserts:
        return ast.unparse(tree), []
    first = tree.body.index(asserts[0])
    if all(isinstance(node, definitions) for node in tree.body[first:] if node not in asserts):
        return ast.unparse(ast.Module(others, [])), [ast.unparse(node) for node in asserts]
    return "", [ast.unparse(tree)]


def _is_test(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
        args = node.args
        if len(args.args) + len(args.posonlyargs) > len(args.defaults):
            raise UnreadableReference(
                f"the test {node.name} takes arguments: fixtures and parameters are not supported"
            )
        return True
    return isinstance(node, ast.ClassDef) and any(
        isinstance(one, ast.FunctionDef) and one.name.startswith("test") for one in node.body
    )


def _calls_check(asserts: Sequence[str]) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "check"
        for source in asserts
        for node in ast.walk(_parse(source))
    )


def _tests(tree: ast.Module) -> bool:
    """Whether it can fail by its own words: an assert, a raise, or a method such as `assertEqual` or `raises`."""
    return any(
        isinstance(node, ast.Assert | ast.Raise)
        or (isinstance(node, ast.Attribute) and (node.attr.startswith(("assert", "fail")) or node.attr == "raises"))
        for node in ast.walk(tree)
    )


def _tested_by_all(asserts: Sequence[str]) -> tuple[str, ...]:
    """The names called in every assert; those that Python has too only where there is no other."""
    called = [
        {
            node.func.id
            for node in ast.walk(_parse(one))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        for one in asserts
    ]
    common = set.intersection(*called) if called else set()
    own = {name for name in common if not hasattr(builtins, name) and name not in sys.stdlib_module_names}
    return tuple(sorted(own or common))
