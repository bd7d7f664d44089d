"""What counts as a response's answer."""

import random
import re

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


PIECES = [
    "1",
    "23",
    "456",
    "000",
    ",",
    ".",
    "-",
    "+",
    " ",
    "\n",
    "x",
    "_",
    "=",
    "(",
    "1,234",
    "-5",
    "\u0663",
    "a",
    "²",
    "%",
]
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


def test_read_from_the_end_it_is_the_last_of_all_numbers_read_from_the_start():
    rng = random.Random(0)
    for _ in range(4000):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(12)))
        numbers = NUMBER.findall(re.sub(r"(?<=[=(])\s*-\s+(?=\d)", "-", text))
        assert last_number(text) == (last_number(numbers[-1]) if numbers else None), repr(text)


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
