"""What counts as a response's answer."""

import pytest

from v05ray.rewards.answers import last_boxed, last_integer, last_number, last_tagged


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", "42"),
        ("The answer is 7.", "7"),
        ("x = -5", "-5"),
        ("x = −5", "-5"),
        ("x = –5", "-5"),
        ("pages 3–5", "5"),
        ("10-5", "5"),
        ("10 - 5 = 5", "5"),
        ("3-(-4) = −7", "-7"),
        ("1,234,567 people", "1234567"),
        ("3, 4", "4"),
        ("3,45", "45"),
        ("+007", "7"),
        ("-0", "0"),
        ("1.50", "1.5"),
        ("7.0", "7"),
        ("version 1.2.3", "3"),
        ("none", None),
        ("", None),
        ("0" * 9000 + "1" + "0" * 9000, "1" + "0" * 9000),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == number


def test_last_integer_takes_whole_numbers_alone():
    assert last_integer("3.5 is not 7.0") == "7"
    assert last_integer("7 is not 3.5") is None
    assert last_integer("none") is None


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{1} or \boxed{ \frac{1}{2} }.", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{5} \boxed{6", "5"),
        (r"\boxed {5}", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        ("{5}", None),
        (r"}\boxed", None),
    ],
)
def test_last_boxed(text, boxed):
    assert last_boxed(text) == boxed


@pytest.mark.parametrize(
    ("text", "tagged"),
    [
        ("<answer>5</answer>", "5"),
        ("<answer>4</answer><ANSWER> 5\n</Answer>", "5"),
        ("<answer>draft <answer>5</answer>", "5"),
        ("<answer>5</answer><answer>6", "5"),
        ("5</answer>", None),
    ],
)
def test_last_tagged(text, tagged):
    assert last_tagged(text) == tagged
