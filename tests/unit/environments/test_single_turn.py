from tests.fakes import FakeRewardPool, make_prompt, one_turn, response_text
from v05ray.environments import SingleTurn
from v05ray.ports import Environment


async def test_the_first_turn_is_judged_and_nothing_is_asked_for():
    environment: Environment = SingleTurn(FakeRewardPool())
    rollout = one_turn("p", 3, response_text(0.5), (1, 2), (-0.1, -0.2))
    scored = await environment.step(make_prompt("p"), rollout)
    assert (scored.rollout, scored.reward, scored.verdict) == (rollout, 0.5, "partial")
