"""A short draw before the first step, timed: what the run's estimate rests on."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from random import Random

from v05ray.config import Config
from v05ray.machine.estimate import Speed
from v05ray.seeding import derive_seed
from v05ray.types import DrawRequest, Prompt, Rollout

MOST_PROMPTS = 64
"""One response each: as many sequences together as a step of the default job starts with, in seconds on a laptop."""


async def measure_speed(
    config: Config, prompts: Sequence[Prompt], draw: Callable[[DrawRequest], Awaitable[list[Rollout]]]
) -> Speed | None:
    """Response tokens per second over all generators, and how long responses are; None where no token was drawn.

    As in the comparison of learner and engine, prompts go without their first token: what the run itself draws finds
    the engine's prefix cache as it would without this draw.
    """
    seed = derive_seed("warm-up", config.run.seed)
    chosen = Random(seed).sample(list(prompts), min(MOST_PROMPTS, config.run.prompts_per_step, len(prompts)))
    sampling = config.sampling.draws()

    def request(prompt: Prompt) -> DrawRequest:
        one = replace(prompt, token_ids=prompt.token_ids[1:] or prompt.token_ids)
        return DrawRequest(one.prompt_id, one.token_ids, (0,), (derive_seed("warm-up", seed, one.prompt_id),), sampling)

    start = time.perf_counter()
    drawn = await asyncio.gather(*(draw(request(prompt)) for prompt in chosen))
    seconds = time.perf_counter() - start
    num_tokens = sum(rollout.num_tokens for rollouts in drawn for rollout in rollouts)
    return Speed(num_tokens / seconds, num_tokens / len(chosen), measured=True) if num_tokens else None
