import asyncio

from tests.fakes import one_turn
from tests.unit.machine.test_fit import config
from v05ray.training.warm_up import measure_speed
from v05ray.types import DrawRequest, Prompt, Rollout

PROMPTS = [Prompt(f"p{i}", f"question {i}", (1, 2, 3 + i), "0", "s") for i in range(9)]


class Engine:
    """Answers every prompt with `num_tokens` tokens, and remembers what it was asked."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens, self.asked = num_tokens, list[DrawRequest]()

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        self.asked.append(request)
        await asyncio.sleep(0.01)
        tokens = (7,) * self.num_tokens
        return [
            one_turn(
                prompt_id=request.prompt_id,
                sample_index=index,
                text="",
                token_ids=tokens,
                logprobs=(0.0,) * self.num_tokens,
                finish_reason="stop",
                policy_version=0,
                generator_id="g",
                seconds=0.01,
            )
            for index in request.sample_indices
        ]


async def test_the_speed_is_that_of_one_response_for_each_prompt_of_a_batch() -> None:
    engine = Engine(5)
    speed = await measure_speed(config(run={"prompts_per_step": 4}), PROMPTS, engine.draw)
    assert speed is not None
    assert speed.measured
    assert (len(engine.asked), speed.mean_tokens) == (4, 5.0)
    assert 0 < speed.tokens_per_s <= 4 * 5 / 0.01


async def test_the_prefix_cache_is_left_without_the_runs_own_prompts() -> None:
    engine = Engine(1)
    await measure_speed(config(run={"prompts_per_step": 4}), PROMPTS, engine.draw)
    assert {request.token_ids[0] for request in engine.asked} == {2}


async def test_an_engine_that_draws_nothing_gives_no_speed() -> None:
    assert await measure_speed(config(run={"prompts_per_step": 4}), PROMPTS, Engine(0).draw) is None
