"""The fakes keep the promises of the ports they replace."""

import asyncio

import pytest

from tests import fakes
from v05ray.ports import Environment, Generator, GeneratorLost, LearnerGroup, RewardPool, Tracker, ValuePool, Weights
from v05ray.types import TrainSample


def test_fakes_meet_the_ports():
    generator: Generator = fakes.FakeGenerator({})
    rewards: RewardPool = fakes.FakeRewardPool()
    environment: Environment = fakes.FakeEnvironment(rewards)
    values: ValuePool = fakes.FakeValuePool()
    learner: LearnerGroup = fakes.FakeLearner()
    tracker: Tracker = fakes.FakeTracker()
    assert all((generator, rewards, environment, values, learner, tracker))


async def test_the_scripted_reward_travels_in_the_text():
    prompt = fakes.make_prompt("p1")
    generator, pool = fakes.FakeGenerator({"p1": [1, -1, 0.25]}), fakes.FakeRewardPool()
    rollouts = await generator.draw(fakes.make_request(prompt, [0, 1, 2, 3]))
    scored = [await pool.score(prompt, rollout) for rollout in rollouts]
    assert [s.reward for s in scored] == [1, -1, 0.25, 1]
    assert [s.verdict for s in scored] == ["correct", "wrong", "partial", "correct"]


async def test_scripted_failures_and_texts_without_a_reward_get_minus_one():
    prompt = fakes.make_prompt("p1")
    (rollout,) = await fakes.FakeGenerator({"p1": [1]}).draw(fakes.make_request(prompt, [0]))
    failed = await fakes.FakeRewardPool(verdicts={("p1", 0): "timeout"}).score(prompt, rollout)
    strange = await fakes.FakeRewardPool().score(prompt, fakes.one_turn("p1", 0, "hello"))
    assert (failed.reward, failed.verdict) == (-1, "timeout")
    assert (strange.reward, strange.verdict) == (-1, "error")


async def test_greedy_and_truncated_draws():
    prompt = fakes.make_prompt("p1")
    generator = fakes.FakeGenerator({"p1": [-1]}, greedy={"p1": 1}, num_tokens=20)
    (rollout,) = await generator.draw(fakes.make_request(prompt, [0], sampling=fakes.GREEDY))
    assert (rollout.text, rollout.finish_reason, len(rollout.token_ids)) == ("[reward=1.0]", "length", 16)


async def test_a_version_loaded_meanwhile_does_not_touch_draws_in_flight():
    prompt = fakes.make_prompt("p1")
    generator = fakes.FakeGenerator({"p1": [1]}, latency=0.02)
    drawing = asyncio.create_task(generator.draw(fakes.make_request(prompt, [0])))
    await asyncio.sleep(0.005)
    assert (await generator.load_weights(Weights(3, None, 0))).version == 3
    assert [r.policy_version for r in await drawing] == [0]
    assert [r.policy_version for r in await generator.draw(fakes.make_request(prompt, [0]))] == [3]


async def test_a_lost_generator_fails_what_it_has_and_all_later_draws():
    prompt = fakes.make_prompt("p1")
    generator = fakes.FakeGenerator({"p1": [1]}, latency=60)
    drawing = asyncio.create_task(generator.draw(fakes.make_request(prompt, [0])))
    await asyncio.sleep(0.005)
    generator.lose()
    with pytest.raises(GeneratorLost):
        await drawing
    with pytest.raises(GeneratorLost):
        await generator.draw(fakes.make_request(prompt, [1]))
    early = fakes.FakeGenerator({"p1": [1]}, lost_after=1)
    await early.draw(fakes.make_request(prompt, [0]))
    with pytest.raises(GeneratorLost):
        await early.draw(fakes.make_request(prompt, [1]))


async def test_a_restarted_generator_serves_version_zero():
    prompt = fakes.make_prompt("p1")
    generator = fakes.FakeGenerator({"p1": [1]}, restarts=True)
    await generator.load_weights(Weights(3, None, 0))
    generator.lose()
    await generator.restart()
    assert [r.policy_version for r in await generator.draw(fakes.make_request(prompt, [0]))] == [0]
    forever = fakes.FakeGenerator({"p1": [1]})
    forever.lose()
    with pytest.raises(GeneratorLost):
        await forever.ready()


async def test_the_learner_saves_what_its_steps_did(tmp_path):
    learner, other = fakes.FakeLearner(), fakes.FakeLearner()
    await learner.accumulate([TrainSample("p1", (1,), (2,), (-0.5,), (a,), (True,), 0) for a in (2.0, -1.0)])
    assert await learner.step() == {"actor/grad_norm": 0.5, "actor/num_samples": 2.0}
    await learner.save(tmp_path / "learner")
    await other.load(tmp_path / "learner")
    assert (other.weight, other.num_steps) == (0.5, 1)
    assert (await other.weights(1)).payload == 0.5
