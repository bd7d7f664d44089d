"""Rollouts of several turns: what is drawn after an observation, and with what."""

import asyncio

import pytest

from tests.fakes import OBSERVATION, SAMPLING, FakeEnvironment, FakeGenerator, FakeRewardPool, make_prompt, make_request
from v05ray.environments import play_out
from v05ray.environments.play import DrawNext
from v05ray.ports import GeneratorLost
from v05ray.types import DrawRequest, Rollout

PROMPT = make_prompt("p", num_tokens=4)  # tokens 0 1 2 3; each turn of the fake generator samples 0 1 2
REQUEST = make_request(PROMPT, [0, 1])


def drawing_on(generator: FakeGenerator, holders: list[str] | None = None) -> DrawNext:
    async def draw(request: DrawRequest, holder: str) -> list[Rollout]:
        if holders is not None:
            holders.append(holder)
        return await generator.draw(request)

    return draw


async def test_the_second_turn_is_drawn_after_prompt_first_turn_and_observation():
    generator, holders = FakeGenerator({"p": [1.0, -1.0]}, "g7"), list[str]()
    environment = FakeEnvironment(FakeRewardPool())
    firsts = await generator.draw(REQUEST)
    scored = await play_out(PROMPT, REQUEST, firsts, environment, drawing_on(generator, holders))
    _, *later = generator.requests
    assert [request.token_ids for request in later] == [(0, 1, 2, 3, 0, 1, 2, 90, 91)] * 2
    assert [request.sample_indices for request in later] == [(0,), (1,)]
    assert [request.sampling for request in later] == [SAMPLING] * 2
    assert len({seed for request in generator.requests for seed in request.seeds}) == 4
    assert holders == ["g7", "g7"]
    assert [(one.reward, one.rollout.sample_index, len(one.rollout.turns)) for one in scored] == [(1, 0, 2), (-1, 1, 2)]
    assert scored[0].rollout.token_ids == (0, 1, 2, 90, 91, 0, 1, 2)
    assert [turn.observation for turn in scored[0].rollout.turns] == [None, OBSERVATION]


async def test_the_environment_sees_all_turns_so_far():
    generator = FakeGenerator({"p": [1.0]})
    environment = FakeEnvironment(FakeRewardPool(), num_turns=3)
    request = make_request(PROMPT, [0])
    (scored,) = await play_out(PROMPT, request, await generator.draw(request), environment, drawing_on(generator))
    assert [len(rollout.turns) for rollout in environment.seen] == [1, 2, 3]
    assert environment.seen[-1] == scored.rollout
    assert [len(one.token_ids) for one in generator.requests] == [4, 4 + 5, 4 + 10]


async def test_the_seeds_of_later_turns_depend_on_the_first_ones_alone():
    async def seeds(request: DrawRequest) -> list[int]:
        generator = FakeGenerator({"p": [1.0]})
        firsts = await generator.draw(request)
        await play_out(PROMPT, request, firsts, FakeEnvironment(FakeRewardPool(), 3), drawing_on(generator))
        return sorted(seed for one in generator.requests[1:] for seed in one.seeds)

    assert await seeds(REQUEST) == await seeds(REQUEST)
    assert len(set(await seeds(REQUEST))) == 4
    assert not set(await seeds(REQUEST)) & set(await seeds(make_request(PROMPT, [0, 1], step=1)))


async def test_rollouts_do_not_wait_for_each_other():
    """The first rollout's second turn ends only after the second rollout has been judged."""
    generator, judged = FakeGenerator({"p": [1.0]}), asyncio.Event()
    rewards = FakeRewardPool(latency=lambda prompt_id, index: judged.set() or 0.0 if index == 1 else 0.0)

    async def draw(request: DrawRequest, holder: str) -> list[Rollout]:
        if request.sample_indices == (0,):
            await asyncio.wait_for(judged.wait(), 5)
        return await generator.draw(request)

    scored = await play_out(PROMPT, REQUEST, await generator.draw(REQUEST), FakeEnvironment(rewards), draw)
    assert [one.rollout.sample_index for one in scored] == [0, 1]


async def test_a_draw_that_fails_is_raised():
    generator = FakeGenerator({"p": [1.0]}, lost_after=1)
    firsts = await generator.draw(REQUEST)
    with pytest.raises(GeneratorLost):
        await play_out(PROMPT, REQUEST, firsts, FakeEnvironment(FakeRewardPool()), drawing_on(generator))
