"""What each verifier calls right, wrong and unanswerable; in this process, for these are harmless."""

import pytest

from v05ray.config import DataConfig
from v05ray.data import load_prompts
from v05ray.errors import ConfigError
from v05ray.rewards.verifiers import check_verifier, verifiers
from v05ray.rewards.worker import judge
from v05ray.types import Prompt


def prompt(answer: str, **metadata: object) -> Prompt:
    return Prompt("p1", "a question", (), answer, "src", metadata)


def verdict(name: str, answer: str, response: str, **options: object):
    reply = judge(verifiers.build(name, options), prompt(answer), response)
    return reply["verdict"], reply["reward"]


RIGHT, WRONG = ("correct", 1.0), ("wrong", -1.0)


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [("Yes", " Yes\n", RIGHT), ("Yes", "yes", WRONG), ("Yes", "Yes.", WRONG), ("", "", RIGHT)],
)
def test_exact(answer, response, expected):
    assert verdict("exact", answer, response) == expected


def test_exact_may_ignore_case():
    assert verdict("exact", "Yes", "yEs", ignore_case=True) == RIGHT


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [
        ("12", "7 + 5 = 12", RIGHT),
        ("12", "12 is 7 + 5", WRONG),
        ("-3", "2-5 is -3.", RIGHT),
        ("3", "2-5 is -3.", WRONG),
        ("12", "12.0", RIGHT),
        ("12", "12.5", WRONG),
        ("1200", "1,200", RIGHT),
        ("12", "", WRONG),
        ("one", "1", ("unreadable", -1.0)),
    ],
)
def test_last_integer(answer, response, expected):
    assert verdict("last_integer", answer, response) == expected


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [
        (r"\frac{1}{2}", "The answer is $0.5$.", RIGHT),
        (r"\frac{1}{2}", r"\boxed{\frac12}", RIGHT),
        (r"\frac{1}{2}", "so 2", WRONG),
        (r"$\frac{1}{2}$", r"\boxed{1/2}", RIGHT),
        ("42", "6 * 7 = 42", RIGHT),
        (r"x^2+1", "$1+x^2$", RIGHT),
        (r"\{1,2\}", r"$\{2,1\}$", RIGHT),
        ("42", "", WRONG),
        ("42", r"\boxed{((((", WRONG),
        ("", "42", ("unreadable", -1.0)),
    ],
)
def test_math(answer, response, expected):
    assert verdict("math", answer, response) == expected


def test_math_that_takes_for_ever_is_a_timeout():
    assert verdict("math", "5", r"\boxed{(100!)!}", timeout_s=1) == ("timeout", -1.0)


class Characters:
    """One token a character."""

    chat_template = None

    def __call__(self, texts, *, add_special_tokens):
        return {"input_ids": [[ord(c) for c in text] for text in texts]}


def gym_prompt(task: str) -> Prompt:
    spec = {"name": "reasoning_gym", "task": task, "size": 1, "seed": 1}
    config = DataConfig.model_validate({"train": spec, "chat_template": False})
    return load_prompts(config.train, config, Characters(), max_prompt_tokens=5000, seed=0)[0]


@pytest.mark.parametrize(
    ("options", "template", "expected"),
    [
        ({}, "{}", RIGHT),
        ({}, "Let me see: 1. <answer> {} </answer> That is it.", RIGHT),
        ({"extract": "whole"}, "{}", RIGHT),
        ({"extract": "last_number"}, "It is {}.", RIGHT),
        ({}, "about 3", WRONG),
    ],
)
def test_reasoning_gym_scores_its_own_answer(options, template, expected):
    question = gym_prompt("chain_sum")
    reply = judge(verifiers.build("reasoning_gym", options), question, template.format(question.answer))
    assert (reply["verdict"], reply["reward"]) == expected


def test_reasoning_gym_gives_partial_credit_on_our_scale():
    question = gym_prompt("chain_sum")
    # Its scorer gives len(answer) / len(response) to a response that holds the answer without being it.
    reply = judge(verifiers.build("reasoning_gym", {}), question, f"{question.answer} {'x' * len(question.answer)}")
    assert reply["verdict"] == "partial"
    assert -1 < reply["reward"] < 1


@pytest.mark.parametrize("task", ["gcd", "basic_arithmetic", "gsm_symbolic", "letter_counting", "countdown"])
def test_tasks_accept_their_own_answers_after_json(task):
    question = gym_prompt(task)
    reply = judge(verifiers.build("reasoning_gym", {}), question, f"<answer>{question.answer}</answer>")
    assert (reply["verdict"], reply["reward"]) == RIGHT


def test_reasoning_gym_needs_its_own_prompts():
    reply = judge(verifiers.build("reasoning_gym", {}), prompt("5"), "5")
    assert reply["verdict"] == "error"
    assert "no reasoning_gym task in its metadata" in reply["message"]


HERE = "tests.unit.rewards.hostile"


@pytest.mark.parametrize("name", ["Strict", "with_option"])
def test_python_functions_and_classes_take_options(name):
    options = {"path": f"{HERE}:{name}", "options": {"word": "please"}}
    assert verdict("python", "", "please", **options) == RIGHT
    assert verdict("python", "", "now", **options) == WRONG


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("returns 0.25", ("partial", 0.25)),
        ("returns 1", RIGHT),
        ("returns -1.0", WRONG),
        ("returns True", RIGHT),
        ("numpy_values true", RIGHT),
        ("numpy_values half", ("partial", 0.5)),
        ("returns 1.01", ("error", -1.0)),
        ("returns -2", ("error", -1.0)),
        ("returns float('nan')", ("error", -1.0)),
        ("returns None", ("error", -1.0)),
        ("returns 'yes'", ("error", -1.0)),
        ("raises value", ("error", -1.0)),
        ("raises deep", ("error", -1.0)),
        ("raises time", ("timeout", -1.0)),
    ],
)
def test_whatever_python_returns_or_raises_becomes_a_verdict(response, expected):
    assert verdict("python", "", response, path=f"{HERE}:judge") == expected


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("maths", {}, "unknown verifier 'maths'; did you mean 'math'?"),
        ("exact", {"ignorecase": True}, "no option 'ignorecase'; did you mean 'ignore_case'?"),
        ("python", {}, "'python' needs path"),
        ("python", {"path": "module"}, "path must be 'package.module:name', got 'module'"),
        ("python", {"path": "gone.away:f"}, "No module named 'gone'"),
        ("python", {"path": f"{HERE}:gone"}, "has no attribute 'gone'"),
        ("python", {"path": f"{HERE}:not_callable"}, "is a int, not a function or class"),
        ("python", {"path": f"{HERE}:Strict"}, "Strict' needs word"),
        ("reasoning_gym", {"extract": "hole"}, "did you mean 'whole'?"),
        ("math", {"timeout_s": 0}, "at least 1, got 0"),
    ],
)
def test_verifiers_that_cannot_be_built_say_why(name, options, message):
    with pytest.raises(ConfigError) as error:
        verifiers.build(name, options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("maths", {}, "did you mean 'math'?"),
        ("exact", {"ignorecase": True}, "did you mean 'ignore_case'?"),
        ("python", {}, "needs path"),
    ],
)
def test_names_and_options_are_checked_without_building(name, options, message):
    with pytest.raises(ConfigError) as error:
        check_verifier(name, options)
    assert message in str(error.value)
    check_verifier("python", {"path": "not.imported:here"})
