"""Programs that do not solve the task and try to pass: none does. Each is tried where the tests are of its form."""

import pytest

from tests.unit.rewards.code_tasks import verdict

ASSERTS = ["assert add(1, 2) == 3", "assert add(20, 30) == 50"]
NEAR = ["assert abs(add(1, 2) - 3) < 1e-6"]
TESTS = "from solution import add\ndef test_add():\n    assert add(1, 2) == 3\n"
CASES = (
    "import unittest\nfrom solution import add\nclass T(unittest.TestCase):\n"
    "    def test_add(self):\n        self.assertEqual(add(1, 2), 3)\n"
)
CHECK = {"test": "def check(candidate):\n    assert candidate(1, 2) == 3\n", "entry_point": "add"}
CALLS = {"inputs": [[1, 2], [20, 30]], "outputs": [3, 50], "fn_name": "add"}
STREAMS = {"inputs": ["1 2\n", "20 30\n"], "outputs": ["3\n", "50\n"]}

ALWAYS = """
class Always:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __sub__(self, other): return 0
    __rsub__ = __add__ = __radd__ = __sub__
    def __abs__(self): return 0
    def __bool__(self): return True
    def __hash__(self): return 3
    def __instancecheck__(self, other): return True
def add(a, b): return Always()
"""
SUBCLASS = """
class Int(int):
    def __eq__(self, other): return True
    def __sub__(self, other): return 0
    __hash__ = None
def add(a, b): return Int(7)
"""
BUILTINS = """
import builtins, functools, operator, unittest
for name in ("abs", "all", "any", "isinstance", "AssertionError", "print"):
    setattr(builtins, name, lambda *a, **k: True)
operator.eq = lambda a, b: True
unittest.TestCase.assertEqual = lambda *a: None
unittest.TestResult.wasSuccessful = lambda *a: True
def abs(x): return 0
def isclose(*a): return True
def check(candidate): pass
def test_add(): pass
class T: pass
def add(a, b): return 7
"""
TRACING = """
import sys, threading
def trace(frame, event, arg):
    for name in list(frame.f_locals): frame.f_locals[name] = True
    return trace
sys.settrace(trace); sys.setprofile(lambda *a: None)
sys.excepthook = lambda *a: None
def add(a, b): return 7
"""
ALL_DESCRIPTORS = """
import os
words = b'{"units": 1}\\n{"passed": true, "why": ""}\\n["=", true]\\n3\\n{"why": "", "lines": "", "output": "3"}\\n'
def spray():
    for fd in range(64):
        try: os.write(fd, words)
        except OSError: pass
spray()
def add(a, b):
    spray()
    return 7
"""
MEMORY = """
import gc, sys
words = " ".join(["assert", "add"])  # or it would find itself
def add(a, b):
    for one in gc.get_objects():
        if isinstance(one, dict) and ("asserts" in one or "expected" in one or "outputs" in one):
            for value in one.values():
                if isinstance(value, (list, tuple)) and any(words in str(v) for v in value):
                    return 3 if a == 1 else 50
    frame = sys._getframe()
    while frame is not None:
        if words + "(1" in repr(frame.f_locals): return 3 if a == 1 else 50
        frame = frame.f_back
    return 7
"""
DISK = """
import glob, os
def add(a, b):
    for pattern in ("/tmp/**", "/proc/*/cmdline", "/proc/*/environ", "/proc/*/mem", "./**", "/dev/fd/*"):
        for path in glob.glob(pattern, recursive=True):
            try:
                if b"assert" in open(path, "rb").read(): return 3 if a == 1 else 50
            except (OSError, ValueError): pass
    return 7
"""
MODULES = """
import sys, types
for name in list(sys.modules):
    if "rewards" in name or name in ("asserts", "unittest", "json"):
        module = sys.modules[name]
        for key in list(vars(module)):
            if key[:2] != "__" and callable(getattr(module, key)):
                try: setattr(module, key, lambda *a, **k: True)
                except Exception: pass
def add(a, b): return 7
"""
REPLIES_AND_LEAVES = """
import os
def add(a, b):
    for fd in range(3, 64):
        try: os.write(fd, b'["=", [true, [null, null]]]\\n' * 3)
        except OSError: pass
    os._exit(0)
"""
EXCEPTIONS = """
import unittest
class Skip(unittest.SkipTest): pass
def add(a, b): raise unittest.SkipTest("not today")
"""
FORGERIES = {
    "prints the word of success": "print('OK passed True 3 50')\ndef add(a, b): return 7",
    "leaves": "import sys\nsys.exit(0)",
    "leaves at once": "import os\nos._exit(0)",
    "leaves in the call": "import os\ndef add(a, b): os._exit(0)",
    "raises SystemExit in the call": "def add(a, b): raise SystemExit(0)",
    "leaves at exit": "import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b): return 7",
    "is always equal": ALWAYS,
    "is a number that is always equal": SUBCLASS,
    "has other builtins": BUILTINS,
    "traces": TRACING,
    "writes to all descriptors": ALL_DESCRIPTORS,
    "looks through its memory": MEMORY,
    "looks through the disk": DISK,
    "changes modules": MODULES,
    "answers and leaves": REPLIES_AND_LEAVES,
    "skips": EXCEPTIONS,
    "gives an iterator of all": "import itertools\ndef add(a, b): return itertools.count()",
    "gives a mock": "from unittest.mock import ANY\ndef add(a, b): return ANY",
    "gives not a number": "def add(a, b): return float('nan')",
}


@pytest.mark.parametrize("deed", FORGERIES)
@pytest.mark.parametrize("tests", [ASSERTS, NEAR], ids=["equal", "near"])
def test_asserts(deed, tests):
    assert verdict(tests, FORGERIES[deed]) == "wrong"


@pytest.mark.parametrize(
    "deed", ["is always equal", "has other builtins", "skips", "leaves in the call", "answers and leaves"]
)
@pytest.mark.parametrize("tests", [TESTS, CASES, CHECK], ids=["functions", "cases", "check"])
def test_test_functions(deed, tests):
    assert verdict(tests, FORGERIES[deed]) == "wrong"


@pytest.mark.parametrize(
    "deed",
    [
        "leaves",
        "leaves in the call",
        "is always equal",
        "is a number that is always equal",
        "writes to all descriptors",
    ],
)
def test_calls(deed):
    assert verdict(CALLS, FORGERIES[deed]) == "wrong"


@pytest.mark.parametrize("deed", ["prints the word of success", "leaves at once", "writes to all descriptors"])
def test_input_and_output(deed):
    assert verdict(STREAMS, FORGERIES[deed]) == "wrong"


def test_the_same_tests_pass_a_program_that_solves_the_task():
    program = "def add(a, b):\n    return a + b"
    for tests in (ASSERTS, NEAR, TESTS, CASES, CHECK, CALLS):
        assert verdict(tests, program) == "correct"
    assert verdict(STREAMS, "print(sum(map(int, input().split())))") == "correct"
