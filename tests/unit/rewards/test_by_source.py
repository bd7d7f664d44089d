"""Verifiers of single sources: found by label, sent to the workers as one."""

import pytest

from tests.fakes import make_prompt, one_turn
from v05ray.errors import ConfigError
from v05ray.job.config_files import make_config
from v05ray.job.preflight import outside_code
from v05ray.rewards.by_source import source_verifiers, with_source_verifiers
from v05ray.rewards.combined import build_judge
from v05ray.rewards.pool import VerifierPool
from v05ray.rewards.worker import single


def config(train, held_out=None, verifier="last_integer"):
    data = {"train": train, "eval": held_out}
    return make_config({"model": {"path": "m"}, "data": data, "rewards": {"verifier": verifier}})


def source(**more):
    return {"name": "jsonl", "path": "x", **more}


def test_each_source_is_judged_by_its_own_verifier():
    rewards = with_source_verifiers(
        config([source(label="sums"), source(label="words", verifier={"name": "exact", "ignore_case": True})])
    )
    verify = build_judge(rewards.verifier.model_dump(mode="json"), single)
    sums, words = make_prompt("s", answer="4", source="sums"), make_prompt("w", answer="Oui", source="words")
    assert verify(sums, "it is 4", "stop")["verdict"] == "correct"
    assert verify(words, "it is Oui", "stop")["verdict"] == "wrong"
    assert verify(words, " oui ", "stop")["verdict"] == "correct"


def test_without_verifiers_of_sources_nothing_changes():
    plain = config([source(label="a"), source(label="b")])
    assert with_source_verifiers(plain) == plain.rewards


def test_a_verifier_needs_a_label_and_one_label_has_one_verifier():
    with pytest.raises(ConfigError, match=r"data\.train: source 1 \(jsonl\) has a verifier and no `label`"):
        source_verifiers(config(source(verifier="exact")))
    with pytest.raises(ConfigError, match="source 'a' has verifier 'last_integer' here and 'exact' elsewhere"):
        source_verifiers(config(source(label="a", verifier="exact"), source(label="a")))
    same = config(source(label="a", verifier="exact"), source(label="a", verifier="exact"))
    assert {name: spec.name for name, spec in source_verifiers(same).items()} == {"": "last_integer", "a": "exact"}


def test_code_of_ones_own_is_named_by_its_source():
    mine = config([source(label="a", verifier={"name": "python", "path": "my.module:judge"})])
    assert outside_code(mine) == ["the verifier of source 'a' runs my.module:judge"]


async def test_the_verifiers_processes_judge_each_source_by_its_own():
    pool = VerifierPool(with_source_verifiers(config([source(label="sums"), source(label="words", verifier="exact")])))
    try:
        verdicts = []
        for name, text in (("sums", "it is 4"), ("words", "it is 4"), ("words", "4")):
            rollout = one_turn("p", 0, text, (), (), "stop", 0, "g0", 0.0)
            verdicts.append((await pool.score(make_prompt("p", answer="4", source=name), rollout)).verdict)
    finally:
        pool.close()
    assert verdicts == ["correct", "wrong", "correct"]
