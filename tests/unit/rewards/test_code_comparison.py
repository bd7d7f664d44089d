"""Which outputs and values are the same."""

import pytest

from v05ray.rewards.code.comparison import same_output, same_value


@pytest.mark.parametrize(
    ("given", "expected", "same"),
    [
        ("3\n", "3", True),
        ("3", "3\n\n", True),
        ("1 2 \n3  \n", "1 2\n3", True),
        ("1  2", "1 2", True),
        ("1 2", "1\n2", False),
        ("1\n\n2", "1\n2", False),
        ("3", "4", False),
        ("", "3", False),
        ("3\n3", "3", False),
        ("Yes", "yes", False),
        ("0.3333333", "0.333333333", True),
        ("0.333", "0.333333333", False),
        ("1000000.5", "1000000.4", True),
        ("3.0", "3", True),
        ("3.1", "3", False),
        ("1e3", "1000.0", True),
        ("1000001", "1000000", False),
        ("123456789012345678", "123456789012345679", False),
        ("03", "3", False),
        ("nan", "0.5", False),
        ("inf", "1e400", False),
        ("x 0.50", "x .5", True),
        ("y 0.50", "x .5", False),
    ],
)
def test_output(given, expected, same):
    assert same_output(given, expected, 1e-6) is same


@pytest.mark.parametrize(
    ("given", "expected", "same"),
    [
        (3, 3, True),
        (3, 4, False),
        ((1, 2), [1, 2], True),
        ([(1, [2])], [[1, [2]]], True),
        ([1, 2], [2, 1], False),
        ([1], [1, 2], False),
        ({1, 2}, [1, 2], False),
        (range(2), [0, 1], False),
        ({1: "a"}, {"1": "a"}, True),
        ({1: "a"}, {"1": "b"}, False),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ([], {}, False),
        (0.1 + 0.2, 0.3, True),
        ([0.31], [0.3], False),
        (2, 2.0, True),
        ("2", 2.0, False),
        (10**400, 2.5, False),
        (float("nan"), 1.0, False),
        (True, True, True),
        (True, False, False),
        (None, None, True),
        (None, False, False),
        ("a", "a", True),
        ("a", "A", False),
        ("12", 12, False),
        ("ab", ["a", "b"], False),
    ],
)
def test_values(given, expected, same):
    assert same_value(given, expected, 1e-6) is same
