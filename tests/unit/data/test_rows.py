"""Records people have, and those they have by mistake."""

import pytest

from v05ray.data.rows import BadRow, Fields, Row, read_record

VERL = {
    "data_source": "openai/gsm8k",
    "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"index": 7, "split": "train"},
}


def read(record, **fields) -> Row:
    row = read_record(record, Fields(**fields), "f:1")
    assert isinstance(row, Row), row
    return row


def reason(record, **fields) -> str:
    row = read_record(record, Fields(**fields), "f:1")
    assert isinstance(row, BadRow), row
    assert row.where == "f:1"
    return row.reason


@pytest.mark.parametrize("field", ["question", "problem", "prompt"])
def test_plain_shapes_need_no_options(field):
    row = read({field: "1+1?", "answer": "2"})
    assert (row.question, row.answer, row.source, row.row_id) == ("1+1?", "2", "data", None)


def test_verl_shape_needs_no_options():
    row = read(VERL)
    assert row.messages == (("system", "Be brief."), ("user", "1+1?"))
    assert (row.answer, row.source, row.metadata) == ("2", "openai/gsm8k", {"index": 7, "split": "train"})


def test_gsm8k_answers_stand_after_a_mark():
    assert read({"question": "q", "answer": "3 + 4 = 7\n#### 7"}, answer_after="####").answer == "7"


def test_fields_may_be_dotted_paths_and_whole_names_come_first():
    record = {"a": {"b": "nested"}, "a.b": "whole", "c": {"d": "2"}, "extra_info": {"index": 3}}
    row = read(record, question="a.b", answer="c.d", row_id="extra_info.index")
    assert (row.question, row.answer, row.row_id) == ("whole", "2", "3")


@pytest.mark.parametrize(("answer", "text"), [(42, "42"), (0, "0"), (0.5, "0.5"), (["a", "b"], '["a", "b"]')])
def test_answers_that_are_no_text_become_json(answer, text):
    assert read({"question": "q", "answer": answer}).answer == text


def test_an_answer_may_be_left_out_if_nobody_needs_it():
    assert read({"question": "q"}, require_answer=False).answer == ""


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ([1], "list, not a mapping"),
        ({}, "no question: looked for question, problem, prompt; fields of the row: none"),
        ({"query": "q"}, "fields of the row: query"),
        ({"question": "q"}, "no answer: looked for answer, reward_model.ground_truth"),
        ({"question": "  ", "answer": "2"}, "the question is empty"),
        ({"question": 5, "answer": "2"}, "neither text nor a list of messages but 5"),
        ({"question": "q", "answer": " "}, "the answer is empty"),
        ({"prompt": [], "answer": "2"}, "neither text nor a list"),
        ({"prompt": ["hi"], "answer": "2"}, "a message needs a role"),
        ({"prompt": [{"role": "robot", "content": "x"}], "answer": "2"}, "a message needs a role"),
        ({"prompt": [{"role": "user", "content": None}], "answer": "2"}, "a message needs a role"),
        ({"prompt": [{"role": "assistant", "content": "x"}], "answer": "2"}, "the assistant's, not the user's"),
    ],
)
def test_refusals_give_the_reason(record, expected):
    assert expected in reason(record)


def test_options_that_do_not_fit_the_row_give_the_reason():
    assert "no '####'" in reason({"question": "q", "answer": "7"}, answer_after="####")
    assert "the answer is empty" in reason({"question": "q", "answer": "7 ####"}, answer_after="####")
    assert "no id in field 'id'" in reason({"question": "q", "answer": "7"}, row_id="id")
    assert "looked for query" in reason({"question": "q", "answer": "7"}, question="query")
