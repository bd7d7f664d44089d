"""Whether learner and engine compute the same policy, measured before a run trains.

The policy gradient rests on the log-probabilities that the engine sampled with being those of the learner. Two programs
compute them, each with its own kernels, masks and copies of the weights; so a few rollouts are drawn by a generator and
their log-probabilities computed again by the learners, on the weights that both will start from.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean

from v05ray.config import Config, ModelConfig
from v05ray.errors import RunError
from v05ray.ports import LearnerGroup
from v05ray.seeding import derive_seed
from v05ray.types import DrawRequest, Prompt, Rollout, Sampling, TrainSample

NUM_PROMPTS, ROLLOUTS_PER_PROMPT = 8, 2
"""Two of each prompt, so that the learner has a prefix to share."""
MAX_TOKENS = 32
"""Longest response drawn: enough for caches and windows to matter, little enough to take seconds."""
BOUNDS = {"float32": 1e-3, "bfloat16": 0.1}
"""Mean |difference| in nats a token that rounding explains, by `model.dtype`, with room: 2e-7 was measured on the tiny
model in float32, .04 on SmolLM2 in bfloat16."""


class Disagreement(RunError):
    """Learner and engine give the same tokens different log-probabilities; training would follow a wrong gradient."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was measured: |learner's - engine's log-probability|, in nats."""

    mean: float
    largest: float
    num_tokens: int
    samples: tuple[TrainSample, ...] = ()
    """What it was measured on; later weight updates are proved on some of them."""

    @classmethod
    def of(cls, differences: Sequence[float], samples: Sequence[TrainSample] = ()) -> "Agreement":
        """From the differences of all tokens, at least one."""
        # A NaN has to win, and max() lets it win only where it comes first.
        largest = max(differences, key=lambda one: one if one == one else float("inf"))
        return cls(fmean(differences), largest, len(differences), tuple(samples))

    def metrics(self) -> dict[str, float]:
        """`actor/agreement_nats` (mean) and `actor/agreement_nats_max`, in nats a token."""
        return {"actor/agreement_nats": self.mean, "actor/agreement_nats_max": self.largest}

    def __str__(self) -> str:
        return f"{self.mean:.2g} nats a token on average (largest {self.largest:.2g}, {self.num_tokens} tokens)"


def bound(model: ModelConfig) -> float:
    """Largest mean difference that is accepted, in nats a token."""
    return BOUNDS[model.dtype] if model.agreement_nats is None else model.agreement_nats


async def check_agreement(
    config: Config,
    prompts: Sequence[Prompt],
    draw: Callable[[DrawRequest], Awaitable[list[Rollout]]],
    learners: LearnerGroup,
) -> Agreement:
    """Draws a few rollouts of some of `prompts`, and compares.

    Raises `Disagreement` where the mean exceeds the bound: it names the part that differs.
    """
    samples = await _draw(config, prompts, draw)
    shares = config.learner.share_prefix
    differences = await _differences(samples, learners, share_prefix=shares)
    found, limit = Agreement.of(_flat(differences), samples), bound(config.model)
    if found.mean <= limit:
        return found
    part = ""
    if shares:
        plain = await _differences(samples, learners, share_prefix=False)
        if Agreement.of(_flat(plain)).mean <= limit:
            part = (
                f"without shared prefixes it is {Agreement.of(_flat(plain)).mean:.2g}: the learner computes shared "
                "prefixes wrongly for this model; set learner.share_prefix=false"
            )
    raise Disagreement(
        f"learner and engine disagree at policy version {samples[0].policy_version}: {found}, where {limit:g} is the "
        f"bound for {config.model.dtype}; {part or _where(differences, limit)}; nothing was trained "
        "(model.agreement_nats sets the bound)"
    )


def _where(differences: Sequence[Sequence[float]], limit: float) -> str:
    first = fmean(one[0] for one in differences)
    later = [value for one in differences for value in one[1:]]
    if first <= limit and later:
        return (
            f"a response's first tokens agree ({first:.2g}) and later ones do not ({fmean(later):.2g}): the two differ "
            "in how they attend to the response (attention window, positions, cache)"
        )
    return (
        f"the first tokens after the prompt differ already (by {first:.2g}): the two differ in their weights, in how "
        "they read the prompt, or in what they do to the logits"
    )


async def _draw(
    config: Config, prompts: Sequence[Prompt], draw: Callable[[DrawRequest], Awaitable[list[Rollout]]]
) -> list[TrainSample]:
    """The same rollouts at every start of a run; advantages are 0, as nothing is learned from them.

    Prompts are drawn without their first token. The engine's prefix cache then holds nothing that the run's own draws
    would find there, whose last digits would depend on whether the run was resumed.
    """
    seed, max_tokens = config.run.seed, min(MAX_TOKENS, config.sampling.max_tokens)
    # Without top_p: the learner's distribution is the whole one. Without stops: they change no probability, and longer
    # responses compare more.
    sampling = Sampling(config.sampling.temperature, 1.0, max_tokens)
    indices = tuple(range(ROLLOUTS_PER_PROMPT))

    def request(prompt: Prompt) -> DrawRequest:
        seeds = tuple(derive_seed("agreement", seed, prompt.prompt_id, index) for index in indices)
        return DrawRequest(prompt.prompt_id, prompt.token_ids, indices, seeds, sampling)

    chosen = Random(derive_seed("agreement", seed)).sample(list(prompts), min(NUM_PROMPTS, len(prompts)))
    chosen = [replace(prompt, token_ids=prompt.token_ids[1:] or prompt.token_ids) for prompt in chosen]
    drawn = await asyncio.gather(*(draw(request(prompt)) for prompt in chosen))
    samples = [
        TrainSample(
            prompt.prompt_id,
            prompt.token_ids,
            rollout.token_ids,
            rollout.logprobs,
            (0.0,) * len(rollout.token_ids),
            rollout.loss_mask,
            rollout.policy_version,
        )
        for prompt, rollouts in zip(chosen, drawn, strict=True)
        for rollout in rollouts
        if rollout.token_ids
    ]
    if not samples:
        raise Disagreement("the engine drew no token for any prompt of the probe: it serves no working model")
    return samples


async def _differences(
    samples: Sequence[TrainSample], learners: LearnerGroup, *, share_prefix: bool
) -> list[list[float]]:
    """[T] per sample."""
    computed = await learners.logprobs(samples, share_prefix=share_prefix)
    return [
        [abs(ours - theirs) for ours, theirs in zip(logprobs, sample.logprobs, strict=True)]
        for logprobs, sample in zip(computed, samples, strict=True)
    ]


def _flat(differences: Sequence[Sequence[float]]) -> list[float]:
    return [value for one in differences for value in one]
