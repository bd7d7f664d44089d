"""Reward functions of other trainers give the same verdicts here, or are refused with the forms that there are."""

import pytest

from v05ray.config import RewardsConfig
from v05ray.errors import ConfigError
from v05ray.rewards.pool import try_verifier
from v05ray.rewards.verifiers import verifiers
from v05ray.rewards.worker import judge
from v05ray.types import Prompt

HERE = "tests.unit.rewards.borrowed"
PROMPT = Prompt("p1", "12 + 22?", (), "34", "src", {"index": 7})
RIGHT, WRONG = ("correct", 1.0), ("wrong", -1.0)


def build(name: str, **options: object):
    return verifiers.build("python", {"path": f"{HERE}:{name}", **options})


def verdict(name: str, response: str, prompt: Prompt = PROMPT, **options: object):
    reply = judge(build(name, **options), prompt, response)
    return reply["verdict"], reply["reward"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("trl", {"scale": "zero_one"}),
        ("trl_async", {"scale": "signed"}),
        ("trl_messages", {"scale": "zero_one", "completions": "messages"}),
        ("verl", {"scale": "zero_one"}),
        ("verl_mapping", {"scale": "signed"}),
        ("slime", {"scale": "zero_one"}),
        ("slime_args", {"scale": "zero_one", "options": {"bonus": 1.0}}),
        ("Scorer", {"scale": "zero_one"}),
        ("Scorer", {"scale": "zero_one", "options": {"right": True}}),
        ("ours_zero_one", {"scale": "zero_one"}),
        ("ours_async", {}),
        ("big", {"scale": "as_is"}),
    ],
)
def test_each_form_says_what_is_right_and_what_is_wrong(name, options):
    assert verdict(name, "it is 34", **options) == RIGHT
    assert verdict(name, "it is 35", **options) == WRONG


def test_columns_and_extra_info_are_the_metadata():
    hard = Prompt("p1", "q", (), "34", "src", {"difficulty": 5, "index": 7})
    assert verdict("trl_columns", "34", hard, scale="zero_one") == ("partial", 0.0)
    assert verdict("verl_extra", "34", scale="zero_one") == RIGHT


def test_what_a_mapping_says_was_read_is_kept():
    assert judge(build("verl_mapping", scale="signed"), PROMPT, "it is 34")["extracted"] == "34"


@pytest.mark.parametrize("name", ["trl", "trl_async", "verl", "verl_mapping", "slime", "Scorer"])
def test_a_scale_that_cannot_be_known_is_asked_for(name):
    with pytest.raises(ConfigError, match=r"set scale: zero_one \(0 is wrong and 1 right\), signed"):
        build(name)


@pytest.mark.parametrize("name", ["unknown", "one"])
def test_another_signature_is_refused_with_the_forms(name):
    with pytest.raises(ConfigError) as error:
        build(name)
    for form in ("f(prompt, response)", "f(prompts, completions, **columns)", "solution_str", "f(args, sample)"):
        assert form in str(error.value)


def test_words_are_checked():
    with pytest.raises(ConfigError, match="did you mean 'zero_one'"):
        build("verl", scale="zeroone")
    with pytest.raises(ConfigError, match="did you mean 'messages'"):
        build("trl", scale="signed", completions="message")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("verl_mapping", {"scale": "zero_one"}, "lies in [0, 1], got -1.0"),
        ("big", {"scale": "signed"}, "lies in [-1, 1]"),
        ("trl_none", {"scale": "signed"}, "returned None"),
        ("trl_bare_number", {"scale": "signed"}, "a list of one number"),
        ("verl_without_score", {"scale": "signed"}, "needs `score`, got keys acc"),
    ],
)
def test_what_does_not_fit_is_an_error_and_no_reward(name, options, message):
    reply = judge(build(name, **options), PROMPT, "35")
    assert reply["verdict"] == "error"
    assert message in reply["message"]


def test_what_cannot_be_called_is_known_before_a_run_starts():
    try_verifier(RewardsConfig.model_validate({"verifier": {"name": "python", "path": f"{HERE}:ours_async"}}))
    with pytest.raises(ConfigError, match="set scale"):
        try_verifier(RewardsConfig.model_validate({"verifier": {"name": "python", "path": f"{HERE}:verl"}}))
