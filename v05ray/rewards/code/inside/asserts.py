"""The process that runs a task's own tests: asserts, `check(candidate)`, pytest's functions, unittest's classes.

The program is in another process, so nothing that it does to `assert`, to builtins or to modules is seen here.
"""

import builtins
import json
import os
import sys
import types
import unittest
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from v05ray.rewards.code.inside.peer import Gone, Tests

_WHY = 300


def judge(
    tests: Mapping[str, Any], usual: Mapping[str, Any], requests_fd: int, replies_fd: int, results_fd: int
) -> int:
    """Runs all units of the tests and writes a line for each: `{"passed": bool, "why": text}`, after `{"units": N}`."""
    # Never closed: what could not be sent to a program that has ended would be tried again.
    program = Tests(os.fdopen(replies_fd, "rb"), os.fdopen(requests_fd, "wb"))

    def report(message: Mapping[str, Any]) -> None:
        os.write(results_fd, json.dumps(message).encode() + b"\n")

    units, broken = _units(tests, usual, program)
    units = units[: tests["max_units"]]
    report({"units": len(units)})
    for unit in units:
        why = broken or _tried(unit)
        report({"passed": why is None, "why": why or ""})
        if why is not None and tests["stop_at_first"]:
            break
    return 0


def _tried(unit: Callable[[], None]) -> str | None:
    """Why a unit failed; None where it passed."""
    try:
        unit()
    except AssertionError as error:
        return f"a test failed{f': {error}' if str(error) else ''}"[:_WHY]
    except Gone as error:
        return str(error)
    except (Exception, SystemExit) as error:  # tests, and through them programs, raise what they like
        return f"{type(error).__name__}: {error}"[:_WHY]
    return None


Units = list[Callable[[], None]]


def _units(tests: Mapping[str, Any], usual: Mapping[str, Any], program: Tests) -> tuple[Units, str | None]:
    """The units, and why none of them can be run, as where the program lacks a name that the tests import."""
    namespace: dict[str, Any] = {name: value for name, value in usual.items() if isinstance(value, types.ModuleType)}
    namespace["__name__"] = "tests"
    sources: list[str] = tests["asserts"]
    found: Units = []
    broken: list[str] = []

    def load() -> None:
        names = program.names()
        _expose(names, namespace, tests["entry_points"])
        for source in (*tests["setup"], tests["text"]):
            exec(compile(source, "tests.py", "exec", dont_inherit=True), namespace)
        if tests["check"] is not None:
            if tests["check"] not in names:
                raise NameError(f"the program has no {tests['check']!r}")
            found.append(lambda: namespace["check"](names[tests["check"]]))
        found.extend(_functions_and_cases(namespace))

    why = _tried(load)
    if why is not None:
        broken.append(why)
    found.extend(_executing(source, namespace) for source in sources)
    if not found:  # none passes where none is
        found.append(lambda: None)
        broken.append("the tests hold nothing to run")
    return found, broken[0] if broken else None


def _executing(source: str, namespace: dict[str, Any]) -> Callable[[], None]:
    return lambda: exec(compile(source, "tests.py", "exec", dont_inherit=True), namespace)


_NEVER_THE_PROGRAMS = frozenset({"isclose", "approx", "allclose", "array_equal", "raises", "np", "numpy", "pytest"})
"""Names with which tests judge, as far as they are not built in."""


def _expose(names: Mapping[str, Any], namespace: dict[str, Any], entry_points: list[str]) -> None:
    """Gives the tests the program's names, but none that they would take for Python's own."""
    solution = types.ModuleType("solution")
    for name, value in names.items():
        pythons = hasattr(builtins, name) or name in sys.stdlib_module_names or name in _NEVER_THE_PROGRAMS
        if name in entry_points or not pythons:
            namespace[name] = value
            setattr(solution, name, value)
    sys.modules["solution"] = solution


def _functions_and_cases(namespace: Mapping[str, Any]) -> Iterator[Callable[[], None]]:
    """Those that the tests define; what the program calls so is a `Proxy`, and no function or class."""
    for name, value in namespace.items():
        if name.startswith("test") and isinstance(value, types.FunctionType):
            yield value
        elif isinstance(value, type) and value.__module__ == "tests":
            if issubclass(value, unittest.TestCase):
                yield from (_case(value, one) for one in unittest.defaultTestLoader.getTestCaseNames(value))
            elif name.startswith("Test"):
                yield from (_method(value, one) for one in vars(value) if one.startswith("test"))


def _method(kind: type, name: str) -> Callable[[], None]:
    return lambda: getattr(kind(), name)()


def _case(kind: type[unittest.TestCase], name: str) -> Callable[[], None]:
    def run() -> None:
        result = unittest.TestResult()
        unittest.TestSuite([kind(name)]).run(result)
        if not result.wasSuccessful() or result.skipped:
            said = [text for _, text in (*result.errors, *result.failures, *result.skipped)] or ["unexpected success"]
            raise AssertionError(said[0].strip().splitlines()[-1])

    return run
