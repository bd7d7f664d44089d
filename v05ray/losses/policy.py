"""Per-token policy losses on flat tensors. Legend: N response tokens of all sequences, one after another; S sequences.

Three policies appear: `sampled`, which drew the tokens (the inference engine, in its own numerics and perhaps an older
version); `old`, the learner's own weights before the update; `current`, the weights being differentiated.

Which ratio is clipped, and against what:
- with an importance cap (the default): loss = min(pi_old / pi_sampled, cap) * clipped(pi_current / pi_old), the
  truncated importance sampling of verl and of "Your efficient RL framework secretly brings you off-policy RL training".
  The weight corrects the engine's mismatch and the staleness, the clip bounds the step from the learner's old weights.
  We make one update per batch, so `old` is the stop-gradient of `current`: the ratio is exactly 1 where it is
  differentiated, its gradient is that of log pi, and the clip binds only if someone makes several updates per batch.
- without a cap: loss = clipped(pi_current / pi_sampled), PPO's own form, where the clip does both jobs.

`clipped` is one of three forms, r the ratio above and A the advantage:

| form | loss of a token | source |
|---|---|---|
| ppo | max(-A r, -A clip(r)) | 1707.06347; clip_high > clip_low is DAPO's clip-higher (2503.14476) |
| gspo | the same with the sequence's ratio s = exp(mean over its tokens of log r) in place of r | 2507.18071 |
| cispo | -A stop_gradient(clip(r)) log pi_current: clipped tokens keep a bounded gradient | 2506.13585 |
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PolicyLoss = Literal["ppo", "gspo", "cispo"]


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """Losses to be weighted and summed, with what the metrics count."""

    loss_N: Tensor
    """Differentiable; not yet weighted by the aggregation."""
    clipped_N: Tensor
    """bool: the clip bounds this token: its gradient is 0 (ppo, gspo) or scaled down (cispo)."""
    capped_N: Tensor
    """bool: the importance weight was truncated."""


def importance_weights(old_N: Tensor, sampled_N: Tensor, cap: float) -> Tensor:
    """w = min(pi_old / pi_sampled, cap) in (0, cap], without gradient; both arguments are log-probabilities."""
    # The exponent is bounded before exp, so that a token the engine thought impossible gives the cap and not infinity.
    log_cap = torch.tensor(cap, dtype=old_N.dtype, device=old_N.device).log()
    return torch.exp(torch.minimum(old_N.detach() - sampled_N, log_cap))


def clipped_ratio(
    current_N: Tensor,
    old_N: Tensor,
    advantages_N: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate; returns (loss, clipped) per token.

    r = exp(current - old); loss = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)). With `dual_clip` c > 1, tokens of
    negative advantage lose at most -A c (1912.09729): without it a large ratio gives them an unbounded loss. `clipped`
    is True where the chosen branch has no gradient.
    """
    ratio = torch.exp(current_N - old_N)
    plain = -advantages_N * ratio
    clipped = -advantages_N * ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = torch.maximum(plain, clipped)
    is_clipped = clipped > plain
    if dual_clip is not None:
        bound = -advantages_N * dual_clip
        too_large = (advantages_N < 0) & (loss > bound)
        loss = torch.where(too_large, bound, loss)
        is_clipped = is_clipped | too_large
    return loss, is_clipped


def sequence_ratio(
    current_N: Tensor,
    old_N: Tensor,
    advantages_N: Tensor,
    sequence_N: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, Tensor]:
    """GSPO's surrogate; returns (loss, clipped) per token. sequence_N[i] in [0, S) is the sequence of token i.

    s = exp(mean over the sequence of (current - old)) takes the place of each token's ratio, in value and in clip. A
    token's gradient is -A s grad log pi; with `sequence_mean` these add up to the gradient of the sequence's own loss.
    """
    log_ratio_N = (current_N - old_N).detach()
    counts_S = torch.bincount(sequence_N)
    sums_S = torch.zeros(len(counts_S), dtype=log_ratio_N.dtype, device=log_ratio_N.device)
    mean_S = sums_S.index_add(0, sequence_N, log_ratio_N) / counts_S.clamp(min=1)
    # current - its own value is 0, with the gradient of current: value s, gradient s grad log pi.
    stand_in_N = mean_S[sequence_N] + current_N - current_N.detach()
    return clipped_ratio(stand_in_N, torch.zeros_like(stand_in_N), advantages_N, clip_low=clip_low, clip_high=clip_high)


def clipped_weight(
    current_N: Tensor, old_N: Tensor, advantages_N: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """CISPO's loss -A stop_gradient(clip(r)) log pi_current; returns (loss, clipped) per token."""
    ratio = torch.exp(current_N - old_N).detach()
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -advantages_N * bounded * current_N, ratio != bounded


def policy_loss(
    current_N: Tensor,
    sampled_N: Tensor,
    advantages_N: Tensor,
    sequence_N: Tensor,
    *,
    form: PolicyLoss,
    clip_low: float,
    clip_high: float,
    importance_cap: float | None,
    dual_clip: float | None = None,
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
    if form == "ppo":
        loss_N, clipped_N = clipped_ratio(
            current_N, base_N, advantages_N, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
        )
    elif form == "gspo":
        loss_N, clipped_N = sequence_ratio(
            current_N, base_N, advantages_N, sequence_N, clip_low=clip_low, clip_high=clip_high
        )
    else:
        loss_N, clipped_N = clipped_weight(current_N, base_N, advantages_N, clip_low=clip_low, clip_high=clip_high)
    return TokenLosses(loss_N * weights_N, clipped_N, capped_N)
