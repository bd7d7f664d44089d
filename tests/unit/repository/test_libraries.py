"""Ray, vLLM, DeepSpeed and MLflow are known to the files named here and denied to every other."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "v05ray"
MAY_KNOW = {
    "ray": ("actors/", "launch/", "submit/client.py", "cli/scale.py"),
    "vllm": ("generation/core.py", "generation/cpu_kernels.py"),
    "deepspeed": ("learning/engine.py",),
    "mlflow": ("tracking/store.py",),
}
"""Library to the files and rooms (with `/`) that may import it."""


def imported(source: str) -> Iterator[str]:
    """The top-level names of all imports, also those inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


@cache
def imports() -> dict[str, frozenset[str]]:
    """What each file of the package imports; parsed once, for every library."""
    return {
        path.relative_to(PACKAGE).as_posix(): frozenset(imported(path.read_text(encoding="utf-8")))
        for path in PACKAGE.rglob("*.py")
    }


def importers(library: str) -> set[str]:
    return {path for path, names in imports().items() if library in names}


@pytest.mark.parametrize("library", MAY_KNOW)
def test_a_library_is_imported_where_it_may_be_and_nowhere_else(library: str):
    assert {path for path in importers(library) if not path.startswith(MAY_KNOW[library])} == set()


@pytest.mark.parametrize("library", MAY_KNOW)
def test_each_exception_is_used(library: str):
    found = importers(library)
    assert [place for place in MAY_KNOW[library] if not any(path.startswith(place) for path in found)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import ray", ["ray"]),
        ("import ray.util.metrics as m, json", ["ray", "json"]),
        ("def f():\n    from vllm.inputs import TokensPrompt", ["vllm"]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mlflow", ["typing", "mlflow"]),
        ("from . import ray", []),
        ("text = 'import ray'", []),
    ],
)
def test_imports_are_found_wherever_they_are(source: str, found: list[str]):
    assert list(imported(source)) == found
