import asyncio
from dataclasses import replace
from typing import Any

import pytest
import ray

from tests.fakes import make_prompt, one_turn
from v05ray.actors.placement import reserve
from v05ray.actors.rewards import RayRewardPool, RewardActor
from v05ray.actors.value import ValueActor, predictors
from v05ray.config import RewardsConfig, ValueConfig, VerifierSpec
from v05ray.errors import ConfigError
from v05ray.machine.layout import Role
from v05ray.scheduling.predictors import PredictorPool
from v05ray.types import Rollout, SupportExample


def rollout(text: str, index: int = 0) -> Rollout:
    return one_turn("p", index, text, (1,), (-0.1,), "stop", 0, "g", 0.0)


@pytest.fixture(scope="module")
def reward_actor() -> Any:
    actor: Any = ray.remote(RewardActor).options(num_cpus=0, max_concurrency=100, max_restarts=-1, max_task_retries=-1)
    return actor.remote(RewardsConfig(verifier=VerifierSpec(name="last_integer")))


async def test_verdicts_come_back_in_order_however_many_are_asked_for_at_once(reward_actor: Any):
    pool = RayRewardPool(reward_actor)
    prompt = make_prompt("p", answer="7")
    texts = [f"it is {i}" for i in range(50)]
    verdicts = await asyncio.gather(*(pool.score(prompt, rollout(t, i)) for i, t in enumerate(texts)))
    assert [v.reward for v in verdicts] == [1.0 if i == 7 else -1.0 for i in range(50)]
    assert [v.rollout.sample_index for v in verdicts] == list(range(50))


async def test_several_verifiers_give_one_reward_with_the_score_of_each():
    layout = {"name": "python", "path": "tests.unit.rewards.borrowed:trl", "scale": "zero_one", "weight": 0.5}
    config = RewardsConfig.model_validate({"verifier": [{"name": "exact", "weight": 1.5}, layout]})
    actor: Any = ray.remote(RewardActor).options(num_cpus=0)
    pool = RayRewardPool(actor.remote(config))
    await pool.ready()
    texts = ("7", "it is 7", "8")
    found = await asyncio.gather(*(pool.score(make_prompt("p", answer="7"), rollout(text)) for text in texts))
    assert [(one.reward, one.verdict) for one in found] == [(1.0, "correct"), (-0.5, "wrong"), (-1.0, "wrong")]
    assert [(part.label, part.reward) for part in found[1].components] == [("exact", -1.0), ("trl", 1.0)]


async def test_a_killed_reward_actor_comes_back_and_the_call_is_made_again(reward_actor: Any):
    pool = RayRewardPool(reward_actor)
    ray.kill(reward_actor, no_restart=False)
    verdict = await pool.score(make_prompt("p", answer="3"), rollout("3"))
    assert verdict.reward == 1.0


async def test_the_value_pool_answers_in_order_and_alike_to_the_bit_whatever_its_size(tmp_path):
    texts = [f"how much is {' and '.join(str(i * k) for k in range(2 + i % 9))}?" for i in range(110)]
    support = [SupportExample(f"s{i}", texts[70 + i], 1.0 if i % 2 else -1.0, 0) for i in range(40)]
    prompts = [replace(make_prompt(f"p{i}"), text=texts[i]) for i in range(70)]
    actor: Any = ray.remote(ValueActor).options(num_cpus=0)
    # None shares what it has embedded: they may be on different nodes.
    actors = predictors([actor.remote(ValueConfig(), tmp_path / f"cache-{i}.sqlite") for i in range(3)])
    pool = PredictorPool(actors[:1])
    # It meets the texts in other company than those that come later, as in the steps before a growth.
    await pool.predict(prompts[5:], support[::-1][:35], policy_version=0, seed=1)
    answers = []
    for step in range(4):
        if step in (1, 2):
            await pool.add(actors[step])  # which has met none of the texts before
        if step == 3:
            await pool.drain("value-1")
        priors = await pool.predict(prompts, support, policy_version=3, seed=0)
        answers.append([prior.value for prior in priors])
        assert [prior.prompt_id for prior in priors] == [prompt.prompt_id for prompt in prompts]
        assert {prior.origin for prior in priors} == {"v0"}
    assert len(set(answers[0])) > 20
    assert answers[0] == answers[1] == answers[2] == answers[3]


async def test_what_no_node_can_hold_is_named_after_the_wait():
    giant = Role("giant", ({"CPU": 64.0},), "STRICT_PACK")
    with pytest.raises(ConfigError, match=r"no room for giant \(CPU: asked 64, present 4\)"):
        await reserve([giant], wait_s=0.5)
