"""Log-probabilities and entropy from hidden states, without ever holding all logits.

Legend: U predicting positions, N predicted tokens (several may be predicted at one position: responses that begin alike
and then part), D hidden size, V vocabulary, C vocabulary entries of one block, M tokens whose target lies in a block.

The projection runs over blocks of the vocabulary with an online log-sum-exp, so a block of logits [U, C] is all that
exists; the backward pass computes each block again. Gradients, with p = softmax(z), z = h W^T / temperature:

    d logp(target) / dz_v = [v = target] - p_v              d entropy / dz_v = -p_v (log p_v + entropy)

Blocks of the vocabulary rather than of the tokens, because then each part of dW is written once, from one product that
sums over all tokens, instead of being added up over token blocks in the low precision of the weights.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

BLOCK_ELEMENTS = 1 << 20
"""Logits of one block on CPU, 4 MB in float32: they stay in the cache between the passes over them. GPUs take more."""
MIN_BLOCK = 512


def _block_size(num_positions: int, vocabulary: int, device: torch.device) -> int:
    elements = BLOCK_ELEMENTS if device.type == "cpu" else 64 * BLOCK_ELEMENTS
    return min(vocabulary, max(MIN_BLOCK, elements // max(1, num_positions)))


def _blocks(target_N: Tensor, num_positions: int, vocabulary: int) -> Iterator[tuple[int, int, Tensor]]:
    """(start, stop, tokens_M) of each block of the vocabulary: which tokens have their target in it."""
    block = _block_size(num_positions, vocabulary, target_N.device)
    starts = list(range(0, vocabulary, block))
    order_N = torch.argsort(target_N, stable=True)
    edges = torch.tensor([*starts, vocabulary], device=target_N.device)
    bounds = torch.searchsorted(target_N[order_N], edges).tolist()  # one wait for the device, instead of one a block
    for start, first, last in zip(starts, bounds, bounds[1:], strict=False):
        yield start, min(start + block, vocabulary), order_N[first:last]


class _BlockedLogprobs(torch.autograd.Function):
    """(logp_N, entropy_U) in float32, both differentiable in the hidden states and the weight."""

    @staticmethod
    def forward(
        ctx: Any, hidden_UD: Tensor, weight_VD: Tensor, position_N: Tensor, target_N: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        num_positions = len(hidden_UD)
        top_U = hidden_UD.new_full((num_positions,), -torch.inf, dtype=torch.float32)
        mass_U, moment_U = torch.zeros_like(top_U), torch.zeros_like(top_U)
        picked_N = torch.empty(len(target_N), dtype=torch.float32, device=hidden_UD.device)
        for start, stop, tokens_M in _blocks(target_N, num_positions, len(weight_VD)):
            logits_UC = _logits(hidden_UD, weight_VD[start:stop], temperature)
            picked_N[tokens_M] = logits_UC[position_N[tokens_M], target_N[tokens_M] - start]
            new_top_U = torch.maximum(top_U, logits_UC.amax(1))
            shrink_U = torch.exp(top_U - new_top_U)
            # exp(z - top) and its product with z, summed: the partition function and the entropy's moment.
            weights_UC = torch.exp(logits_UC - new_top_U[:, None])
            mass_U = mass_U * shrink_U + weights_UC.sum(1)
            moment_U = moment_U * shrink_U + torch.linalg.vecdot(weights_UC, logits_UC)
            top_U = new_top_U
        log_mass_U = top_U + mass_U.log()
        entropy_U = log_mass_U - moment_U / mass_U
        ctx.save_for_backward(hidden_UD, weight_VD, position_N, target_N, log_mass_U, entropy_U)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return picked_N - log_mass_U[position_N], entropy_U

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad_logp_N, grad_entropy_U = grads
        hidden_UD, weight_VD, position_N, target_N, log_mass_U, entropy_U = ctx.saved_tensors
        if grad_logp_N is None:
            grad_logp_N = torch.zeros(len(target_N), dtype=torch.float32, device=hidden_UD.device)
        total_U = torch.zeros_like(log_mass_U).index_add_(0, position_N, grad_logp_N)
        grad_hidden_UD = torch.zeros(hidden_UD.shape, dtype=torch.float32, device=hidden_UD.device)
        grad_weight_VD = torch.empty_like(weight_VD)
        for start, stop, tokens_M in _blocks(target_N, len(hidden_UD), len(weight_VD)):
            weight_CD = weight_VD[start:stop]
            logp_UC = _logits(hidden_UD, weight_CD, ctx.temperature).sub_(log_mass_U[:, None])
            if grad_entropy_U is None:
                grad_UC = logp_UC.exp_().mul_(-total_U[:, None])
            else:
                slope_UC = (logp_UC + entropy_U[:, None]).mul_(grad_entropy_U[:, None]).add_(total_U[:, None])
                grad_UC = logp_UC.exp_().mul_(slope_UC).neg_()
            at = (position_N[tokens_M], target_N[tokens_M] - start)
            grad_UC.index_put_(at, grad_logp_N[tokens_M], accumulate=True)
            grad_UC = grad_UC.div_(ctx.temperature).to(weight_VD.dtype)
            grad_hidden_UD += grad_UC @ weight_CD
            torch.mm(grad_UC.t(), hidden_UD, out=grad_weight_VD[start:stop])
        return grad_hidden_UD.to(hidden_UD.dtype), grad_weight_VD, None, None, None


def _logits(hidden_UD: Tensor, weight_CD: Tensor, temperature: float) -> Tensor:
    logits_UC = (hidden_UD @ weight_CD.t()).float()
    return logits_UC if temperature == 1.0 else logits_UC.div_(temperature)


class LogprobHead(nn.Module):
    """A model's output projection that answers with log-probabilities instead of logits.

    Shares the parameter of the projection it replaces (and so of tied embeddings) under the same name. ZeRO-3 gathers
    the weight around the call, as for any module.
    """

    def __init__(self, projection: nn.Linear) -> None:
        super().__init__()
        if projection.bias is not None:
            raise ValueError("LogprobHead needs a projection without bias")
        self.weight = projection.weight

    def forward(
        self, hidden_UD: Tensor, position_N: Tensor, target_N: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """(log-probability of each token, entropy of the distribution it came from), both float32 [N].

        Token i has id target_N[i] and is predicted at row position_N[i] in [0, U) of hidden_UD, at `temperature`.
        """
        logp_N, entropy_U = _BlockedLogprobs.apply(hidden_UD, self.weight, position_N, target_N, temperature)
        return logp_N, entropy_U[position_N]
