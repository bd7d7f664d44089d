"""CISPO's loss (arXiv 2506.13585): the ratio is a weight, clipped and without gradient."""

from typing import TYPE_CHECKING

from v05ray.losses.base import Loss, LossInput, Surrogate, loss

if TYPE_CHECKING:
    from torch import Tensor


@loss("cispo")
class Cispo(Loss):
    """loss = -A stop_gradient(clip(r)) log pi_current, r = exp(current - base): clipped tokens keep a gradient."""

    def __init__(self, clip_low: float = 0.2, clip_high: float = 0.2) -> None:
        """0 < `clip_low` < 1, `clip_high` > 0."""
        self._clip_low, self._clip_high = clip_low, clip_high

    def __call__(self, inputs: LossInput) -> Surrogate:
        """The class's equation."""
        loss_N, clipped_N = clipped_weight(
            inputs.current_N,
            inputs.base_N,
            inputs.advantages_N,
            clip_low=self._clip_low,
            clip_high=self._clip_high,
        )
        return Surrogate(loss_N, clipped_N)


def clipped_weight(
    current_N: "Tensor", old_N: "Tensor", advantages_N: "Tensor", *, clip_low: float, clip_high: float
) -> "tuple[Tensor, Tensor]":
    """CISPO's loss -A stop_gradient(clip(r)) log pi_current; returns (loss, clipped) per token."""
    ratio = (current_N - old_N).exp().detach()
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -advantages_N * bounded * current_N, ratio != bounded
