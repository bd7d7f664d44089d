"""Right and wrong answers as models and files vary them, by kind: `varied.jsonl` in the form of `reported.jsonl`."""

import json
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.rewards.cases import EQUAL
from v05ray.rewards.verifiers import truncated_by_default, verifiers
from v05ray.rewards.worker import judge
from v05ray.types import Prompt

KINDS = defaultdict(list)
for line in (Path(__file__).parent / "varied.jsonl").read_text(encoding="utf-8").splitlines():
    case = json.loads(line)
    KINDS[case["kind"]].append(case)

build = cache(lambda name: verifiers.build(name, {}))


@pytest.mark.parametrize("kind", KINDS)
def test_every_case_of_a_kind_gets_the_verdict_that_a_person_would_give(kind):
    missed = []
    for case in KINDS[kind]:
        name = case.get("verifier", "math")
        reply = judge(
            build(name),
            Prompt("p1", "a question", (), case["gold"], "src"),
            case["response"],
            finish_reason=case.get("finish_reason", "stop"),
            truncated=truncated_by_default(name),
        )
        if reply["verdict"] != ("correct" if case["right"] else "wrong"):
            missed.append((case, reply))
    assert missed == []


def test_every_kind_has_cases_of_both_sides():
    sides = {kind.split(",")[0]: set() for kind in KINDS}
    for kind, cases in KINDS.items():
        sides[kind.split(",")[0]] |= {case["right"] for case in cases}
    sides["answers in sentences"] |= sides.pop("sprayed", set())
    assert {kind for kind, both in sides.items() if both != {True, False}} == set()


def is_right(answer: str, response: str) -> bool:
    return judge(build("math"), Prompt("p1", "a question", (), answer, "src"), response)["verdict"] == "correct"


REWRITINGS = {
    "display fractions": lambda text: text.replace(r"\frac", r"\dfrac"),
    "inline mathematics": lambda text: rf"\({text}\)",
    "displayed": lambda text: rf"\displaystyle {text}",
    "thin spaces around": lambda text: rf"\,{text}\,",
    "a full stop": lambda text: f"{text}.",
    "braces": lambda text: f"{{{text}}}",
    "typographic minus": lambda text: text.replace("-", "\u2212"),
    "short roots": lambda text: re.sub(r"\\sqrt\{(\d)\}", r"\\sqrt\1", text),
}


@pytest.mark.parametrize("rewriting", REWRITINGS)
def test_a_rewriting_says_the_same_from_both_sides(rewriting):
    texts = [reference for group in EQUAL.values() for reference, _ in group if "$" not in reference]
    pairs = [(text, REWRITINGS[rewriting](text)) for text in texts if "{-" not in text]
    missed = [(a, b) for a, b in pairs if not (is_right(a, rf"\boxed{{{b}}}") and is_right(b, rf"\boxed{{{a}}}"))]
    assert missed == []


@settings(max_examples=20)
@given(st.integers(12, 300), st.integers(2, 9), st.sampled_from([-1, 1]))
def test_neighbours_of_large_powers_are_other_numbers(power, base, change):
    assert is_right(f"{base}^{{{power}}}", rf"\boxed{{{base}^{{{power}}}}}")
    assert not is_right(f"{base}^{{{power}}}", rf"\boxed{{{base}^{{{power}}}{change:+d}}}")
    assert is_right(f"{base}^{{{power}}}", rf"\boxed{{{base**power}}}")
    assert not is_right(f"{base}^{{{power}}}", rf"\boxed{{{base**power + change}}}")


@given(
    st.integers(1, 10**4), st.sampled_from([("km", "m", 1000), ("h", "min", 60), ("m", "cm", 100), ("kg", "g", 1000)])
)
def test_a_quantity_is_right_in_another_unit_at_its_own_factor_alone(value, units):
    large, small, factor = units
    assert is_right(f"{value} {large}", rf"\boxed{{{value * factor} \text{{ {small}}}}}")
    assert not is_right(f"{value} {large}", rf"\boxed{{{value} \text{{ {small}}}}}")
    assert not is_right(f"{value} {large}", rf"\boxed{{{value * factor + 1} \text{{ {small}}}}}")


@given(st.integers(0, 23), st.integers(0, 59), st.integers(0, 23), st.integers(0, 59))
def test_a_time_of_day_is_right_in_both_notations(hour, minute, other_hour, other_minute):
    twelve = f"{hour % 12 or 12}:{minute:02d} {'p.m.' if hour > 11 else 'a.m.'}"
    other = f"{other_hour}:{other_minute:02d}"
    assert is_right(twelve, rf"\boxed{{{hour}:{minute:02d}}}")
    if (other_hour % 12, other_minute) != (hour % 12, minute):
        assert not is_right(twelve, rf"\boxed{{{other}}}")


@given(
    st.lists(st.sampled_from("ABCDEF"), min_size=2, max_size=4, unique=True),
    st.sampled_from([", ", " or ", "/", ") or (", " and "]),
)
def test_several_letters_are_no_choice(letters, separator):
    for form in ("Answer: (%s)", r"\boxed{(%s)}", "<answer>%s</answer>", "The answer is %s."):
        assert not is_right(letters[0], form % separator.join(letters))
