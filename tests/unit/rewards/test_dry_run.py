"""A verdict of every verifier before a run starts."""

from dataclasses import replace

from tests.fakes import make_prompt
from tests.unit.rewards.test_by_source import config, source
from v05ray.rewards.by_source import with_source_verifiers
from v05ray.rewards.dry_run import described, dry_verdicts, one_of_each

BORROWED = "tests.unit.rewards.borrowed"


def test_each_source_is_judged_by_all_of_its_verifiers_and_failures_say_which():
    columns = {"name": "python", "path": f"{BORROWED}:trl_columns", "scale": "as_is", "weight": 0.5, "label": "columns"}
    rewards = with_source_verifiers(
        config([source(label="sums", verifier=["last_integer", columns]), source(label="words", verifier="exact")])
    )
    sums, words = make_prompt("p1", answer="4", source="sums"), make_prompt("p2", answer="yes", source="words")
    graded = replace(make_prompt("p3", answer="4", source="sums"), metadata={"difficulty": -10})
    prompts = one_of_each([sums, graded, words, words])
    assert prompts == [sums, words]
    found = [
        described(prompt, one)
        for prompt, one in zip([*prompts, graded], dry_verdicts(rewards, [*prompts, graded]), strict=True)
    ]
    assert found[0].startswith(
        "sums: the reference of 'p1' as a response: error (last_integer +1, columns error); columns: TypeError: "
    )
    assert "'difficulty'" in found[0]
    assert found[1] == "words: the reference of 'p2' as a response: correct, reward +1"
    assert found[2] == (
        "sums: the reference of 'p3' as a response: correct, reward +0.333 (last_integer +1, columns -1)"
    )
