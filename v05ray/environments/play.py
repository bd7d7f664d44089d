"""The loop of a rollout: the environment looks at the turns so far, and the policy draws the next one.

rollout of one turn --> environment.step --ScoredRollout--> done
                ^            |
                |            | Observation
                '-- draw <---'   (context: prompt, all turns, observation)
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from v05ray.ports import Environment
from v05ray.seeding import derive_seed
from v05ray.types import DrawRequest, Observation, Prompt, Rollout, Sampling, ScoredRollout

DrawNext = Callable[[DrawRequest, str], Awaitable[list[Rollout]]]
"""Draws a request. The second argument is the id of the generator whose cache holds the context: a preference."""


async def play_out(
    prompt: Prompt, request: DrawRequest, rollouts: Sequence[Rollout], environment: Environment, draw: DrawNext
) -> list[ScoredRollout]:
    """Takes the request's `rollouts`, each of one turn, to their ends; the verdicts in the same order.

    Later turns are drawn with the request's sampling, and with seeds made of the request's: what a rollout becomes does
    not depend on which generator draws it, or when. Rollouts do not wait for each other. Raises what `draw` and the
    environment raise.
    """
    seeded = zip(request.seeds, rollouts, strict=True)
    ends = (_play_one(prompt, rollout, seed, request.sampling, environment, draw) for seed, rollout in seeded)
    return list(await asyncio.gather(*ends))


async def _play_one(
    prompt: Prompt, rollout: Rollout, seed: int, sampling: Sampling, environment: Environment, draw: DrawNext
) -> ScoredRollout:
    while isinstance(answer := await environment.step(prompt, rollout), Observation):
        context = prompt.token_ids + rollout.token_ids + answer.token_ids
        seeds = (derive_seed("turn", seed, len(rollout.turns)),)
        request = DrawRequest(prompt.prompt_id, context, (rollout.sample_index,), seeds, sampling)
        (drawn,) = await draw(request, rollout.generator_id)
        rollout = rollout.then(answer, drawn)
    return answer
