"""Right and wrong answers as models and files vary them, by kind: `varied.jsonl` in the form of `reported.jsonl`."""

import json
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

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
