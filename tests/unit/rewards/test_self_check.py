"""References that no response could equal are found when they are loaded."""

import json

import pytest

from tests.unit.data.tokenizing import CharTokenizer
from tests.unit.rewards.cases import EQUAL
from v05ray.config import DataConfig, VerifierSpec
from v05ray.data import load_splits
from v05ray.errors import ConfigError
from v05ray.rewards.self_check import check_scorer, reference_check
from v05ray.types import Prompt

MATH = VerifierSpec(name="math")


def prompt(answer: str, **metadata: object) -> Prompt:
    return Prompt("p1", "a question", (), answer, "src", metadata)


def splits(tmp_path, train, held_out=(), *, verifier=MATH, **data):
    specs = {}
    for name, answers in (("train", train), ("eval", held_out)):
        rows = [{"question": f"{name} {i}?", "answer": answer} for i, answer in enumerate(answers)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        specs[name] = {"name": "jsonl", "path": str(tmp_path / f"{name}.jsonl")} if answers else None
    config = DataConfig.model_validate({**specs, **data})
    return load_splits(
        config, CharTokenizer(), max_prompt_tokens=200, seed=0, reference_check=reference_check(verifier)
    )


def test_every_reference_that_the_usual_sets_have_judges_itself():
    check = reference_check(MATH)
    assert check is not None
    references = {reference for group in EQUAL.values() for reference, _ in group}
    assert {reference: reason for reference in references if (reason := check(prompt(reference)))} == {}


def test_unreadable_references_stop_the_run_with_their_count_file_and_row(tmp_path):
    answers = ["7", r"\frac{1}{2", r"\$7", "NaN", "8"]
    with pytest.raises(ConfigError) as error:
        splits(tmp_path, answers)
    message = str(error.value)
    assert "2 of 5 reference answers do not judge themselves correct" in message
    assert "train.jsonl:2: the braces" in message
    assert "train.jsonl:4: the reference answer 'NaN' is no answer" in message
    assert "data.skip_bad_rows allows 0" in message


def test_allowed_unreadable_references_are_skipped_and_counted(tmp_path, caplog):
    both = splits(tmp_path, ["7", "NaN", r"\$7"], ["null", "3"], skip_bad_rows=1)
    assert [p.answer for p in both.train] == ["7", r"\$7"]
    assert [p.answer for p in both.eval] == ["3"]
    assert both.counts == {"train/unreadable_references": 1, "eval/unreadable_references": 1}
    assert "train.jsonl:2" in caplog.text


def test_other_bad_rows_count_too(tmp_path):
    with pytest.raises(ConfigError, match="1 of 2 reference answers"):
        splits(tmp_path, [" ", "NaN", "8"], skip_bad_rows=1)


@pytest.mark.parametrize("answer", ["7", "-1,234", "7.0"])
def test_last_integer_takes_integers(answer):
    check = reference_check(VerifierSpec(name="last_integer"))
    assert check is not None
    assert check(prompt(answer)) is None


@pytest.mark.parametrize("answer", ["7.5", "seven", ""])
def test_last_integer_refuses_what_is_none(answer):
    check = reference_check(VerifierSpec(name="last_integer"))
    assert check is not None
    assert "is not an integer" in (check(prompt(answer)) or "")


@pytest.mark.parametrize("name", ["exact", "python", "reasoning_gym"])
def test_other_verifiers_know_their_references_themselves(name):
    assert reference_check(VerifierSpec(name=name)) is None


def test_a_scorer_that_does_not_know_its_own_answer_is_named(caplog):
    import reasoning_gym

    entry = reasoning_gym.create_dataset("chain_sum", size=1, seed=1)[0]
    right, wrong = (prompt(answer, task="chain_sum", entry=entry) for answer in (entry["answer"], "x"))
    spec = VerifierSpec(name="reasoning_gym")
    assert check_scorer(spec, [right, right]) == []
    assert check_scorer(spec, [right, wrong]) == ["p1"]
    assert "1 of 2 prompts" in caplog.text
    assert check_scorer(MATH, [wrong]) == []
