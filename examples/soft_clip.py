"""A policy loss: PPO's surrogate with a smooth bound in place of the clip, so that no token loses its gradient at once.

learner: {policy_loss: {name: python, path: "soft_clip:SoftClip", options: {width: 0.2}}}
"""

import torch

from v05ray.losses import Loss, LossInput, Surrogate


class SoftClip(Loss):
    """loss = -A (1 + w tanh((r - 1) / w)), r = exp(current - base): r where it is near 1, within 1 - w and 1 + w."""

    def __init__(self, width: float = 0.2):
        """0 < `width` w < 1."""
        if not 0 < width < 1:
            raise ValueError(f"width must lie in (0, 1), got {width}")
        self._width = width

    def __call__(self, inputs: LossInput) -> Surrogate:
        """[N] losses; a token counts as clipped where the bound takes more than half of its gradient."""
        step_N = (torch.exp(inputs.current_N - inputs.base_N) - 1) / self._width
        loss_N = -inputs.advantages_N * (1 + self._width * torch.tanh(step_N))
        return Surrogate(loss_N, torch.tanh(step_N).square() > 0.5)
