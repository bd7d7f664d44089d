"""PPO's clipped surrogate (arXiv 1707.06347), with DAPO's clip-higher and the dual clip."""

from typing import TYPE_CHECKING

from v05ray.losses.base import Loss, LossInput, Surrogate, loss

if TYPE_CHECKING:
    from torch import Tensor


@loss("ppo")
class Ppo(Loss):
    """loss = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), r = exp(current - base), token by token.

    clip_high > clip_low is DAPO's clip-higher (2503.14476).
    """

    def __init__(self, clip_low: float = 0.2, clip_high: float = 0.2, dual_clip: float | None = None) -> None:
        """0 < `clip_low` < 1, `clip_high` > 0; `dual_clip` > 1 or None: see `clipped_ratio`."""
        self._clip_low, self._clip_high, self._dual_clip = clip_low, clip_high, dual_clip

    def __call__(self, inputs: LossInput) -> Surrogate:
        """The class's equation."""
        loss_N, clipped_N = clipped_ratio(
            inputs.current_N,
            inputs.base_N,
            inputs.advantages_N,
            clip_low=self._clip_low,
            clip_high=self._clip_high,
            dual_clip=self._dual_clip,
        )
        return Surrogate(loss_N, clipped_N)


def clipped_ratio(
    current_N: "Tensor",
    old_N: "Tensor",
    advantages_N: "Tensor",
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> "tuple[Tensor, Tensor]":
    """PPO's clipped surrogate; returns (loss, clipped) per token.

    r = exp(current - old); loss = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)). With `dual_clip` c > 1, tokens of
    negative advantage lose at most -A c (1912.09729): without it a large ratio gives them an unbounded loss. `clipped`
    is True where the chosen branch has no gradient.
    """
    ratio = (current_N - old_N).exp()
    plain = -advantages_N * ratio
    clipped = -advantages_N * ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = plain.maximum(clipped)
    is_clipped = clipped > plain
    if dual_clip is not None:
        bound = -advantages_N * dual_clip
        too_large = (advantages_N < 0) & (loss > bound)
        loss = bound.where(too_large, loss)
        is_clipped = is_clipped | too_large
    return loss, is_clipped
