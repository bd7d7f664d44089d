"""GSPO's loss (arXiv 2507.18071): the sequence's ratio in place of each token's, in value and in clip."""

from typing import TYPE_CHECKING

from v05ray.losses.base import Loss, LossInput, Surrogate, loss
from v05ray.losses.ppo import clipped_ratio

if TYPE_CHECKING:
    from torch import Tensor


@loss("gspo")
class Gspo(Loss):
    """PPO's loss with the sequence's ratio s = exp(mean over its tokens of (current - base)) in place of r."""

    def __init__(self, clip_low: float = 0.2, clip_high: float = 0.2) -> None:
        """0 < `clip_low` < 1, `clip_high` > 0, both of s; GSPO's own are 3e-4 and 4e-4."""
        self._clip_low, self._clip_high = clip_low, clip_high

    def __call__(self, inputs: LossInput) -> Surrogate:
        """The class's equation."""
        loss_N, clipped_N = sequence_ratio(
            inputs.current_N,
            inputs.base_N,
            inputs.advantages_N,
            inputs.sequence_N,
            clip_low=self._clip_low,
            clip_high=self._clip_high,
        )
        return Surrogate(loss_N, clipped_N)


def sequence_ratio(
    current_N: "Tensor",
    old_N: "Tensor",
    advantages_N: "Tensor",
    sequence_N: "Tensor",
    *,
    clip_low: float,
    clip_high: float,
) -> "tuple[Tensor, Tensor]":
    """GSPO's surrogate; returns (loss, clipped) per token. sequence_N[i] in [0, S) is the sequence of token i.

    s = exp(mean over the sequence of (current - old)) takes the place of each token's ratio, in value and in clip. A
    token's gradient is -A s grad log pi; with `sequence_mean` these add up to the gradient of the sequence's own loss.
    """
    log_ratio_N = (current_N - old_N).detach()
    counts_S = sequence_N.bincount()
    sums_S = log_ratio_N.new_zeros(len(counts_S))
    mean_S = sums_S.index_add(0, sequence_N, log_ratio_N) / counts_S.clamp(min=1)
    # current - its own value is 0, with the gradient of current: value s, gradient s grad log pi.
    stand_in_N = mean_S[sequence_N] + current_N - current_N.detach()
    zeros_N = stand_in_N.new_zeros(stand_in_N.shape)
    return clipped_ratio(stand_in_N, zeros_N, advantages_N, clip_low=clip_low, clip_high=clip_high)
