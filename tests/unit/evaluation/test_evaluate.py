"""Held-out metrics, worked by hand."""

import asyncio
from dataclasses import replace
from itertools import combinations
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import fakes
from v05ray.environments import SingleTurn
from v05ray.errors import ConfigError
from v05ray.evaluation.evaluate import evaluate, majority, pass_at_k, summarise
from v05ray.types import DrawRequest, Rollout

PROMPTS = [fakes.make_prompt("p1", source="sums"), fakes.make_prompt("p2", source="sums")]


async def report_of(prompts, generator, *, samples_per_prompt, seed=0, step=3, rewards=None, environment=None):
    return await evaluate(
        prompts,
        generator.draw,
        environment or SingleTurn(rewards or fakes.FakeRewardPool()),
        samples_per_prompt=samples_per_prompt,
        sampling=fakes.SAMPLING,
        seed=seed,
        step=step,
    )


async def test_metrics_of_two_prompts_worked_by_hand():
    generator = fakes.FakeGenerator({"p1": [1, -1, -1, 1], "p2": [-1, -1, 0.5, -1]}, greedy={"p1": 1, "p2": -1})
    metrics = (await report_of(PROMPTS, generator, samples_per_prompt=4)).metrics
    # p1: 2 of 4 right, pass@2 = 1 - C(2,2)/C(4,2) = 5/6; answers 1, -1, -1, 1: a tie. p2: none right.
    expected = {
        "greedy": 0.5,
        "greedy_stderr": sqrt(0.5) / sqrt(2),
        "greedy_reward": 0.0,
        "num_prompts": 2.0,
        "mean_at_4": 0.25,
        "mean_at_4_stderr": sqrt(0.125) / sqrt(2),
        "pass_at_1": 0.25,
        "pass_at_1_stderr": sqrt(0.125) / sqrt(2),
        "pass_at_2": 5 / 12,
        "pass_at_2_stderr": (5 / 6) / sqrt(2) / sqrt(2),
        "pass_at_4": 0.5,
        "pass_at_4_stderr": 0.5,
        "maj_at_4": 0.25,
        "maj_at_4_stderr": 0.25,
        "reward_mean_at_4": -2.5 / 8,
        "response_length/mean": 3.0,
        "response_length/clip_ratio": 0.0,
        "response_length_sampled/mean": 3.0,
        "response_length_sampled/clip_ratio": 0.0,
    }
    assert metrics == pytest.approx(
        {f"val/{source}/{name}": value for source in ("all", "sums") for name, value in expected.items()}
    )


async def test_greedy_alone_and_one_prompt_alone_have_no_sampled_metrics_and_no_stderr():
    generator = fakes.FakeGenerator({"p1": [1]}, num_tokens=20)
    metrics = (await report_of(PROMPTS[:1], generator, samples_per_prompt=0)).metrics
    assert {name for name in metrics if name.startswith("val/sums/")} == {
        "val/sums/greedy",
        "val/sums/greedy_reward",
        "val/sums/num_prompts",
        "val/sums/response_length/mean",
        "val/sums/response_length/clip_ratio",
    }
    assert metrics["val/sums/response_length/mean"] == 16
    assert metrics["val/sums/response_length/clip_ratio"] == 1


async def test_sources_are_kept_apart_and_their_names_fit_mlflow():
    prompts = [fakes.make_prompt("p1", source="sums"), fakes.make_prompt("p2", source="org/maths (hard)")]
    generator = fakes.FakeGenerator({"p1": [1], "p2": [-1]})
    metrics = (await report_of(prompts, generator, samples_per_prompt=0)).metrics
    assert metrics["val/sums/greedy"] == 1
    assert metrics["val/org/maths _hard_/greedy"] == 0
    assert metrics["val/all/greedy"] == 0.5


async def test_a_failing_verifier_counts_as_wrong():
    generator = fakes.FakeGenerator({"p1": [1]})
    pool = fakes.FakeRewardPool(verdicts={("p1", 0): "timeout"})
    report = await report_of(PROMPTS[:1], generator, samples_per_prompt=2, rewards=pool)
    assert report.metrics["val/sums/greedy"] == 0
    assert report.metrics["val/sums/mean_at_2"] == 0.5


async def test_rows_come_in_order_and_say_what_was_drawn_when():
    generator = fakes.FakeGenerator(
        {"p1": [1, -1], "p2": [-1]}, version=7, latency=lambda prompt_id, i: 0.01 if prompt_id == "p1" else 0
    )
    rows = (await report_of(PROMPTS, generator, samples_per_prompt=2)).rows
    assert [(r.prompt_id, r.kind, r.sample_index, r.reward) for r in rows] == [
        ("p1", "greedy", 0, 1),
        ("p1", "sampled", 0, 1),
        ("p1", "sampled", 1, -1),
        ("p2", "greedy", 0, -1),
        ("p2", "sampled", 0, -1),
        ("p2", "sampled", 1, -1),
    ]
    assert {(r.step, r.policy_version) for r in rows} == {(3, 7)}


async def test_requests_are_greedy_then_seeded_by_prompt_and_not_by_step():
    early, late, other = (fakes.FakeGenerator({"p1": [1]}) for _ in range(3))
    await report_of(PROMPTS[:1], early, samples_per_prompt=2, step=0)
    await report_of(PROMPTS[:1], late, samples_per_prompt=2, step=10)
    await report_of(PROMPTS[:1], other, samples_per_prompt=2, step=0, seed=1)
    greedy, sampled = early.requests
    assert (greedy.sampling.temperature, greedy.sampling.top_p, greedy.sample_indices) == (0, 1, (0,))
    assert (sampled.sampling, sampled.sample_indices) == (fakes.SAMPLING, (0, 1))
    assert len(set(sampled.seeds)) == 2
    assert early.requests == late.requests
    assert other.requests[1].seeds != sampled.seeds


async def test_everything_is_drawn_at_once():
    waiting = 0
    everyone = asyncio.Event()
    generator = fakes.FakeGenerator({"p1": [1], "p2": [1]})

    async def draw(request: DrawRequest) -> list[Rollout]:
        nonlocal waiting
        waiting += 1
        if waiting == 4:
            everyone.set()
        await asyncio.wait_for(everyone.wait(), 5)
        return await generator.draw(request)

    environment = SingleTurn(fakes.FakeRewardPool())
    await evaluate(PROMPTS, draw, environment, samples_per_prompt=1, sampling=fakes.SAMPLING, seed=0, step=0)


async def test_refusals_say_what_to_do():
    generator = fakes.FakeGenerator({})
    with pytest.raises(ConfigError, match=r"give data\.eval"):
        await report_of([], generator, samples_per_prompt=0)
    with pytest.raises(ConfigError, match="'all'"):
        await report_of([fakes.make_prompt("p1", source="all")], generator, samples_per_prompt=0)
    with pytest.raises(ConfigError, match="samples_per_prompt"):
        await report_of(PROMPTS, generator, samples_per_prompt=-1)


async def test_an_environment_of_two_turns_is_played_out_and_its_last_answer_counts():
    generator = fakes.FakeGenerator({"p1": [1, -1]}, greedy={"p1": 1})
    environment = fakes.FakeEnvironment(fakes.FakeRewardPool())
    report = await report_of(PROMPTS[:1], generator, samples_per_prompt=2, environment=environment)
    assert [(row.kind, row.reward, row.num_tokens) for row in report.rows] == [
        ("greedy", 1, 6),
        ("sampled", 1, 6),
        ("sampled", -1, 6),
    ]
    second_turns = [request for request in generator.requests if len(request.token_ids) > 4]
    assert sorted(request.sampling.temperature for request in second_turns) == [0, 1, 1]


@pytest.mark.parametrize(
    ("keys", "correct", "expected"),
    [
        (["5", "5", "7"], [True, True, False], 1.0),
        (["5", "7", "7"], [True, False, False], 0.0),
        (["5", "7"], [True, False], 0.5),
        (["5", "7", "9"], [True, False, False], 1 / 3),
        (["0.5", r"\frac{1}{2}", "1", "1"], [True, True, False, False], 0.5),
        (["x=5", "5", "7"], [True, True, False], 1.0),
        ([r"\text{A}", "A", "B"], [True, True, False], 1.0),
        (["1{,}234", "1234", "1,234", "5", "5"], [True, True, True, False, False], 1.0),
        ([r"10\%", "10%", "3"], [True, True, False], 1.0),
        ([r"\left(1,2\right)", "(1, 2)", "(2, 1)"], [True, True, False], 1.0),
        (["5", "5"], [True, False], 0.5),  # the verifier saw more than the key: 5 dollars, 5 euros
    ],
)
def test_majority(keys, correct, expected):
    assert majority(keys, correct) == pytest.approx(expected)


@given(
    st.integers(1, 7).flatmap(lambda n: st.tuples(st.lists(st.booleans(), min_size=n, max_size=n), st.integers(1, n)))
)
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(case):
    correct, k = case
    subsets = list(combinations(correct, k))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(len(correct), sum(correct), k) == pytest.approx(expected)


@given(st.integers(0, 16))
def test_pass_at_k_grows_with_k_from_the_mean(num_correct):
    values = [pass_at_k(16, num_correct, k) for k in range(1, 17)]
    assert values[0] == pytest.approx(num_correct / 16)
    assert values == sorted(values)


def test_pass_at_k_refuses_more_than_was_drawn():
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(4, 1, 5)


async def test_the_order_of_prompts_does_not_matter():
    generator = fakes.FakeGenerator({"p1": [1, -1], "p2": [-1]})
    rows = (await report_of(PROMPTS, generator, samples_per_prompt=2)).rows
    relabelled = [replace(row, step=0) for row in reversed(rows)]
    assert summarise(rows) == pytest.approx(summarise(relabelled))
