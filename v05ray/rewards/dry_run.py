"""One verdict of each verifier before a run: a prompt's own reference answer, judged as a response."""

import asyncio
from collections.abc import Sequence

from v05ray.config import RewardsConfig, VerifierSpec
from v05ray.rewards.by_source import take_apart
from v05ray.rewards.pool import VerifierPool
from v05ray.types import FAILURES, Prompt, Rollout, ScoredRollout, Turn

_FORMS = {"math": "\\boxed{{{}}}", "reasoning_gym": "<answer>{}</answer>"}
"""How a response gives its answer, by the verifier that reads it; elsewhere it is the answer alone."""


def one_of_each(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The first prompt of each source."""
    return list({prompt.source: prompt for prompt in reversed(prompts)}.values())[::-1]


def dry_verdicts(config: RewardsConfig, prompts: Sequence[Prompt]) -> list[ScoredRollout]:
    """A verdict of every prompt's own reference, from a verifier process as the run would have it.

    The deadline and the limit of memory are the run's too. Raises `ConfigError` for a verifier that cannot be built.
    """
    default, by_label = take_apart(config.verifier)

    async def judge() -> list[ScoredRollout]:
        pool = VerifierPool(config.model_copy(update={"num_workers": 1, "max_workers": None}))
        try:
            await pool.start()
            return [
                await pool.score(prompt, _reference_of(prompt, by_label.get(prompt.source, default)))
                for prompt in prompts
            ]
        finally:
            pool.close()

    return asyncio.run(judge())


def _reference_of(prompt: Prompt, verifier: VerifierSpec) -> Rollout:
    text = _FORMS.get(verifier.singles[0].name, "{}").format(prompt.answer)
    return Rollout(prompt.prompt_id, 0, (Turn(text, (), (), "stop", 0, "", 0.0),))


def described(prompt: Prompt, scored: ScoredRollout) -> str:
    """`sums: the reference of 'p1' as a response: correct, reward +0.67 (math +1, layout -1)`."""
    parts = ", ".join(
        f"{one.label} {one.verdict if one.verdict in FAILURES else format(one.reward, '+g')}"
        for one in scored.components
    )
    reward = "" if scored.verdict in FAILURES else f", reward {scored.reward:+.3g}"
    message = f"; {scored.message}" if scored.message else ""
    return (
        f"{prompt.source}: the reference of {prompt.prompt_id!r} as a response: {scored.verdict}{reward}"
        f"{f' ({parts})' if parts else ''}{message}"
    )
