import json
from pathlib import Path

import pytest

from v05ray.errors import ConfigError
from v05ray.value.questions import read_context, read_questions


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_three_formats_of_prompts(tmp_path: Path):
    assert read_questions(write(tmp_path / "p.json", '{"a": "x?"}')) == {"a": "x?"}
    assert read_questions(write(tmp_path / "p.jsonl", '{"id": 7, "text": "x?"}\n\n{"text": "y?"}')) == {
        "7": "x?",
        "3": "y?",
    }
    assert read_questions(write(tmp_path / "p.txt", "x?\n\n  y? \n")) == {"1": "x?", "3": "y?"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "", "has no prompts"),
        ("p.json", '{"a": " "}', "prompt 'a' is empty"),
        ("p.jsonl", '{"id": 1}', "line 1: a row is"),
        ("p.jsonl", '{"text": "x", "id": 1}\n{"text": "y", "id": "1"}', "line 2: the id '1' comes twice"),
        ("p.jsonl", "[]", "line 1: expected an object"),
    ],
)
def test_prompts_that_cannot_be_used_are_named(tmp_path: Path, name: str, content: str, message: str):
    with pytest.raises(ConfigError, match=message):
        read_questions(write(tmp_path / name, content))


def test_plain_pairs(tmp_path: Path):
    path = write(tmp_path / "c.jsonl", '{"text": "x?", "score": 1}\n{"text": "y?", "score": -0.5}')
    assert [(pair.text, pair.score) for pair in read_context(path, {}, None)] == [("x?", 1.0), ("y?", -0.5)]
    with pytest.raises(ConfigError, match="line 1: score 2 is not a number"):
        read_context(write(tmp_path / "d.jsonl", '{"text": "x?", "score": 2}'), {}, None)
    with pytest.raises(ConfigError, match="line 2: no text"):
        read_context(write(tmp_path / "e.jsonl", '{"text": "x?", "score": 1}\n{"score": 1}'), {}, None)


def test_v0s_rows_of_one_policy(tmp_path: Path):
    rows = [{"id": i, "score": i / 2, "model": "m", "step": step, "dataset": "d"} for i in (0, 1) for step in (3, 4)]
    path = write(tmp_path / "c.jsonl", "\n".join(map(json.dumps, rows)))
    questions = {"d_0": "x?", "d_1": "y?"}
    assert [(p.text, p.score) for p in read_context(path, questions, "d/m@4")] == [("x?", 0.0), ("y?", 0.5)]
    with pytest.raises(ConfigError, match=r"2 policies; choose one with --policy: d/m@3, d/m@4"):
        read_context(path, questions, None)
    with pytest.raises(ConfigError, match=r"no policy 'd/m@5'; did you mean"):
        read_context(path, questions, "d/m@5")
