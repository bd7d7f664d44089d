"""One verdict of several verifiers, worked by hand: r = sum(w_i r_i) / sum(|w_i|), and the first says what is right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import make_prompt, one_turn
from v05ray.config import RewardsConfig, VerifierSpec
from v05ray.errors import ConfigError
from v05ray.ports import RewardPool
from v05ray.rewards.combined import build_judge, combined
from v05ray.rewards.pool import VerifierPool
from v05ray.rewards.worker import single
from v05ray.types import ComponentScore, FinishReason, Prompt, ScoredRollout

BORROWED, HOSTILE = "tests.unit.rewards.borrowed", "tests.unit.rewards.hostile"
PROMPT = Prompt("p", "a question", (), "34", "src", {"index": 7})


def reply(reward: float, verdict: str = "", message: str = "", extracted: str | None = None) -> dict:
    kind = verdict or ("correct" if reward == 1 else "wrong" if reward == -1 else "partial")
    return {"reward": reward, "verdict": kind, "message": message, "extracted": extracted, "retiring": False}


def judged(
    verifiers: list, response: str, finish_reason: FinishReason = "stop", prompt: Prompt = PROMPT, truncated=None
) -> dict:
    spec = VerifierSpec.model_validate(verifiers).model_dump(mode="json")
    judge = build_judge(spec, lambda name, options: single(name, options, truncated))
    return judge(prompt, response, finish_reason)


@pytest.mark.parametrize(
    ("rewards", "weights", "expected"),
    [
        ([1, 1], [1, 0.2], 1.0),  # all right: 1, whatever the weights add up to
        ([-1, -1], [1, 0.2], -1.0),
        ([1, -1], [1, 0.2], 0.8 / 1.2),
        ([-1, 1], [1, 0.2], -0.8 / 1.2),
        ([0.5, 0], [3, 1], 0.375),
        ([1, 1], [1, -0.25], 0.6),  # a negative weight punishes
        ([1, -1], [1, -0.25], 1.0),
        ([1, -1], [1, 0], 1.0),  # weight 0: reported alone
    ],
)
def test_the_reward_is_the_weighted_mean(rewards, weights, expected):
    both = combined([("a", reply(rewards[0])), ("b", reply(rewards[1]))], weights)
    assert both["reward"] == pytest.approx(expected)
    assert both["components"] == [["a", rewards[0], reply(rewards[0])["verdict"]], ["b", *components_of(rewards[1])]]


def components_of(reward: float) -> list:
    return [reward, reply(reward)["verdict"]]


@given(
    st.lists(
        st.tuples(st.floats(-1, 1), st.floats(-1e6, 1e6).filter(lambda w: w == 0 or abs(w) > 1e-6)),
        min_size=1,
        max_size=6,
    ),
    st.floats(0.001, 1e6),
)
def test_it_stays_within_the_bounds_and_weights_are_relative(scores, first_weight):
    replies = [(str(i), reply(score)) for i, (score, _) in enumerate(scores)]
    weights = [first_weight, *(weight for _, weight in scores[1:])]
    reward = combined(replies, weights)["reward"]
    assert -1 <= reward <= 1
    assert combined(replies, [2 * weight for weight in weights])["reward"] == pytest.approx(reward)


def test_the_first_says_what_is_right_and_what_was_read():
    replies = [("math", reply(1.0, extracted="34")), ("layout", reply(-1.0, extracted="none"))]
    both = combined(replies, [1, 5])
    assert (both["verdict"], both["extracted"]) == ("correct", "34")
    assert both["reward"] == pytest.approx(-4 / 6)
    turned = combined(replies[::-1], [5, 1])
    assert (turned["verdict"], turned["extracted"]) == ("wrong", "none")


@pytest.mark.parametrize("kind", ["error", "timeout", "unreadable"])
def test_the_failure_of_any_is_the_failure_of_all_and_is_named(kind):
    both = combined([("math", reply(1.0, extracted="34")), ("layout", reply(-1.0, kind, "KeyError: 'tests'"))], [1, 0])
    assert (both["reward"], both["verdict"], both["message"]) == (-1.0, kind, "layout: KeyError: 'tests'")
    assert both["extracted"] == "34"
    assert both["components"] == [["math", 1.0, "correct"], ["layout", -1.0, kind]]


def test_reward_functions_of_every_form_are_combined_each_on_its_own_scale():
    def function(name: str, **more) -> dict:
        return {"name": "python", "path": f"{BORROWED}:{name}", **more}

    verifiers = [
        {"name": "last_integer", "weight": 2},
        function("trl", scale="zero_one"),
        function("verl_mapping", scale="signed", label="verl"),
        function("slime", scale="zero_one"),
        function("big", scale="as_is", weight=0.5),
        function("ours_zero_one"),
    ]
    right = judged(verifiers, "it is 34")
    assert right["reward"] == 1.0
    assert [label for label, *_ in right["components"]] == [
        "last_integer",
        "trl",
        "verl",
        "slime",
        "big",
        "ours_zero_one",
    ]
    wrong = judged(verifiers, "it is 35")
    # `ours` means [-1, 1] by its number: 0 is halfway, not wrong.
    assert [score for _, score, _ in wrong["components"]] == [-1, -1, -1, -1, -1, 0]
    assert wrong["reward"] == pytest.approx(-5.5 / 6.5)
    assert wrong["verdict"] == "wrong"


def test_a_cut_off_response_is_judged_by_each_in_its_own_way():
    verifiers = ["math", {"name": "last_integer", "weight": 0.5}]
    cut = judged(verifiers, "I get 30 + 4 = 34", "length")
    assert [verdict for *_, verdict in cut["components"]] == ["wrong", "correct"]
    assert cut["verdict"] == "wrong"
    said = judged(verifiers, "I get 30 + 4 = 34", "length", truncated="judge")
    assert [verdict for *_, verdict in said["components"]] == ["correct", "correct"]


def test_of_several_sources_each_keeps_its_verifiers_way_with_a_cut_off_response():
    spec = {"name": "by_source", "default": {"name": "math"}, "sources": {"sums": {"name": "last_integer"}}}
    judge = build_judge(spec, single)
    text = "I get 30 + 4 = 34"
    assert judge(make_prompt("p", answer="34", source="other"), text, "length")["verdict"] == "wrong"
    assert judge(make_prompt("p", answer="34", source="sums"), text, "length")["verdict"] == "correct"


def test_what_cannot_be_built_is_named():
    with pytest.raises(ConfigError, match=r"verl: .*set scale"):
        judged(["last_integer", {"name": "python", "path": f"{BORROWED}:verl"}], "34")


async def scores(pool: RewardPool, *texts: str) -> list[ScoredRollout]:
    return [
        await pool.score(
            make_prompt("p", answer="42", source="src"), one_turn("p", 0, text, (), (), "stop", 0, "g", 0.0)
        )
        for text in texts
    ]


async def test_the_processes_combine_and_say_which_one_failed_hung_or_crashed():
    hostile = {"name": "python", "path": f"{HOSTILE}:judge", "weight": 0.5, "label": "hostile"}
    config = RewardsConfig.model_validate({"verifier": ["last_integer", hostile], "deadline_s": 0.5})
    pool = VerifierPool(config)
    try:
        found = await scores(pool, "right 42", "wrong 42", "returns 0.5 and 42", "raises value", "loops 42", "exits 7")
    finally:
        pool.close()
    assert [one.reward for one in found[:2]] == pytest.approx([1.0, 0.5 / 1.5])
    assert found[0].components == (
        ComponentScore("last_integer", 1.0, "correct"),
        ComponentScore("hostile", 1.0, "correct"),
    )
    assert {one.verifier for one in found} == {"last_integer + hostile"}
    assert [one.verdict for one in found] == ["correct", "correct", "error", "error", "timeout", "crash"]
    assert found[3].message == "hostile: ValueError: on purpose: value"
    assert found[4].message == "hostile: no verdict within 0.5 s"
    assert found[5].message.startswith("hostile: the worker ended without a verdict")
    assert found[4].components == (ComponentScore("hostile", -1.0, "timeout"),)
