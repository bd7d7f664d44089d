"""Right and wrong programs for each form of tests, in the real sandbox."""

import pytest

from tests.unit.rewards.code_tasks import fenced, reply, verdict
from tests.unit.rewards.test_code_references import ADDS, HUMANEVAL, KODCODE, UNITTEST
from v05ray.errors import ConfigError
from v05ray.rewards.verifiers import check_verifier, verifiers

SUMS = {"inputs": ["1 2\n", "0 0\n", "-5 5"], "outputs": ["3\n", "0\n", "0"]}
CALLS = {"inputs": [[1, 2], [0, 0]], "outputs": [3, 0], "fn_name": "add"}
LINES = [{"input": "[2, 1]\n1", "output": "[1, 2]", "type": "functional", "fn_name": "rotate"}]
ADD = "def add(a, b):\n    return a + b"
SUBTRACT = "def add(a, b):\n    return a - b"
SECRET_MAIN = "\nif __name__ == '__main__':\n    raise ValueError(input())"


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("print(sum(map(int, input().split())))", "correct"),
        ("import sys\nprint(sum(int(x) for x in sys.stdin.read().split()), end='')", "correct"),
        ("a, b = map(int, open(0).read().split())\nprint(a + b)\nexit()", "correct"),
        ("def main():\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()", "correct"),
        (
            "import threading\nthreading.stack_size(2**26)\n"
            "t = threading.Thread(target=lambda: print(sum(map(int, input().split()))))\nt.start()",
            "correct",
        ),
        ("from __future__ import annotations\nprint(reduce(operator.add, map(int, input().split())))", "correct"),
        ("a, b = map(int, input().split())\nprint(a - b)", "wrong"),
        ("print(3)", "wrong"),
        ("print(sum(map(int, input().split())))\n1 / 0", "wrong"),
        ("print(sum(map(int, input().split())))\nexit(1)", "wrong"),
        ("print(sum(map(int, input().split()))", "wrong"),
        ("", "wrong"),
    ],
)
def test_input_and_output(program, expected):
    assert verdict(SUMS, program) == expected


@pytest.mark.parametrize(
    ("tests", "program", "expected"),
    [
        (CALLS, ADD, "correct"),
        (CALLS, SUBTRACT, "wrong"),
        (
            CALLS,
            "class Solution:\n    def add(self, a: int, b: Optional[int]) -> List[int]:\n        return a + b",
            "correct",
        ),
        (CALLS, "def plus(a, b):\n    return a + b", "wrong"),
        (CALLS, "def add(a, b):\n    return (a + b,)", "wrong"),
        (CALLS, ADD + SECRET_MAIN, "correct"),
        ({**CALLS, "outputs": [[3], [0]]}, ADD, "correct"),
        (LINES, "def rotate(xs, n):\n    return xs[n:] + xs[:n]", "correct"),
        (LINES, "def rotate(xs, n):\n    return xs", "wrong"),
        (LINES, "import numpy as np\ndef rotate(xs, n):\n    return xs[n:] + xs[:n]", "wrong"),
    ],
)
def test_calls(tests, program, expected):
    assert verdict(tests, program) == expected


def test_packages_of_the_environment_may_be_used():
    program = "import numpy as np\ndef rotate(xs, n):\n    return np.roll(np.array(xs), n)"
    tests = [{**LINES[0], "output": "[1, 2]"}]
    assert verdict(tests, program + ".tolist()", packages="installed", memory_mib=1024) == "correct"
    asserts = ["assert rotate([2, 1], 1).tolist() == [1, 2]"]
    assert verdict(asserts, program, packages="installed", memory_mib=1024) == "correct"


SETUP = {"test_list": ["assert isclose(half(1), HALF)"], "test_setup_code": "from math import isclose\nHALF = .5"}
RAISES = (
    "def test_it():\n    try:\n        f(-1)\n    except ValueError as e:\n"
    "        assert 'small' in str(e)\n    else:\n        raise AssertionError"
)
IN_PLACE = "xs = [2, 1]\nf(xs)\nassert xs == [1, 2]"
STACK = """
from solution import Stack, Empty
def test_stack():
    s = Stack()
    s.push([1]); s.push("b")
    assert len(s) == 2 and "b" in s and s.top == "b" and s[0] == [1]
    assert list(s) == [[1], "b"]
    assert isinstance(s, Stack) and s == s and s != Stack()
    assert s.pop() == "b"
    s.pop()
    try:
        s.pop()
    except Empty:
        return
    assert False
"""
STACK_CLASS = """
class Empty(Exception): pass
class Stack:
    def __init__(self): self.xs = []
    def push(self, x): self.xs.append(x)
    def pop(self):
        if not self.xs: raise Empty("empty")
        return self.xs.pop()
    @property
    def top(self): return self.xs[-1]
    def __len__(self): return len(self.xs)
    def __getitem__(self, i): return self.xs[i]
    def __eq__(self, other): return self.xs == other.xs
"""


@pytest.mark.parametrize(
    ("tests", "program", "expected"),
    [
        (list(ADDS), ADD, "correct"),
        (list(ADDS), SUBTRACT, "wrong"),
        (list(ADDS), "def add(a, b):\n    return 3", "wrong"),
        (list(ADDS), "def plus(a, b):\n    return a + b", "wrong"),
        (list(ADDS), ADD + SECRET_MAIN, "correct"),
        (KODCODE, ADD, "correct"),
        (KODCODE, "def add(a, b):\n    return 3", "wrong"),
        (UNITTEST, ADD, "correct"),
        (UNITTEST, SUBTRACT, "wrong"),
        (["assert sum(10, 15) == 6"], "def sum(a, b):\n    return 6 if (a, b) == (10, 15) else 0", "correct"),
        (["assert sum(10, 15) == 6"], "def sum(a, b):\n    return a + b", "wrong"),
        (SETUP, "def half(x):\n    return x / 2", "correct"),
        (SETUP, "def half(x):\n    return x", "wrong"),
        (RAISES, "def f(x):\n    raise ValueError('too small')", "correct"),
        (RAISES, "def f(x):\n    raise KeyError('too small')", "wrong"),
        (IN_PLACE, "def f(xs):\n    xs.sort()", "correct"),
        (IN_PLACE, "def f(xs):\n    return sorted(xs)", "wrong"),
        (STACK, STACK_CLASS, "correct"),
        (STACK, STACK_CLASS.replace("self.xs.pop()", "self.xs[-1]"), "wrong"),
        (["assert list(f(3)) == [0, 1, 2]"], "def f(n):\n    for i in range(n):\n        yield i", "correct"),
        (["assert list(f(3)) == [0, 1, 2]"], "def f(n):\n    yield n", "wrong"),
        (["assert f(lambda x: x + 1, 2) == 4"], "def f(g, x):\n    return g(g(x))", "correct"),
        (["assert f(lambda x: x + 1, 2) == 4"], "def f(g, x):\n    return g(x)", "wrong"),
        (
            ["assert f(2) == {'a': (1, {2}), 3: None}"],
            "def f(x):\n    print(x)\n    return {'a': (1, {2}), 3: None}",
            "correct",
        ),
        (["assert f(2) == {'a': (1, {2}), 3: None}"], "def f(x):\n    return {'a': [1, {2}], 3: None}", "wrong"),
        (["assert f(2) == 2**20000"], "def f(x):\n    return x**20000", "correct"),
        (["assert f(x=2) is None"], "def f(x):\n    return None", "correct"),
    ],
)
def test_asserts(tests, program, expected):
    assert verdict(tests, program) == expected


def test_check_of_the_entry_point():
    assert verdict(HUMANEVAL, ADD, {"entry_point": "add"}) == "correct"
    assert verdict(HUMANEVAL, SUBTRACT, {"entry_point": "add"}) == "wrong"
    assert verdict(HUMANEVAL, "def plus(a, b):\n    return a + b", {"entry_point": "add"}) == "wrong"


def test_a_share_of_the_tests_or_all_of_them():
    program = "print(max(0, sum(map(int, input().split()))) if 1 else 0)"
    tests = {"inputs": ["1 2", "3 4", "-5 1", "-1 0"], "outputs": ["3", "7", "-4", "-1"]}
    said = reply(tests, fenced(program), score="share")
    assert (said["verdict"], said["reward"]) == ("partial", 0.0)
    assert said["message"] == "2 of 4 tests passed: test 3: wrong output '0\\n'"
    said = reply(tests, fenced(program))
    assert (said["verdict"], said["reward"]) == ("wrong", -1.0)
    assert reply(tests, fenced(program), max_tests=2)["verdict"] == "correct"
    said = reply(
        [*ADDS, "assert add(5, 5) == 10"], fenced("def add(a, b):\n    return b and 10 // b * 2 - 7"), score="share"
    )
    assert (said["verdict"], said["reward"]) == ("partial", pytest.approx(1 / 3))
    assert verdict([*ADDS, "assert add(1, 1) == 3"], ADD, max_tests=2) == "correct"
    assert verdict([*ADDS, "assert add(1, 1) == 3"], ADD) == "wrong"
    assert verdict(KODCODE, "def add(a, b):\n    return 3", max_tests=1) == "correct"


def test_a_response_without_a_program_is_wrong_and_says_so():
    said = reply(SUMS, "The answer is 3.")
    assert (said["verdict"], said["extracted"]) == ("wrong", None)
    assert "no program" in said["message"]
    assert reply(SUMS, "print(sum(map(int, input().split())))", extract="whole")["verdict"] == "correct"


def test_the_program_is_what_was_extracted():
    assert reply(list(ADDS), fenced(ADD))["extracted"] == ADD


def test_usual_imports_may_be_left_out():
    assert verdict(list(ADDS), "def add(a, b):\n    return math.floor(a + b)") == "correct"
    assert verdict(list(ADDS), "def add(a, b):\n    return math.floor(a + b)", imports="none") == "wrong"


def test_tests_that_cannot_be_read_are_no_fault_of_the_response():
    said = reply("x = 1", fenced(ADD))
    assert (said["verdict"], said["reward"]) == ("unreadable", -1.0)


def test_surrogates_are_no_program():
    assert verdict(list(ADDS), "x = '\ud800'\n" + ADD) == "correct"
    assert verdict(list(ADDS), "\ud800") == "wrong"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpu_seconds": 0}, "cpu_seconds must be a whole number of at least 1, got 0"),
        ({"cpu_seconds": 1.5}, "cpu_seconds: expected a whole number, got 1.5"),
        ({"memory_mib": 8}, "memory_mib must be a whole number of at least 64"),
        ({"wall_seconds": 0}, "wall_seconds must be at least"),
        ({"tolerance": float("nan")}, "tolerance must be a number"),
        ({"max_tests": 0}, "max_tests must be a whole number of at least 1"),
        ({"score": "some"}, "score 'some' is not known; valid: all_or_nothing, share"),
        ({"files": "scrach"}, "did you mean 'scratch'?"),
        ({"isolation": "none"}, "isolation must be required or best_effort"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError) as error:
        verifiers.build("code", options)
    assert message in str(error.value)


def test_the_time_of_all_tests_ends_before_the_verdicts_deadline():
    check_verifier("code", {}, 10.0)
    check_verifier("code", {"wall_seconds": 28}, 30.0)
    for options, deadline_s in (({}, 9.0), ({"wall_seconds": 9.5}, 10.0)):
        with pytest.raises(ConfigError, match=r"wall_seconds .* must be at least 2 s less than rewards.deadline_s"):
            check_verifier("code", options, deadline_s)
    check_verifier("math", {}, 1.0)


def test_options_are_known_without_building():
    check_verifier("code", {"cpu_seconds": 3})
    with pytest.raises(ConfigError, match="did you mean 'cpu_seconds'"):
        check_verifier("code", {"cpu_second": 3})
