"""DAPO's soft overlong punishment (arXiv 2503.14476, Eq. 13): long responses lose reward before they are cut off.

It is added to the rewards that advantages are computed from. Budget rules, priors and the ledger keep the verifier's.
"""

from dataclasses import dataclass, replace
from typing import Literal

from v05ray.advantages.base import GroupView


@dataclass(frozen=True, slots=True)
class Overlong:
    """0 up to max_tokens - buffer, then falling linearly to -1 at max_tokens.

    >>> Overlong(max_tokens=20, buffer=4).punishment(18)
    -0.5
    """

    max_tokens: int
    """L_max, the longest response that is drawn, in tokens."""
    buffer: int
    """L_cache, in [1, L_max]."""

    @classmethod
    def of(cls, buffer: int | Literal["auto"] | None, max_tokens: int) -> "Overlong | None":
        """From `rewards.overlong_buffer`, in [1, `max_tokens`]; `auto` is DAPO's share, 4,096 of 20,480 tokens.

        >>> Overlong.of("auto", 20)
        Overlong(max_tokens=20, buffer=4)
        """
        if buffer is None:
            return None
        return cls(max_tokens, max(1, max_tokens // 5) if buffer == "auto" else buffer)

    def punishment(self, length: int) -> float:
        """In [-1, 0], for a response of `length` >= 0 tokens."""
        beyond = length - (self.max_tokens - self.buffer)
        return -min(1.0, max(0, beyond) / self.buffer)

    def punished(self, view: GroupView) -> GroupView:
        """The view with the punishments added to its rewards, and beside them."""
        assert view.lengths is not None  # a view of a sealed group has them
        punishments = tuple(self.punishment(length) for length in view.lengths)
        rewards = tuple(reward + one for reward, one in zip(view.rewards, punishments, strict=True))
        return replace(view, rewards=rewards, punishments=punishments)
