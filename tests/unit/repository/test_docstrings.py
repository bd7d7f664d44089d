"""The pure rooms document themselves: what each public function and class has in its docstring, and that it is true.

| who | has |
|---|---|
| function, class | an example, which runs; a source, its own or its file's |
| function, method | each number that it takes, by name and with a range or shape; each error that it raises itself |
| everything public | a docstring that says something |
"""

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import v05ray

PACKAGE = Path(v05ray.__file__).parent
PURE = ("stats", "advantages", "budget", "losses/aggregation.py", "losses/group_filter.py", "losses/kl.py")
FILES = sorted(
    path for room in PURE for path in ((PACKAGE / room).rglob("*.py") if not room.endswith(".py") else [PACKAGE / room])
)
SOURCE = re.compile(r"\d{4}\.\d{4,5}|Eqs?\. ?\d|Schulman|[Tt]extbook|\bours\b")
RANGE = re.compile(r"[<>]=? ?[\w.]|\b(in|within) [\[(]|\[[A-Z][^\]]*\]|\[\w+ >= \d\]")
NUMBER = re.compile(r"\b(int|float|Tensor)\b")
EMPTY = re.compile(r"^(See the class|What `?\w+`? gave|What it found)\.?$")

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Public:
    """A public definition, with the docstrings around it that a reader of it has read."""

    name: str
    node: Definition
    around: tuple[str, ...]

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def read(self) -> str:
        """The text, without the examples: a number in one is no range."""
        return re.sub(r"(?m)^ *(>>>|\.\.\.).*$", "", "\n".join((*self.around, self.docstring)))


def public(path: Path) -> Iterator[Public]:
    """Functions, classes and methods without an underscore; constructors of public classes that take arguments."""
    module = ast.parse(path.read_text())
    head = ast.get_docstring(module) or ""
    promised = protocols(path)
    for node in module.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield Public(node.name, node, (head,))
        if isinstance(node, ast.ClassDef):
            own = ast.get_docstring(node) or ""
            for method in node.body:
                if not isinstance(method, ast.FunctionDef):
                    continue
                built = method.name == "__init__" and not node.name.startswith("_") and numbers(method)
                if built or not method.name.startswith("_"):
                    yield Public(f"{node.name}.{method.name}", method, (own, promised.get(method.name, "")))


def protocols(path: Path) -> dict[str, str]:
    """What the room's Protocols say of each method: a class that meets one need not repeat it."""
    said = {}
    for folder in (path.parent, path.parent.parent):
        if (base := folder / "base.py").exists() and base != path:
            for node in ast.walk(ast.parse(base.read_text())):
                if isinstance(node, ast.FunctionDef) and node.name != "__init__":
                    said[node.name] = ast.get_docstring(node) or ""
    return said


def numbers(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Parameters that are numbers, or hold some."""
    parameters = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return [one.arg for one in parameters if one.annotation and NUMBER.search(ast.unparse(one.annotation))]


def raised(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Errors that the function's own body raises."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            found.add(node.exc.func.id)
    return found


def faults(one: Public) -> Iterator[str]:
    """What the docstring lacks, each with its fix."""
    if not one.docstring or EMPTY.match(one.docstring):
        yield "says nothing; say what it returns or does"
    if "." not in one.name:
        if ">>>" not in one.docstring:
            yield "has no example; add a `>>>` line and its result"
        if not SOURCE.search(one.read):
            yield "names no source; give paper and equation, or say `ours` or `textbook`, here or atop the file"
    if isinstance(one.node, ast.ClassDef):
        return
    for parameter in numbers(one.node):
        if not re.search(rf"\b{parameter}\b", one.read):
            yield f"does not name {parameter!r}; say what it is, with its range or shape"
    if numbers(one.node) and not RANGE.search(one.read):
        yield "has no range or shape; such as `in [-1, 1]`, `>= 0`, `rewards[K]`"
    for error in raised(one.node):
        if error not in one.read:
            yield f"does not say when it raises {error}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_names_say_ranges_errors_source_and_an_example(path: Path) -> None:
    found = [f"{path.name}: {one.name} {fault}" for one in public(path) for fault in faults(one)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_examples_are_true(path: Path) -> None:
    name = ".".join(("v05ray", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0, f"{results.failed} of {results.attempted} examples of {name} are wrong; see above"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(x: float) -> float:\n    'Half of x >= 0 (ours).\\n\\n    >>> f(2)\\n    1\\n    '\n", []),
        (
            "def f(x: float) -> float:\n    '(ours)\\n\\n    >>> f(2)\\n    1\\n    '\n",
            ["does not name 'x'", "no range"],
        ),
        ("def f() -> float:\n    'Half (ours).'\n", ["no example"]),
        ("def f() -> float:\n    'Half.\\n\\n    >>> f()\\n    1\\n    '\n", ["no source"]),
        ("def f():\n    '(ours)\\n\\n    >>> f()\\n    1\\n    '\n    raise ValueError('no')\n", ["raises ValueError"]),
        (
            "class A:\n    'A (ours).\\n\\n    >>> A()\\n    1\\n    '\n    def f(self):\n        'See the class.'\n",
            ["nothing"],
        ),
        ("def f():\n    pass\n", ["says nothing", "no example", "no source"]),
    ],
)
def test_the_law_notices_what_is_missing(tmp_path: Path, source: str, said: list[str]) -> None:
    path = tmp_path / "room.py"
    path.write_text(source)
    found = [fault for one in public(path) for fault in faults(one)]
    assert len(found) == len(said)
    assert all(part in fault for part, fault in zip(said, found, strict=True))
