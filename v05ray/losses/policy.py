"""Per-token policy losses on flat tensors. Legend: N response tokens of all sequences, one after another; S sequences.

Three policies appear: `sampled`, which drew the tokens (the inference engine, in its own numerics and perhaps an older
version); `old`, the learner's own weights before the first update on this batch; `current`, the weights being
differentiated. So there are two quotients, never one: the importance weight old / sampled, how far the engine is from
the learner, and the ratio current / old, how far the updates on this batch have moved.

Which ratio is clipped, and against what:
- with an importance cap (the default): loss = min(pi_old / pi_sampled, cap) * clipped(pi_current / pi_old), the
  truncated importance sampling of verl and of "Your efficient RL framework secretly brings you off-policy RL training".
  The weight corrects the engine's mismatch and the staleness, and is the same in all updates of a batch; the clip
  bounds the step from the learner's old weights. In the first update `old` is the stop-gradient of `current`: the ratio
  is exactly 1 where it is differentiated, and its gradient is that of log pi. The clip binds from the second update on,
  so not where a batch makes one alone (`losses.updates`).
- without a cap: loss = clipped(pi_current / pi_sampled), PPO's own form, where the clip does both jobs.

`clipped` is the policy loss that the config names, r the ratio above and A the advantage:

| loss | of a token | source |
|---|---|---|
| ppo | max(-A r, -A clip(r)) | 1707.06347; clip_high > clip_low is DAPO's clip-higher (2503.14476) |
| gspo | the same with the sequence's ratio s = exp(mean over its tokens of log r) in place of r | 2507.18071 |
| cispo | -A stop_gradient(clip(r)) log pi_current: clipped tokens keep a bounded gradient | 2506.13585 |
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from v05ray.errors import ConfigError
from v05ray.losses.base import Loss, LossInput


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """Losses to be weighted and summed, with what the metrics count."""

    loss_N: Tensor
    """Differentiable; not yet weighted by the aggregation."""
    clipped_N: Tensor
    """bool: the clip bounds this token: its gradient is 0 (ppo, gspo) or scaled down (cispo)."""
    capped_N: Tensor
    """bool: the importance weight was truncated."""
    log_ratio_N: Tensor
    """Without gradient: log of the ratio, token by token; 0 in the first update where there is an importance cap."""


def importance_weights(old_N: Tensor, sampled_N: Tensor, cap: float) -> Tensor:
    """w = min(pi_old / pi_sampled, cap) in (0, cap], without gradient; both arguments are log-probabilities."""
    # The exponent is bounded before exp, so that a token the engine thought impossible gives the cap and not infinity.
    log_cap = torch.tensor(cap, dtype=old_N.dtype, device=old_N.device).log()
    return torch.exp(torch.minimum(old_N.detach() - sampled_N, log_cap))


def policy_loss(
    loss: Loss,
    current_N: Tensor,
    sampled_N: Tensor,
    advantages_N: Tensor,
    sequence_N: Tensor,
    *,
    importance_cap: float | None,
    old_N: Tensor | None = None,
) -> TokenLosses:
    """The loss described at the top of this file.

    current_N carries the gradient; sampled_N and advantages_N do not. `old_N` are the learner's log-probabilities
    before the first update on this batch; None means that this is the first update, where they equal `current_N`.
    """
    if importance_cap is None:
        base_N, weights_N = sampled_N, torch.ones_like(sampled_N)
        capped_N = torch.zeros_like(sampled_N, dtype=torch.bool)
    else:
        base_N = current_N.detach() if old_N is None else old_N
        weights_N = importance_weights(base_N, sampled_N, importance_cap)
        capped_N = base_N - sampled_N > math.log(importance_cap)
    surrogate = loss(LossInput(current_N, base_N, sampled_N, advantages_N, sequence_N))
    shapes = list(surrogate.loss_N.shape), list(surrogate.clipped_N.shape)
    if shapes != ([len(current_N)], [len(current_N)]):
        raise ConfigError(  # broadcast, it would be counted once for every token
            f"policy loss {loss.name!r} gave loss and clipped of shapes {shapes[0]} and {shapes[1]} for "
            f"{len(current_N)} tokens; return one of each for every token"
        )
    log_ratio_N = current_N.detach() - base_N
    return TokenLosses(surrogate.loss_N * weights_N, surrogate.clipped_N, capped_N, log_ratio_N)
