"""Log-probabilities and entropy from hidden states, without ever holding all logits.

Legend: N tokens, D hidden size, V vocabulary, C vocabulary entries of one block.

The projection runs over blocks of the vocabulary with an online log-sum-exp, so a block of logits [N, C] is all that
exists; the backward pass computes each block again. Gradients, with p = softmax(z), z = h W^T / temperature:

    d logp(target) / dz_v = [v = target] - p_v              d entropy / dz_v = -p_v (log p_v + entropy)

Blocks of the vocabulary rather than of the tokens, because then each part of dW is written once, from one product that
sums over all tokens, instead of being added up over token blocks in the low precision of the weights.
"""

from typing import Any

import torch
from torch import Tensor, nn

BLOCK_ELEMENTS = 1 << 20
"""Logits of one block: 4 MB in float32 stay in a core's cache; see benchmarks/learner_step.py."""
MIN_BLOCK = 512


def _block_size(num_tokens: int, vocabulary: int, device: torch.device) -> int:
    elements = BLOCK_ELEMENTS if device.type == "cpu" else 64 * BLOCK_ELEMENTS
    return min(vocabulary, max(MIN_BLOCK, elements // max(1, num_tokens)))


class _BlockedLogprobs(torch.autograd.Function):
    """(logp_N, entropy_N) in float32, both differentiable in the hidden states and the weight."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        num_tokens, vocabulary = len(target_N), len(weight_VD)
        block = _block_size(num_tokens, vocabulary, hidden_ND.device)
        top_N = hidden_ND.new_full((num_tokens,), -torch.inf, dtype=torch.float32)
        mass_N, moment_N = torch.zeros_like(top_N), torch.zeros_like(top_N)
        picked_N = torch.zeros_like(top_N)
        for start in range(0, vocabulary, block):
            logits_NC = _logits(hidden_ND, weight_VD[start : start + block], temperature)
            _pick(logits_NC, target_N - start, picked_N)
            new_top_N = torch.maximum(top_N, logits_NC.amax(1))
            shrink_N = torch.exp(top_N - new_top_N)
            # exp(z - top) and its product with z, summed: the partition function and the entropy's moment.
            weights_NC = torch.exp(logits_NC - new_top_N[:, None])
            mass_N = mass_N * shrink_N + weights_NC.sum(1)
            moment_N = moment_N * shrink_N + torch.linalg.vecdot(weights_NC, logits_NC)
            top_N = new_top_N
        log_mass_N = top_N + mass_N.log()
        entropy_N = log_mass_N - moment_N / mass_N
        ctx.save_for_backward(hidden_ND, weight_VD, target_N, log_mass_N, entropy_N)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return picked_N - log_mass_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_logp_N, grad_entropy_N = grads
        hidden_ND, weight_VD, target_N, log_mass_N, entropy_N = ctx.saved_tensors
        vocabulary = len(weight_VD)
        block = _block_size(len(target_N), vocabulary, hidden_ND.device)
        if grad_logp_N is None:
            grad_logp_N = torch.zeros_like(log_mass_N)
        grad_hidden_ND = torch.zeros(hidden_ND.shape, dtype=torch.float32, device=hidden_ND.device)
        grad_weight_VD = torch.empty_like(weight_VD)
        for start in range(0, vocabulary, block):
            weight_CD = weight_VD[start : start + block]
            logp_NC = _logits(hidden_ND, weight_CD, ctx.temperature).sub_(log_mass_N[:, None])
            if grad_entropy_N is None:
                grad_NC = logp_NC.exp_().mul_(-grad_logp_N[:, None])
            else:
                slope_NC = (logp_NC + entropy_N[:, None]).mul_(grad_entropy_N[:, None]).add_(grad_logp_N[:, None])
                grad_NC = logp_NC.exp_().mul_(slope_NC).neg_()
            _add_at(grad_NC, target_N - start, grad_logp_N)
            grad_NC = grad_NC.div_(ctx.temperature).to(weight_VD.dtype)
            grad_hidden_ND += grad_NC @ weight_CD
            torch.mm(grad_NC.t(), hidden_ND, out=grad_weight_VD[start : start + block])
        return grad_hidden_ND.to(hidden_ND.dtype), grad_weight_VD, None, None


def _logits(hidden_ND: Tensor, weight_CD: Tensor, temperature: float) -> Tensor:
    logits_NC = (hidden_ND @ weight_CD.t()).float()
    return logits_NC if temperature == 1.0 else logits_NC.div_(temperature)


def _pick(logits_NC: Tensor, index_N: Tensor, out_N: Tensor) -> None:
    """out_N[i] = logits_NC[i, index_N[i]] for the tokens whose target lies in this block."""
    inside_N = (index_N >= 0) & (index_N < logits_NC.shape[1])
    values_N = logits_NC.gather(1, index_N.clamp(0, logits_NC.shape[1] - 1)[:, None]).squeeze(1)
    out_N.copy_(torch.where(inside_N, values_N, out_N))


def _add_at(grad_NC: Tensor, index_N: Tensor, values_N: Tensor) -> None:
    """grad_NC[i, index_N[i]] += values_N[i] for the tokens whose target lies in this block."""
    inside_N = (index_N >= 0) & (index_N < grad_NC.shape[1])
    index_N = index_N.clamp(0, grad_NC.shape[1] - 1)
    grad_NC.scatter_add_(1, index_N[:, None], torch.where(inside_N, values_N, 0.0)[:, None])


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

    def forward(self, hidden_ND: Tensor, target_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """(log-probabilities of the targets, entropies of the distributions), both float32 [N], at `temperature`."""
        return _BlockedLogprobs.apply(hidden_ND, self.weight, target_N, temperature)
