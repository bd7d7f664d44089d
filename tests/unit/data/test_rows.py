"""Records people have, and those they have by mistake."""

import json
from datetime import date
from decimal import Decimal

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


def test_gsm8k_answers_are_after_a_mark():
    assert read({"question": "q", "answer": "3 + 4 = 7\n#### 7"}, answer_after="####").answer == "7"


def test_fields_may_be_dotted_paths_and_whole_names_come_first():
    record = {"a": {"b": "nested"}, "a.b": "whole", "c": {"d": "2"}, "extra_info": {"index": 3}}
    row = read(record, question="a.b", answer="c.d", row_id="extra_info.index")
    assert (row.question, row.answer, row.row_id) == ("whole", "2", "3")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (42, "42"),
        (0, "0"),
        (0.5, "0.5"),
        (["a", "b"], '["a", "b"]'),
        ([3, 4], '["3", "4"]'),
        (True, "true"),
        (Decimal("2.50"), "2.50"),
        ([{"in": 1}], '[{"in": 1}]'),
        ([[1, 2]], "[[1, 2]]"),
        (["é"], '["é"]'),
    ],
)
def test_answers_that_are_no_text_become_json(answer, text):
    assert read({"question": "q", "answer": answer}).answer == text


def test_an_answer_may_be_left_out_if_it_is_not_needed():
    assert read({"question": "q"}, require_answer=False).answer == ""


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ([1], "list, not a mapping"),
        ({}, "no question: looked for question, problem, prompt, input, instruction, query, messages"),
        ({}, "fields of the row: none"),
        ({"ask": "q"}, "fields of the row: ask"),
        ({"question": "q"}, "no answer: looked for answer, reward_model.ground_truth"),
        ({"question": "  ", "answer": "2"}, "the question is empty"),
        ({"question": 5, "answer": "2"}, "neither text nor a list of messages but 5"),
        ({"question": "q", "answer": " "}, "the answer is empty"),
        ({"prompt": [], "answer": "2"}, "neither text nor a list"),
        ({"prompt": ["hi"], "answer": "2"}, "a message needs a role"),
        ({"prompt": [{"role": "robot", "content": "x"}], "answer": "2"}, "a message needs a role"),
        ({"prompt": [{"role": "user", "content": None}], "answer": "2"}, "a message needs a role"),
        ({"prompt": [{"role": "assistant", "content": "x"}], "answer": "2"}, "the assistant's, not the user's"),
        ({"question": "q", "answer": float("nan")}, "the answer is empty: field 'answer' is nan"),
        ({"question": "q", "answer": None}, "the answer is empty: field 'answer' is None"),
        ({"question": "q", "answer": None, "solution": "It is 2."}, "field 'answer' is None; drop the row"),
        ({"question": "q", "answer": float("inf")}, "the answer is inf, which is no answer"),
        ({"question": "q", "answer": float("-inf")}, "the answer is -inf"),
        ({"question": "q", "answer": ["3", None]}, "the answer is None"),
        ({"question": "q", "answer": [1.5, float("nan")]}, "the answer is nan"),
        ({"question": "q", "answer": []}, "the answer is empty"),
        ({"question": "q", "answer": {"tests": [float("inf")]}}, "the answer holds NaN or infinity"),
        ({"question": "q \ud83d", "answer": "2"}, r"the question holds a lone surrogate '\ud83d'"),
        ({"question": "q", "answer": "2 \ud83d"}, r"the answer holds a lone surrogate '\ud83d'"),
        ({"question": "q", "answer": ["2", "\ud83d"]}, "the answer holds a lone surrogate"),
        ({"question": "q", "answer": "2", "data_source": "\udc00"}, "the data_source holds a lone surrogate"),
        (
            {"prompt": [{"role": "system", "content": "\ud83d"}, {"role": "user", "content": "q"}], "answer": "2"},
            "lone",
        ),
    ],
)
def test_refusals_give_the_reason(record, expected):
    assert expected in reason(record)


def test_options_that_do_not_fit_the_row_give_the_reason():
    assert "no '####'" in reason({"question": "q", "answer": "7"}, answer_after="####")
    assert "the answer is empty" in reason({"question": "q", "answer": "7 ####"}, answer_after="####")
    assert "no id in field 'id'" in reason({"question": "q", "answer": "7"}, row_id="id")
    assert "looked for query" in reason({"question": "q", "answer": "7"}, question="query")


LONG = (
    "We begin with the sum of all terms, and after a page of algebra in which nothing is left out we come to the end."
)
WORKED = [LONG + " " + LONG]
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]


@pytest.mark.parametrize(
    ("record", "answer"),
    [
        ({"input": "1+1?", "label": "2"}, "2"),  # OpenRLHF
        ({"prompt": "1+1?", "label": "2"}, "2"),
        ({"prompt": MESSAGES, "label": "2", "metadata": {"level": 1}}, "2"),  # slime
        ({"input": "1+1?", "output": "2"}, "2"),  # NeMo
        ({"problem": "1+1?", "expected_answer": 2, "generated_solution": LONG}, "2"),
        ({"data_source": "a", "prompt": MESSAGES, "env_class": "aime", "reward_model": {"ground_truth": "2"}}, "2"),
        ({"prompt": MESSAGES, "env_class": "gsm8k", "reward_spec": {"ground_truth": "2", "method": "rule"}}, "2"),
        ({"messages": MESSAGES, "answer": "2"}, "2"),  # AReaL
        ({"messages": MESSAGES, "answer": "so 1 + 1 = 2\n#### 2"}, "2"),
        ({"prompt": MESSAGES, "solution": "2"}, "2"),  # TRL
        ({"prompt": "1+1?", "answer": "2", "solution": LONG}, "2"),
        ({"problem": "1+1?", "solution": LONG, "answer": "2", "messages": [*MESSAGES, MESSAGES[0]]}, "2"),  # open-r1
        ({"problem": "1+1?", "solution": "So $\\boxed{2}$.", "type": "x", "idx": 3}, "So $\\boxed{2}$."),  # Minerva
        ({"ID": "2024-I-1", "Problem": "1+1?", "Solution": LONG, "Answer": 2}, "2"),  # AIME
        ({"id": 60, "problem": "1+1?", "solution": LONG, "answer": "2", "url": "u", "year": "2024"}, "2"),
        ({"prompt": "1+1?", "solution": "2", "source_prompt": MESSAGES, "reward_model": {"ground_truth": "2"}}, "2"),
        ({"question": "1+1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}, "2"),  # GSM8K
        ({"question": "1+1?", "answer": "x\n#### 1,234\n"}, "1,234"),
        ({"question": "1+1?", "answer": 27.0, "id": 0, "url": "u"}, "27.0"),  # AMC
        ({"question": "1+1?", "answer": "2", "ground_truth": 2, "final_answer": ["2"]}, "2"),  # all the same
        ({"question": "1+1?", "answer": "x\n#### 2", "ground_truth": "2"}, "2"),
        ({"instruction": "1+1?", "input": "", "output": "2"}, "2"),  # Alpaca
        ({"conversations": [{"from": "human", "value": "1+1?"}], "answer": "2"}, "2"),
        ({"question": "x", "prompt": MESSAGES, "reward_model": '{"ground_truth": "2"}'}, "2"),  # stored as JSON text
        ({"prompt": json.dumps(MESSAGES), "answer": "2"}, "2"),
        ({"prompt": ' [{"role": "user", "content": "1+1?"}]', "answer": "2"}, "2"),
        ({"question": "1+1?", "answer": None, "ground_truth": "2"}, "2"),  # a column that other rows have
        ({"question": "1+1?", "answer": float("nan"), "ground_truth": "2"}, "2"),
    ],
)
def test_rows_of_other_projects_need_no_options(record, answer):
    row = read(record)
    assert (row.question, row.answer) == ("1+1?", answer)


OLYMPIAD = {
    "id": 1606,
    "question": "1+1?",
    "solution": WORKED,
    "final_answer": ["$2$"],
    "context": None,
    "is_multiple_answer": False,
    "unit": None,
    "answer_type": "Numerical",
    "error": None,
}


@pytest.mark.parametrize(
    ("changes", "answer", "metadata"),
    [
        ({}, "$2$", {}),
        ({"final_answer": ["3", "4"]}, '["3", "4"]', {}),
        ({"final_answer": [3, 4]}, '["3", "4"]', {}),
        ({"final_answer": "5", "error": "1e-1"}, "5", {"tolerance": 0.1}),
        ({"error": "0.1,.05"}, "$2$", {"tolerance": 0.05}),
        ({"error": 0.5}, "$2$", {"tolerance": 0.5}),
        ({"error": "about"}, "$2$", {}),
        ({"error": "0"}, "$2$", {}),
        ({"error": "nan"}, "$2$", {}),
    ],
)
def test_olympiad_rows_give_the_final_answer_and_its_tolerance(changes, answer, metadata):
    row = read(OLYMPIAD | changes)
    assert (row.question, row.answer, row.metadata) == ("1+1?", answer, metadata)


def test_the_context_of_an_olympiad_question_is_before_it():
    assert read(OLYMPIAD | {"context": "Let x = 1.\n"}).question == "Let x = 1.\n1+1?"


def test_worked_solutions_are_no_answer():
    record = {"question": "q", "solution": WORKED}
    assert "field 'solution' is a list of worked solutions, not an answer" in reason(record)
    assert "the answer is empty: field 'final_answer' is None" in reason(OLYMPIAD | {"final_answer": None})
    assert reason(OLYMPIAD | {"final_answer": []}) == "the answer is empty"
    assert read({"question": "q", "solution": ["2"]}).answer == '["2"]'


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"question": "a", "problem": "b", "answer": "2"}, "may be the question (question: 'a', problem: 'b')"),
        ({"instruction": "a", "input": "b", "output": "2"}, "(input: 'b', instruction: 'a'); name the right one with"),
        ({"question": "q", "answer": "2", "label": 1}, "the answer (answer: '2', label: 1); name the right one"),
        ({"question": "q", "answer": "2", "reward_model": {"ground_truth": "3"}}, "reward_model.ground_truth: '3'"),
        ({"question": "q", "solution": "2", "output": "3"}, "(solution: '2', output: '3'); name the right one with"),
        ({"question": "q", "answer": ["1", "2"], "final_answer": ["2", "1"]}, "several fields may be the answer"),
    ],
)
def test_fields_that_differ_are_refused_with_the_candidates(record, expected):
    assert expected in reason(record)


def test_an_option_chooses_among_fields_that_differ():
    record = {"question": "a", "problem": "b", "answer": "2", "label": 1, "solution": "x"}
    row = read(record, question="problem", answer="label")
    assert (row.question, row.answer) == ("b", "1")


def parts(*content):
    return {"prompt": [{"role": "user", "content": list(content)}], "answer": "2"}


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "1+1?"}],
        [{"type": "text", "text": "1+"}, {"type": "text", "text": "1?", "image": None}],
        ["1+1", {"text": "?"}],
        [{"type": "input_text", "text": "1+1?"}],
    ],
)
def test_text_parts_of_a_message_are_joined(content):
    assert read(parts(*content)).question == "1+1?"


@pytest.mark.parametrize(
    "part",
    [{"type": "image_url", "image_url": {"url": "u"}}, {"type": "image"}, {"type": "text", "text": None}, 3, None],
)
def test_parts_that_are_no_text_are_refused(part):
    assert "a part of a message is no text but" in reason(parts({"type": "text", "text": "What is this?"}, part))


@pytest.mark.parametrize("question", ["[1, 2, 3]", "[x] is", '["a"]', '[{"x": 1', "{1, 2}"])
def test_questions_that_only_look_like_json_stay_text(question):
    assert read({"prompt": question, "answer": "2"}).question == question


def test_metadata_are_json_values_whatever_the_row_holds():
    record = {"question": "q", "answer": "2", "metadata": '{"a": 1}', "extra_info": {"b": float("nan"), "c": "\ud83d"}}
    assert read(record).metadata == {"a": 1, "b": None, "c": "?"}


@pytest.mark.parametrize(
    ("record", "question", "answer"),
    [
        ({"context_messages": [{"role": "user", "content": "q"}], "label": "7"}, "q", "7"),
        ({"prompt": "q", "solutions": ["\\boxed{7}"]}, "q", '["\\\\boxed{7}"]'),
        ({"responses_create_params": {"input": [{"role": "user", "content": "q"}]}, "expected_answer": "7"}, "q", "7"),
        ({"question": "b", "responses_create_params": {"input": "q"}, "expected_answer": "7"}, "q", "7"),
        ({"prompt": "q", "verification_info": '{"ground_truth": "7"}'}, "q", "7"),
        ({"conversations": [{"from": "User", "value": "q"}], "label": "7"}, "q", "7"),
        ({"prompt": [{"role": "USER", "content": "q"}], "answer": "7"}, "q", "7"),
        ({"prompt": {"role": ["system", "user"], "content": ["s", "q"]}, "answer": "7"}, "q", "7"),
        ({"prompt": "[{'role': 'user', 'content': 'q'}]", "answer": "7"}, "q", "7"),
        ({"prompt": '{"role": "user", "content": "q"}', "answer": "7"}, "q", "7"),
        ({"question": b"q", "answer": b"7"}, "q", "7"),
        ({"question": "q", "answer": date(2025, 11, 25)}, "q", "2025-11-25"),
        ({"question": "q", "answer": 7, "label": 7.0}, "q", "7"),
        ({"question": "q: (A) x (B) y", "choices": ["x", "y"], "answer": "B"}, "q: (A) x (B) y", "B"),
        ({"question": "q", "choices": ["x", "y"], "answer": "7.5"}, "q", "7.5"),
    ],
)
def test_other_forms_of_the_same_row_are_read(record, question, answer):
    row = read(record)
    assert (row.question, row.answer) == (question, answer)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"question": "\u200b \x00", "answer": "7"}, "the question is empty"),
        ({"question": b"\xff", "answer": "7"}, "the question is bytes that are not UTF-8"),
        ({"question": "q", "answer": b"\xff"}, "the answer is bytes that are not UTF-8"),
        ({"prompt": '[{"role": "user", "content": "q"', "answer": "7"}, "messages as text that cannot be read back"),
        ({"prompt": "array([{'role': 'user'}], dtype=object)", "answer": "7"}, "as text that cannot be read back"),
        ({"prompt": "q", "images": ["x.png"], "answer": "7"}, "what is no text (field 'images')"),
        ({"question": "Look at <image_1>.", "answer": "7"}, "what is no text (<image_1>)"),
        ({"question": "q", "choices": ["x", "y"], "answer": 1}, "chooses from field 'choices'"),
        ({"question": "q", "options": {"A": "x", "B": "y"}, "answer": "(B)"}, "chooses from field 'options'"),
        ({"question": "q", "answer": "7", "metadata": json.loads('{"a":' * 700 + "1" + "}" * 700)}, "nested too deep"),
    ],
)
def test_rows_of_which_something_would_be_lost_are_refused(record, expected):
    assert expected in reason(record)


def test_a_reason_can_be_printed_whatever_the_row_holds():
    assert reason({"\ud83d": 1}).encode()


def test_choices_are_left_out_where_the_row_is_meant_so():
    record = {"question": "q", "choices": ["x", "y"], "answer": 1}
    assert read(record, question="question").answer == "1"


def test_what_is_beside_the_tests_of_a_code_task_is_kept():
    record = {
        "prompt": "add",
        "test_list": ["assert add(1, 2) == 3"],
        "test_setup_code": "import math",
        "fn_name": None,
    }
    found = read(record | {"test_imports": ["import re"], "entry_point": "add"}, answer="test_list")
    assert found.answer == '["assert add(1, 2) == 3"]'
    assert found.metadata == {"test_setup_code": "import math", "test_imports": ["import re"], "entry_point": "add"}
    assert read({"question": "q", "answer": "2", "metadata": {"fn_name": "f"}, "fn_name": "g"}).metadata == {
        "fn_name": "f"
    }
