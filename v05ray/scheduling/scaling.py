"""How many generators are worth their cost: from the backlog to a wanted number, without thrashing.

    backlog [tokens] = outstanding tokens (a known upper bound) x learned share of it that is really drawn
    need             = mean backlog while generating / (target_backlog_s x tokens per second of one generator)

A trainer alternates between generation and learning, so the clock of everything here runs only while work is
outstanding: an hour of learning is no sign that generators are too many. Within a batch the backlog shrinks from its
peak to nothing, so it is averaged over slices of at least `sustain_s`; more generators are wanted when the newest
slice says so, fewer when every slice of the last `hold_s` does, neither within `cooldown_s` of the last change.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from v05ray.errors import ConfigError

UP_RATIO = 1.2
"""More are wanted when need > UP_RATIO x wanted."""

DOWN_RATIO = 0.8
"""Fewer are wanted when need < DOWN_RATIO x (wanted - 1). After a shrink, only a need of UP_RATIO / DOWN_RATIO = 1.5
times all that was seen for `hold_s` makes it grow again."""
ROUNDING = 1e-9
"""Needs are sums of measured times: one that lies on a boundary must not cross it by its last digits, and back."""


class Elastic(Protocol):
    """Scaling limits: `config.GeneratorsConfig`, `config.ValueConfig`; each field is documented there."""

    @property
    def count(self) -> int: ...  # noqa: D102

    @property
    def fewest(self) -> int: ...  # noqa: D102

    @property
    def most(self) -> int: ...  # noqa: D102

    @property
    def target_backlog_s(self) -> float | None: ...  # noqa: D102

    @property
    def sustain_s(self) -> float: ...  # noqa: D102

    @property
    def hold_s(self) -> float: ...  # noqa: D102

    @property
    def cooldown_s(self) -> float: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Workload:
    """What a pool was asked for and answered; all but the first two only grow. A value pool's tokens are prompts."""

    outstanding_tokens: int = 0
    """Upper bound of what is asked for and not answered, whether a generator has it or it waits for one."""
    generating: bool = False
    """Whether anything is outstanding."""
    generating_s: float = 0.0
    """Seconds with something outstanding."""
    backlog_token_s: float = 0.0
    """Integral of `outstanding_tokens` over time."""
    ready_s: float = 0.0
    """Integral of the number of READY generators over `generating_s`."""
    answered_bound: int = 0
    """Upper bound of what was answered."""
    answered_tokens: int = 0
    """What it was: prompts and responses, in tokens."""
    answered_rollouts: int = 0

    @staticmethod
    def combined(parts: Iterable["Workload"]) -> "Workload":
        """The sum over pools that work on the same batches, side by side; the time is that of the longest."""
        parts = list(parts)
        return Workload(
            sum(p.outstanding_tokens for p in parts),
            any(p.generating for p in parts),
            max((p.generating_s for p in parts), default=0.0),
            sum(p.backlog_token_s for p in parts),
            sum(p.ready_s for p in parts),
            sum(p.answered_bound for p in parts),
            sum(p.answered_tokens for p in parts),
            sum(p.answered_rollouts for p in parts),
        )


class WorkMeter:
    """Keeps one pool's `Workload`, exactly: every change is accounted for when it happens, not when it is read."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._outstanding = 0
        self._num_ready = 0
        self._generating_s = self._backlog_token_s = self._ready_s = 0.0
        self._answered_bound = self._answered_tokens = self._answered_rollouts = 0

    def ready(self, num_ready: int) -> None:
        """From now on `num_ready` generators are READY."""
        self._advance()
        self._num_ready = num_ready

    def asked(self, bound: int) -> None:
        """A draw of at most `bound` tokens was asked for."""
        self._advance()
        self._outstanding += bound

    def ended(self, bound: int, num_tokens: int | None, num_rollouts: int = 1) -> None:
        """It was answered with `num_tokens` tokens; None: it was cancelled or failed, and is left out of the rates."""
        self._advance()
        self._outstanding -= bound
        if num_tokens is not None:
            self._answered_bound += bound
            self._answered_tokens += num_tokens
            self._answered_rollouts += num_rollouts

    def read(self) -> Workload:
        """The workload up to now."""
        self._advance()
        return Workload(
            self._outstanding,
            self._outstanding > 0,
            self._generating_s,
            self._backlog_token_s,
            self._ready_s,
            self._answered_bound,
            self._answered_tokens,
            self._answered_rollouts,
        )

    def _advance(self) -> None:
        now = self._clock()
        if self._outstanding:
            seconds = now - self._last
            self._generating_s += seconds
            self._backlog_token_s += self._outstanding * seconds
            self._ready_s += self._num_ready * seconds
        self._last = now


def check_wanted(config: Elastic, wanted: int) -> None:
    """Raises `ConfigError` outside `generators.min` to `generators.max`."""
    if not config.fewest <= wanted <= config.most:
        raise ConfigError(
            f"{wanted} generators asked for, but this run allows {config.fewest} to {config.most}; ask for a number "
            "within, or start the run with other generators.min and generators.max"
        )


@dataclass
class _FadingRatio:
    above: float = 0.0
    below: float = 0.0

    def add(self, above: float, below: float, *, kept: float) -> None:
        """What was added before counts for the share `kept` of what it did."""
        self.above, self.below = self.above * kept + above, self.below * kept + below

    @property
    def value(self) -> float | None:
        """above / below of what was added; None before anything was."""
        return self.above / self.below if self.above > 0 and self.below > 0 else None


class ScalingPolicy:
    """The number of generators, or value actors, wanted, from what `observe` was given; always within bounds."""

    def __init__(self, config: Elastic) -> None:
        self._config = config
        self._wanted = config.count
        self._last = Workload()
        self._share = _FadingRatio()
        """Tokens answered by their upper bound."""
        self._rate = _FadingRatio()
        """Tokens answered by generator-seconds."""
        self._needs: deque[tuple[float, float]] = deque()
        """(seconds, need) of the slices since the last change."""

    @property
    def wanted(self) -> int:
        """Generators that there should be."""
        return self._wanted

    @property
    def bounds(self) -> tuple[int, int]:
        """(fewest, most) generators that the config allows."""
        return self._config.fewest, self._config.most

    @property
    def tokens_per_s(self) -> float | None:
        """What one generator gets through; None before anything was answered."""
        return self._rate.value

    def backlog_s(self, workload: Workload, num_generators: int) -> float | None:
        """Predicted seconds until `num_generators` have worked off what is outstanding; None where that is unknown."""
        rate = self.tokens_per_s
        if not workload.outstanding_tokens:
            return 0.0
        if rate is None or not num_generators:
            return None
        return workload.outstanding_tokens * (self._share.value or 1.0) / (rate * num_generators)

    def set(self, wanted: int) -> None:
        """Sets the number by hand. A policy with a target continues from there after its cool-down.

        Raises:
            ConfigError: outside `generators.min` to `generators.max`.
        """
        check_wanted(self._config, wanted)
        self._change(wanted)

    def observe(self, workload: Workload) -> int:
        """Takes in what has happened up to now; returns `wanted`. To be called every second or so."""
        slice_s = workload.generating_s - self._last.generating_s
        if slice_s < self._config.sustain_s:
            return self._wanted
        self._learn(workload, slice_s)
        mean_tokens = (workload.backlog_token_s - self._last.backlog_token_s) / slice_s * (self._share.value or 1.0)
        self._last = workload
        rate, target_s = self.tokens_per_s, self._config.target_backlog_s
        if rate is not None and target_s is not None:
            self._needs.append((slice_s, mean_tokens / (rate * target_s)))
            self._decide()
        return self._wanted

    def _learn(self, workload: Workload, slice_s: float) -> None:
        """Rates and lengths drift as the policy learns, so what is older than `hold_s` counts less and less."""
        kept = math.exp(-slice_s / self._config.hold_s)
        tokens = workload.answered_tokens - self._last.answered_tokens
        self._share.add(tokens, workload.answered_bound - self._last.answered_bound, kept=kept)
        self._rate.add(tokens, workload.ready_s - self._last.ready_s, kept=kept)

    def _decide(self) -> None:
        config, needs = self._config, self._needs
        while sum(seconds for seconds, _ in needs) - needs[0][0] >= max(config.hold_s, config.cooldown_s):
            needs.popleft()
        since_change_s = sum(seconds for seconds, _ in needs)
        if since_change_s < config.cooldown_s:
            return
        _, newest = needs[-1]
        if newest > UP_RATIO * self._wanted + ROUNDING:
            self._change(math.ceil(newest - ROUNDING))
            return
        if since_change_s < config.hold_s:
            return
        most = max(need for _, need in needs)
        if most < DOWN_RATIO * (self._wanted - 1) - ROUNDING:
            self._change(math.ceil(most / DOWN_RATIO - ROUNDING))

    def _change(self, wanted: int) -> None:
        low, high = self.bounds
        wanted = min(max(wanted, low), high)
        if wanted != self._wanted:
            self._wanted = wanted
            self._needs.clear()
