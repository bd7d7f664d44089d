"""What the tests of a code task may look like, and what can never be one. Nothing is run here."""

import json

import pytest

from v05ray.config import VerifierSpec
from v05ray.rewards.code.references import Asserts, Call, CodeReference, Streams, read_code_reference
from v05ray.rewards.references import UnreadableReference
from v05ray.rewards.self_check import reference_check
from v05ray.types import Prompt

ADDS = ("assert add(1, 2) == 3", "assert add(0, 0) == 0")
HUMANEVAL = "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n"
KODCODE = (
    "from solution import add\n\ndef test_small():\n    assert add(1, 2) == 3\n\n"
    "def test_zero():\n    assert add(0, 0) == 0\n"
)
UNITTEST = (
    "import unittest\nclass T(unittest.TestCase):\n    def test_small(self):\n        self.assertEqual(add(1, 2), 3)\n"
)
STREAMS = (Streams("1 2\n", "3\n"), Streams("0 0\n", "0\n"))


def read(tests: object, **metadata: object) -> CodeReference:
    return read_code_reference(tests if isinstance(tests, str) else json.dumps(tests), metadata)


@pytest.mark.parametrize(
    "tests",
    [
        {"inputs": ["1 2\n", "0 0\n"], "outputs": ["3\n", "0\n"]},
        {"inputs": json.dumps(["1 2\n", "0 0\n"]), "outputs": json.dumps(["3\n", "0\n"])},
        {"inputs": ["1 2\n", "0 0\n"], "outputs": ["3\n", "0\n"], "fn_name": None},
        [{"input": "1 2\n", "output": "3\n", "type": "stdin"}, {"input": "0 0\n", "output": "0\n", "type": "stdin"}],
        [
            {"input": "1 2\n", "output": "3\n", "testtype": "stdin"},
            {"input": "0 0\n", "output": "0\n", "testtype": "stdin"},
        ],
        [{"input": "1 2\n", "output": "3\n"}, {"input": "0 0\n", "output": "0\n"}],
        {"tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "0 0\n", "output": "0\n"}]},
        json.dumps(json.dumps({"inputs": ["1 2\n", "0 0\n"], "outputs": ["3\n", "0\n"]})),
    ],
)
def test_input_and_output(tests):
    assert read(tests) == CodeReference(cases=STREAMS)


def test_lines_and_numbers_as_input_and_output():
    assert read({"inputs": [["1", "2"], 7], "outputs": [["3"], 8]}).cases == (Streams("1\n2", "3"), Streams("7", "8"))


@pytest.mark.parametrize("name", ["fn_name", "entry_point"])
@pytest.mark.parametrize("place", ["reference", "metadata"])
def test_calls_with_lists_of_arguments(name, place):
    tests = {"inputs": [[1, [2]], [0, []]], "outputs": [3, [0]]}
    beside = {name: "add"}
    found = read({**tests, **beside}) if place == "reference" else read(tests, **beside)
    assert found.function == "add"
    assert found.cases == (Call([1, [2]], 3, may_be_wrapped=True), Call([0, []], [0], may_be_wrapped=True))


@pytest.mark.parametrize(
    ("case", "metadata"),
    [
        ({"type": "functional", "fn_name": "add"}, {}),
        ({"testtype": "functional"}, {"func_name": "add"}),
        ({"testtype": "functional", "metadata": {"func_name": "add"}}, {}),
        ({"type": "function_call", "fn_name": "add"}, {}),
    ],
)
def test_calls_with_a_line_of_json_for_each_argument(case, metadata):
    found = read([{"input": '[1, 2]\n"a"', "output": "true", **case}], **metadata)
    assert found == CodeReference(cases=(Call([[1, 2], "a"], True),), function="add")


@pytest.mark.parametrize(
    "tests",
    [
        list(ADDS),
        {"test_list": list(ADDS)},
        {"assert_case": list(ADDS)},
        "\n".join(ADDS),
        {"functional": "\n".join(ADDS)},
    ],
)
def test_asserts_are_a_test_each(tests):
    found = read(tests).asserts
    assert found == Asserts((), ADDS, "", None, ("add",))


def test_what_precedes_asserts_goes_before_them_and_what_is_between_stays():
    found = read("import math\nassert math.isclose(half(1), .5)").asserts
    assert found is not None
    assert (found.text, len(found.asserts)) == ("import math", 1)
    found = read("xs = [2, 1]\nsort(xs)\nassert xs == [1, 2]\nsort(xs)\nassert xs == [1, 2]").asserts
    assert found is not None
    assert (found.text, len(found.asserts)) == ("", 1)


def test_check_is_given_the_entry_point():
    found = read(HUMANEVAL, entry_point="add").asserts
    assert found is not None
    assert (found.check, found.entry_points, found.asserts) == ("add", ("add",), ())
    assert read(f"{HUMANEVAL}\ncheck(add)", entry_point="add").asserts is not None


@pytest.mark.parametrize("tests", [KODCODE, UNITTEST, {"functional": KODCODE}, {"test": UNITTEST}])
def test_test_functions_and_cases(tests):
    found = read(tests).asserts
    assert found is not None
    assert "add" in found.text
    assert not found.asserts


def test_setup_goes_first():
    found = read(
        {"test_list": list(ADDS), "test_imports": ["import math", "import re"]}, test_setup_code="x = 1"
    ).asserts
    assert found is not None
    assert found.setup == ("x = 1", "import math\nimport re")


@pytest.mark.parametrize(
    ("asserts", "names"),
    [
        (["assert sum(10, 15) == 6", "assert sum(100, 150) == 93"], ("sum",)),
        (["assert abs(f(2) - 1.4) < 1e-3", "assert abs(f(3)) < 9"], ("f",)),
        (["assert set(f([1])) == set([1])", "assert f([]) == []"], ("f",)),
    ],
)
def test_the_tested_name_is_found_among_pythons_own(asserts, names):
    found = read(asserts).asserts
    assert found is not None
    assert found.entry_points == names


UNREADABLE = [
    ("", "there are no tests"),
    ("[]", "none of the forms"),
    ("42", "test nothing"),
    ("null", "test nothing"),
    ("x = 1", "test nothing"),
    ("def add(a, b): return a + b", "test nothing"),
    ("assert add(1, 2) = 3", "is not Python"),
    ('{"inputs": ["1"]', "neither JSON nor code"),
    ({"inputs": ["1"], "outputs": []}, "of one length that is not 0, got 1 and 0"),
    ({"inputs": [], "outputs": []}, "of one length"),
    ({"inputs": "1", "outputs": "2"}, "must be lists"),
    ({"inputs": [[1, {"a": 2}]], "outputs": ["3"]}, "calls need the name of their function"),
    ({"inputs": [True], "outputs": ["3"]}, "is no text"),
    ({"inputs": [5], "outputs": [6], "fn_name": "f"}, "are no list"),
    ({"inputs": ["5 6"], "outputs": ["6"], "fn_name": "f"}, "is not JSON"),
    ({"inputs": [[5]], "outputs": [6], "fn_name": "f(x)"}, "is no name"),
    ({"answer": 5}, "the reference has none, but answer"),
    ({"test": "assert f(1)", "functional": "assert f(1)"}, "several of them"),
    ([{"input": "1"}], "neither asserts nor pairs"),
    ([1, 2], "neither asserts nor pairs"),
    (
        [{"input": "1", "output": "2", "type": "stdin"}, {"input": "1", "output": "2", "type": "functional"}],
        "several kinds",
    ),
    ([{"input": "1", "output": "2", "type": "interactive"}], "'interactive' are not known"),
    ([{"input": "1", "output": "2", "type": "functional"}], "need the name of their function"),
    (["assert f(1) == 1", "assert f("], "is not Python"),
    (["f(1)", "f(2)"], "every program would pass"),
    ("def test_add():\n    add(1, 2)", "every program would pass"),
    ("def test_add(tmp_path):\n    assert add(1, 2)", "takes arguments"),
    (HUMANEVAL, "`entry_point`"),
]


@pytest.mark.parametrize(("tests", "reason"), UNREADABLE)
def test_what_is_no_test_is_unreadable(tests, reason):
    with pytest.raises(UnreadableReference) as error:
        read(tests)
    assert reason in str(error.value)


def test_the_check_of_references_needs_no_solution():
    check = reference_check(VerifierSpec(name="code"))
    assert check is not None
    for tests, reason in UNREADABLE:
        answer = tests if isinstance(tests, str) else json.dumps(tests)
        assert reason in (check(Prompt("p", "q", (), answer, "s", {})) or "")
    assert check(Prompt("p", "q", (), json.dumps(ADDS), "s", {})) is None
    assert check(Prompt("p", "q", (), HUMANEVAL, "s", {"entry_point": "add"})) is None


def test_the_check_of_references_by_source():
    sources = {"code": {"name": "code"}}
    check = reference_check(
        VerifierSpec.model_validate({"name": "by_source", "default": {"name": "exact"}, "sources": sources})
    )
    assert check is not None
    assert check(Prompt("p", "q", (), "x = 1", "other", {})) is None
    assert "test nothing" in (check(Prompt("p", "q", (), "x = 1", "code", {})) or "")
