"""The `math` verifier: what equals a reference, what a response's answer is, and what gets no reward."""

import json
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unit.rewards.cases import DIFFERENT, EQUAL, RIGHT, WRONG
from v05ray.rewards.extract import extract, has_finished_answer
from v05ray.rewards.references import UnreadableReference, read_reference
from v05ray.rewards.verifiers import truncated_by_default, verifiers
from v05ray.rewards.worker import judge
from v05ray.types import Prompt

REPORTED = [json.loads(line) for line in (Path(__file__).parent / "reported.jsonl").read_text().splitlines()]
MATH = verifiers.build("math", {})


def prompt(answer: str, **metadata: object) -> Prompt:
    return Prompt("p1", "a question", (), answer, "src", metadata)


def flat(cases):
    return [pytest.param(*case, id=f"{kind}-{i}") for kind, group in cases.items() for i, case in enumerate(group)]


def is_right(answer: str, response: str) -> bool:
    return judge(MATH, prompt(answer), response)["verdict"] == "correct"


@pytest.mark.parametrize("case", REPORTED, ids=lambda case: f"{case['kind']}: {case['gold']!r:.20}"[:60])
def test_reported_answers_get_the_verdict_that_a_person_would_give(case):
    gold = case["gold"] if isinstance(case["gold"], str) else json.dumps(case["gold"])
    name = case["verifier"]
    reply = judge(
        verifiers.build(name, {}),
        prompt(gold),
        case["response"],
        finish_reason=case.get("finish_reason", "stop"),
        truncated=truncated_by_default(name),
    )
    assert reply["verdict"] == ("correct" if case["right"] else "wrong")


@pytest.mark.parametrize(("reference", "answer"), flat(EQUAL))
def test_equal_answers(reference, answer):
    assert is_right(reference, rf"\boxed{{{answer}}}")


@pytest.mark.parametrize(("reference", "answer"), flat(DIFFERENT))
def test_different_answers(reference, answer):
    assert not is_right(reference, rf"\boxed{{{answer}}}")


@pytest.mark.parametrize(("reference", "response"), flat(RIGHT))
def test_right_responses(reference, response):
    assert is_right(reference, response)


@pytest.mark.parametrize(("reference", "response"), flat(WRONG))
def test_wrong_responses(reference, response):
    assert not is_right(reference, response)


FORMS = (r"\boxed{%s}", r"\fbox{%s}", "Answer: %s", "**%s**", "$%s$", "It took a while.\nThe answer is %s.", "%s")
REFERENCES = sorted({reference for group in EQUAL.values() for reference, _ in group})


@pytest.mark.parametrize("reference", REFERENCES)
def test_every_reference_is_right_in_every_usual_form(reference):
    # Dollars within dollars are no LaTeX.
    responses = [form % reference for form in FORMS if "$" not in form or "$" not in reference]
    assert [response for response in responses if not is_right(reference, response)] == []


@pytest.mark.parametrize(
    ("response", "finished"),
    [
        (r"\boxed{34}", True),
        (r"\boxed{34} since", True),
        ("<answer>34</answer>", True),
        ("The answer is 34. To check", True),
        ("The answer is 34\n", True),
        ("The answer is $34$", False),
        ("The answer is 34", False),
        ("The answer is 34.", False),
        ("12 + 22 = 34", False),
        ("<think>\\boxed{34}", False),
        (r"\boxed{34", False),
    ],
)
def test_a_cut_off_response_is_right_only_where_its_answer_was_finished(response, finished):
    assert has_finished_answer(response) is finished
    cut = judge(MATH, prompt("34"), response, finish_reason="length", truncated="wrong")
    assert cut["verdict"] == ("correct" if finished else "wrong")


def test_cut_off_responses_are_judged_where_that_is_asked_for():
    reply = judge(MATH, prompt("34"), "12 + 22 = 34", finish_reason="length", truncated="judge")
    assert reply["verdict"] == "correct"


@pytest.mark.parametrize("name", ["last_integer", "exact", "reasoning_gym", "python"])
def test_verifiers_of_short_answers_judge_what_was_cut_off(name):
    assert truncated_by_default(name) == "judge"


def test_the_answer_that_was_read_is_kept():
    assert judge(MATH, prompt("34"), r"so \boxed{33}.")["extracted"] == "33"
    assert judge(MATH, prompt("34"), "It took 33 days.")["extracted"] == "33"
    assert judge(MATH, prompt("34"), "I do not know.")["verdict"] == "wrong"
    assert judge(MATH, prompt("34"), "<think>34")["extracted"] is None


@pytest.mark.parametrize(
    ("answer", "alternatives"),
    [
        ('["3", "4"]', ("3", "4")),
        ('["7"]', ("7",)),
        ("[3, 4]", ("[3, 4]",)),
        ("true", ("true",)),
        ("12 + 22 = 34\n#### 34", ("34",)),
        (r"So we get $\boxed{34}$.", ("34",)),
        (r"\boxed{34}", (r"\boxed{34}",)),
    ],
)
def test_references_and_their_alternatives(answer, alternatives):
    assert read_reference(answer) == alternatives


def test_any_alternative_is_right_and_all_of_them_are_one_too_many():
    assert is_right('["3", "4"]', r"\boxed{4}")
    assert is_right('["3", "4"]', r"\boxed{3}")
    assert not is_right('["3", "4"]', r"\boxed{5}")
    assert not is_right('["3", "4"]', r"\boxed{3, 4}")


@pytest.mark.parametrize(
    "answer",
    ["", " ", "NaN", "nan", "null", "None", "[]", "{}", "...", "$$", r"\frac{1}{2", "1}", '["3", "NaN"]', "word " * 30],
)
def test_what_is_no_reference_says_so(answer):
    with pytest.raises(UnreadableReference):
        read_reference(answer)
    assert judge(MATH, prompt(answer), rf"\boxed{{{answer}}}")["verdict"] == "unreadable"


def test_a_task_may_allow_an_absolute_error():
    near = prompt("2.5", tolerance=0.1)
    assert judge(MATH, near, r"\boxed{2.55}")["verdict"] == "correct"
    assert judge(MATH, near, r"\boxed{2.65}")["verdict"] == "wrong"
    assert judge(MATH, prompt("2.5"), r"\boxed{2.55}")["verdict"] == "wrong"
    root = prompt(r"\sqrt{2}", tolerance=0.01)
    assert judge(MATH, root, r"\boxed{1.41}")["verdict"] == "correct"


integers = st.integers(-(10**7), 10**7)
decimals = st.decimals(-(10**5), 10**5, places=3, allow_nan=False, allow_infinity=False)
ratios = st.fractions(-1000, 1000, max_denominator=97)


def as_text(value: Fraction) -> list[str]:
    """The usual ways of writing a number."""
    top, bottom = value.numerator, value.denominator
    if bottom == 1:
        ways = [
            str(top),
            f"{top:,}",
            f"{top:,}".replace(",", r"\,"),
            f"{top}.0",
            f"${top}$",
            str(top).replace("-", "−"),
        ]
        return [*ways, f"{top}.", f"x = {top}", rf"\text{{{top}}}", f"{top} apples"]
    sign = "-" if top < 0 else ""
    whole, rest = divmod(abs(top), bottom)
    ways = [f"{top}/{bottom}", rf"{sign}\frac{{{abs(top)}}}{{{bottom}}}", rf"\dfrac{{{top}}}{{{bottom}}}"]
    return [*ways, rf"{sign}{whole}\frac{{{rest}}}{{{bottom}}}"] if whole else ways


@given(st.one_of(integers.map(Fraction), ratios), st.data())
def test_a_number_is_right_in_any_usual_way_of_writing_and_form(value, data):
    reference, answer = (data.draw(st.sampled_from(as_text(value))) for _ in range(2))
    form = data.draw(st.sampled_from([form for form in FORMS if "$" not in form or "$" not in answer]))
    assert is_right(reference, form % answer)


@given(st.one_of(integers.map(Fraction), ratios), st.one_of(integers.map(Fraction), ratios), st.data())
def test_another_number_is_wrong_in_every_way_of_writing(value, other, data):
    assume(value != other)
    reference, answer = data.draw(st.sampled_from(as_text(value))), data.draw(st.sampled_from(as_text(other)))
    form = data.draw(st.sampled_from([form for form in FORMS if "$" not in form or "$" not in answer]))
    assert not is_right(reference, form % answer)


@given(st.decimals(1, 10, places=3), st.integers(-30, 30), st.integers(-30, 30))
def test_scientific_notation_is_right_at_its_own_power_of_ten_alone(mantissa, power, other):
    assume(mantissa < 10)
    answer = rf"\boxed{{{mantissa} \times 10^{{{other}}}}}"
    assert is_right(f"{mantissa}e{power}", answer) is (power == other)


@given(decimals, st.sampled_from(["0.001", "-0.001", "1", "0.1"]))
def test_a_changed_decimal_is_wrong(value, change):
    assert is_right(str(value), rf"\boxed{{{value}}}")
    assert not is_right(str(value), rf"\boxed{{{value + Decimal(change)}}}")


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=4, unique=True), st.data())
def test_all_parts_are_needed(values, data):
    reference = ", ".join(map(str, values))
    shuffled = data.draw(st.permutations(values))
    assert is_right(reference, rf"\boxed{{{', '.join(map(str, shuffled))}}}")
    assert not is_right(reference, rf"\boxed{{{', '.join(map(str, shuffled[1:]))}}}")
    assert not is_right(reference, rf"\boxed{{{', '.join(map(str, [*shuffled[1:], 99]))}}}")
    blanks = ";".join(map(str, values))
    assert is_right(blanks, rf"\boxed{{{blanks}}}")
    if shuffled != values:
        assert not is_right(blanks, rf"\boxed{{{';'.join(map(str, shuffled))}}}")


@given(st.text(max_size=60))
def test_no_response_is_an_error(text):
    assert judge(MATH, prompt("34"), text)["verdict"] in ("correct", "wrong")


@pytest.mark.parametrize(
    "piece",
    [
        r"\boxed{",
        "}",
        "$",
        "$$",
        r"\[",
        "*",
        "__",
        "1,",
        "1 ",
        "√",
        "½",
        "answer: ",
        "x=",
        r"\frac{1}{2}",
        "(1,",
        "\n",
        "1,000,",
        "1 1/2 ",
        "1 hour ",
        "sqrt(",
        "x<1 or ",
        "(A) or ",
        "5 cm ",
        "①、",
        "&lt;",
        "<|a|>",
        "not 3 ",
    ],
)
@pytest.mark.parametrize("form", ["%s", r"\boxed{%s}", "The answer is %s"])
def test_no_response_takes_long(piece, form):
    start = time.perf_counter()
    for answer in ("34", "east"):
        judge(MATH, prompt(answer), form % (piece * (30_000 // len(piece))))
    assert time.perf_counter() - start < 2


def test_extraction_says_where_the_answer_was_found():
    places = {r"\boxed{5}": "boxed", "<answer>5</answer>": "tagged", "The answer is 5.": "stated", "5": "last"}
    assert {response: found.place for response in places if (found := extract(response))} == places
