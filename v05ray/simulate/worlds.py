"""Prompts whose true success rate is known, priors that are wrong by a chosen amount, and responses to draw.

A response of prompt i is a reward (+1 with probability p_i, else -1) and a length in tokens

    T = min(max_tokens, ceil(median * exp(a_i + sigma z) * (failure_factor if wrong else 1))),  a_i ~ N(0, sigma_prompt)

so lengths are heavy-tailed, cluster by prompt, and are longer where the answer is wrong, as long chains of thought are.
The j-th response of a prompt in an epoch depends on seed, epoch, prompt and j alone: every caller gets the same one,
in whatever order (common random numbers).
"""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from v05ray.errors import ConfigError
from v05ray.seeding import derive_seed

U_SHAPE = 0.35
"""Beta(.35, .35): pass rates as trained policies show them, mostly near 0 and 1; means of 4 rewards err by .103."""

Kind = Literal["beta", "u", "recorded"]


def u_shaped(num_prompts: int, rng: random.Random) -> list[float]:
    """Pass rates from Beta(.35, .35)."""
    return beta(num_prompts, U_SHAPE, U_SHAPE, rng)


def beta(num_prompts: int, a: float, b: float, rng: random.Random) -> list[float]:
    """Pass rates from Beta(a, b), a and b > 0."""
    if not (a > 0 and b > 0):
        raise ConfigError(f"a Beta world needs a > 0 and b > 0, got {a} and {b}")
    return [rng.betavariate(a, b) for _ in range(num_prompts)]


def recorded(path: Path) -> list[float]:
    """Pass rates from a file of JSON lines with a `score` in [-1, 1] on each (the format of V0's published sample).

    A score is the mean of some ten rewards and is taken for the truth, which exaggerates the share of exact 0 and 1.
    Raises `ConfigError` naming file and line.
    """
    rates = []
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read the recorded scores: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            score = float(json.loads(line)["score"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f'{path}:{number}: needs a JSON object with a number "score", got {line[:80]!r}'
            ) from error
        if not -1 <= score <= 1:
            raise ConfigError(f"{path}:{number}: score must be in [-1, 1], got {score}")
        rates.append((1 + score) / 2)
    if not rates:
        raise ConfigError(f"{path} holds no scores")
    return rates


def add_error(rates: Sequence[float], rms: float, rng: random.Random) -> list[float]:
    """A prior in [-1, 1] for each pass rate: the truth plus Gaussian noise of this rms, clipped."""
    return [min(1.0, max(-1.0, 2 * p - 1 + rng.gauss(0, rms))) for p in rates]


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long responses are; see the module for the formula."""

    median: float = 800.0
    """Tokens of a right answer to a usual prompt."""
    sigma: float = 0.7
    sigma_prompt: float = 0.4
    failure_factor: float = 2.0
    max_tokens: int = 16_384

    def __post_init__(self) -> None:
        if not (
            self.median > 0
            and self.sigma >= 0
            and self.sigma_prompt >= 0
            and self.failure_factor > 0
            and self.max_tokens >= 1
        ):
            raise ConfigError(f"lengths need median, failure_factor > 0, sigmas >= 0 and max_tokens >= 1, got {self}")


@dataclass(frozen=True, slots=True)
class World:
    """Prompts with known success rates."""

    rates: Mapping[str, float]
    """p in [0, 1] by prompt id."""
    priors: Mapping[str, float]
    """V in [-1, 1] by prompt id."""
    lengths: Lengths
    seed: int

    @classmethod
    def of(cls, rates: Sequence[float], *, prior_rms: float, lengths: Lengths | None = None, seed: int = 0) -> "World":
        """A world of these pass rates, its priors wrong by `prior_rms` >= 0 (rms on [-1, 1], before clipping)."""
        if not prior_rms >= 0:
            raise ConfigError(f"prior_rms must be >= 0, got {prior_rms}")
        names = [f"p{i}" for i in range(len(rates))]
        priors = add_error(rates, prior_rms, random.Random(derive_seed("priors", seed)))
        return cls(
            dict(zip(names, rates, strict=True)), dict(zip(names, priors, strict=True)), lengths or Lengths(), seed
        )

    def truth(self, prompt_id: str) -> float:
        """E r = 2 p - 1 in [-1, 1]."""
        return 2 * self.rates[prompt_id] - 1

    def greedy_reward(self, prompt_id: str) -> float:
        """Reward of the temperature-0 response, taken to be right where most samples are."""
        return 1.0 if self.rates[prompt_id] >= 0.5 else -1.0

    def responses(self, epoch: int = 0) -> "Responses":
        """All responses of one pass over the prompts."""
        return Responses(self, epoch)


class Responses:
    """What the policy answers in one epoch, made as it is asked for and kept, for several contenders to share."""

    def __init__(self, world: World, epoch: int) -> None:
        self._world, self._epoch = world, epoch
        self._streams: dict[str, tuple[random.Random, float, list[tuple[float, int]]]] = {}

    def get(self, prompt_id: str, sample_index: int) -> tuple[float, int]:
        """(reward, tokens) of one response."""
        stream = self._streams.get(prompt_id)
        if stream is None:
            world = self._world
            own = random.Random(derive_seed("prompt", world.seed, prompt_id)).gauss(0, world.lengths.sigma_prompt)
            rng = random.Random(derive_seed("responses", world.seed, self._epoch, prompt_id))
            stream = self._streams[prompt_id] = (rng, own, [])
        rng, own, drawn = stream
        while len(drawn) <= sample_index:
            drawn.append(self._draw(prompt_id, rng, own))
        return drawn[sample_index]

    def _draw(self, prompt_id: str, rng: random.Random, own: float) -> tuple[float, int]:
        lengths = self._world.lengths
        right = rng.random() < self._world.rates[prompt_id]
        tokens = lengths.median * math.exp(own + lengths.sigma * rng.gauss(0, 1))
        if not right:
            tokens *= lengths.failure_factor
        return 1.0 if right else -1.0, min(lengths.max_tokens, max(1, math.ceil(tokens)))
