import json
from pathlib import Path

import pytest

from tests.fakes import make_prompt, one_turn
from v05ray.errors import ConfigError
from v05ray.ledger import LedgerWriter
from v05ray.types import Decision, Draw, RolloutGroup, ScoredRollout, Stop
from v05ray.value.records import (
    Policy,
    ValueRecord,
    held_out_texts,
    merge_duplicates,
    read_any,
    read_jsonl,
    read_ledger,
    read_prompts,
)

PROMPTS = {"math_1": "one?", "math_2": "two?", "math_3": " "}
ROW = {"id": 1, "score": 0.5, "model": "m", "step": 3, "dataset": "math"}


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_rows_of_v0s_format(tmp_path: Path):
    path = write_rows(tmp_path / "d.jsonl", ROW, "", {**ROW, "id": 2, "score": -1, "type": "context"})
    assert read_jsonl(path, PROMPTS) == [
        ValueRecord("one?", 0.5, Policy("math", "m", 3)),
        ValueRecord("two?", -1.0, Policy("math", "m", 3)),
    ]
    assert read_jsonl(path, PROMPTS)[0].rate == 0.75


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object, got list"),
        ({"id": 1}, "no score, model, step, dataset"),
        ({**ROW, "id": 9}, "dictionary has no 'math_9'"),
        ({**ROW, "score": 1.5}, r"score 1\.5 of 'math_1' is not a number in \[-1, 1\]"),
        ({**ROW, "score": "NaN"}, "score 'NaN'"),
        ({**ROW, "score": True}, "score True"),
        ('{"id": 1, "score": NaN, "model": "m", "step": 3, "dataset": "math"}', "score nan"),
        ({**ROW, "step": "3"}, "step '3' of 'math_1' is not a whole number"),
        ({**ROW, "id": 3}, "prompt of 'math_3' is empty"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_file_line_and_reason(tmp_path: Path, row: object, message: str):
    path = write_rows(tmp_path / "d.jsonl", ROW, row)
    with pytest.raises(ConfigError, match=rf"d\.jsonl, line 2: .*{message}"):
        read_jsonl(path, PROMPTS)


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none\.jsonl cannot be read"):
        read_jsonl(tmp_path / "none.jsonl", PROMPTS)
    with pytest.raises(ConfigError, match="has no rows"):
        read_jsonl(write_rows(tmp_path / "empty.jsonl", ""), PROMPTS)
    with pytest.raises(ConfigError, match="must map"):
        read_prompts(write_rows(tmp_path / "p.json", "[1, 2]"))
    with pytest.raises(ConfigError, match="neither a JSONL file nor a folder"):
        read_any([tmp_path / "nothing"], PROMPTS)
    with pytest.raises(ConfigError, match="give --prompts FILE"):
        read_any([write_rows(tmp_path / "d.jsonl", ROW)], None)


def test_duplicates_of_one_policy_are_averaged_and_other_policies_kept():
    one, other = Policy("d", "m", 1), Policy("d", "m", 2)
    records = [ValueRecord("a", 1.0, one), ValueRecord("a", 0.0, other), ValueRecord("a", 0.0, one)]
    assert merge_duplicates(records) == [ValueRecord("a", 0.5, one), ValueRecord("a", 0.0, other)]


def test_texts_are_held_out_by_seed():
    texts = [f"t{i}" for i in range(50)]
    held = held_out_texts(texts, 0.2, 0)
    assert len(held) == 10
    assert held == held_out_texts(texts[::-1], 0.2, 0) != held_out_texts(texts, 0.2, 1)
    with pytest.raises(ConfigError, match="2 prompts are too few"):
        held_out_texts(["a", "b"], 0.1, 0)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        held_out_texts(texts, 1.0, 0)


def group(prompt_id: str, rewards: list[float], cold_start: int) -> RolloutGroup:
    scored = tuple(
        ScoredRollout(one_turn(prompt_id, i, "", (1,), (-0.1,), "stop", 0, "g", 0.1), reward, "correct")
        for i, reward in enumerate(rewards)
    )
    decisions = [Decision(Draw(prompt_id, cold_start), 0, None, None, None, None, 1)]
    if len(rewards) > cold_start:
        decisions.append(Decision(Draw(prompt_id, len(rewards) - cold_start), cold_start, 0.0, 0.0, 0.0, None, 1))
    stop = Stop(prompt_id, "accepted")
    decisions.append(Decision(stop, len(rewards), 0.0, 0.0, 0.0, None, 1))
    return RolloutGroup(make_prompt(prompt_id), None, scored, stop, tuple(decisions))


def make_run(folder: Path, steps: dict[int, list[RolloutGroup]]) -> Path:
    writer = LedgerWriter(folder / "ledger")
    for step, groups in steps.items():
        writer.append_step(step, groups, {}, {})
    return folder


def test_a_ledger_gives_cold_start_means_alone(tmp_path: Path):
    run = make_run(tmp_path / "run-a", {1: [group("p", [1, 1, -1, 1, -1, -1, -1, -1], 4), group("q", [-1, -1], 4)]})
    text_p, text_q = make_prompt("p").text, make_prompt("q").text
    policy = Policy("ledger", "run-a", 1)
    assert read_ledger(run) == [ValueRecord(text_p, 0.5, policy), ValueRecord(text_q, -1.0, policy)]
    assert read_ledger(run / "ledger") == read_ledger(run)
    assert read_any([run], None) == read_ledger(run)


def test_steps_of_a_ledger_are_pooled_into_windows_and_a_small_rest_joins_the_last(tmp_path: Path):
    steps = {step: [group(f"p{step}-{i}", [1.0], 1) for i in range(3)] for step in range(1, 6)}
    records = read_ledger(make_run(tmp_path / "r", steps), window_pairs=6)
    assert [record.policy.step for record in records] == [2] * 6 + [5] * 9


def test_a_prompt_that_comes_again_counts_with_its_last_score(tmp_path: Path):
    run = make_run(tmp_path / "r", {1: [group("p", [1.0], 1)], 2: [group("p", [-1.0], 1)]})
    (record,) = read_ledger(run)
    assert record.score == -1.0


def test_a_folder_without_a_ledger_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="holds no ledger"):
        read_ledger(tmp_path)
