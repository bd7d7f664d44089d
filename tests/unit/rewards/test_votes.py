"""Which answers vote together."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.rewards.cases import EQUAL
from v05ray.rewards.votes import answer_key, canonical


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The answer is 1,000.", "1000"),
        (r"so \boxed{007}", "<answer>7</answer>"),
        (r"\boxed{\frac{1}{2}}", r"<answer>$\frac{1} {2}$</answer>"),
        ("Yes", " yes "),
        (r"\boxed{0.5}", r"\boxed{\frac12}"),
        (r"\boxed{x=5}", "The answer is 5."),
        (r"\boxed{\text{A}}", "Answer: (A)"),
        (r"\boxed{1{,}234}", "1234"),
        (r"\boxed{10\%}", "The answer is 10%."),
        (r"\boxed{\left(1, 2\right)}", r"\boxed{(1,2)}"),
        (r"\boxed{3, 2}", r"\boxed{2,3}"),
        (r"\boxed{20\text{ cm}}", "20"),
        ("<think>6</think>5", "5"),
        (r"\boxed{\text{East}}", "The answer is east."),
    ],
)
def test_equal_answers_have_equal_keys(one, other):
    assert answer_key(one) == answer_key(other)


def test_different_answers_have_different_keys():
    texts = ("5", "-5", "5.1", "fifty", r"\boxed{x}", "", r"\boxed{1, 2}", r"\boxed{(1, 2)}", r"\boxed{2;1}", "1/5")
    assert len({answer_key(text) for text in texts}) == len(texts)


@pytest.mark.parametrize("answer", sorted({answer for group in EQUAL.values() for pair in group for answer in pair}))
def test_a_canonical_answer_is_its_own(answer):
    assert canonical(canonical(answer)) == canonical(answer)


@given(st.text(max_size=50))
def test_every_response_has_a_key(text):
    assert isinstance(answer_key(text), str)


@pytest.mark.parametrize("piece", ["<answer>", r"\boxed{", "1,", "}", "-", "1.", "{", "$", "*", "is "])
def test_no_response_takes_long(piece):
    start = time.perf_counter()
    answer_key(piece * 30_000)
    assert time.perf_counter() - start < 2


def test_signs_without_a_value_are_an_answer_like_any_text():
    assert answer_key("\\boxed{=}") == answer_key("\\boxed{ = }")
    assert answer_key("\\boxed{+=}") != answer_key("\\boxed{=}")
