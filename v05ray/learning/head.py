"""Log-probabilities and entropy from hidden states, without ever holding all logits.

Legend: U predicting positions, N predicted tokens (several may be predicted at one position: responses that begin alike
and then part), D hidden size, V vocabulary, C vocabulary entries of one block, M tokens whose target lies in a block.

Models may change their logits x = h W^T + b before they are used: scale them (Granite, Cohere) or cap them softly
(Gemma 2). With f(x) = x scale, or scale cap tanh(x / cap), z = f(x) / temperature; the chain rule adds dz/dx.

The projection runs over blocks of the vocabulary with an online log-sum-exp, so a block of logits [U, C] is all that
exists; the backward pass computes each block again. Gradients, with p = softmax(z), z = h W^T / temperature:

    d logp(target) / dz_v = [v = target] - p_v              d entropy / dz_v = -p_v (log p_v + entropy)

Blocks of the vocabulary rather than of the tokens, because then each part of dW is written once, from one product that
sums over all tokens, instead of being added up over token blocks in the low precision of the weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BLOCK_ELEMENTS = 1 << 20
"""Logits of one block on CPU, 4 MB in float32: they stay in the cache between the passes over them. GPUs take more."""
MIN_BLOCK = 512


@dataclass(frozen=True, slots=True)
class LogitsForm:
    """What a model does to its logits: f(x) = scale * x, or scale * cap * tanh(x / cap) with a softcap."""

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, settings: Any) -> "LogitsForm":
        """From a transformers config: Gemma's `final_logit_softcapping`, Granite's and Cohere's scales."""
        scale = float(getattr(settings, "logit_scale", None) or 1.0)
        divisor = float(getattr(settings, "logits_scaling", None) or 1.0)
        return cls(scale / divisor, getattr(settings, "final_logit_softcapping", None) or None)

    def apply_(self, raw_UC: Tensor, temperature: float) -> Tensor:
        """f(x) / temperature, in place."""
        if self.softcap is not None:
            raw_UC.div_(self.softcap).tanh_().mul_(self.softcap)
        factor = self.scale / temperature
        return raw_UC if factor == 1.0 else raw_UC.mul_(factor)

    def slope(self, logits_UC: Tensor, temperature: float) -> Tensor | float:
        """d(f(x) / temperature) / dx, from the values of f(x) / temperature: 1 - tanh^2 where there is a softcap."""
        factor = self.scale / temperature
        if self.softcap is None:
            return factor
        return (logits_UC / (factor * self.softcap)).square_().neg_().add_(1.0).mul_(factor)


PLAIN = LogitsForm()
"""Logits as the projection gives them."""


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
        ctx: Any,
        hidden_UD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        position_N: Tensor,
        target_N: Tensor,
        temperature: float,
        form: LogitsForm,
    ) -> tuple[Tensor, Tensor]:
        num_positions = len(hidden_UD)
        top_U = hidden_UD.new_full((num_positions,), -torch.inf, dtype=torch.float32)
        mass_U, moment_U = torch.zeros_like(top_U), torch.zeros_like(top_U)
        picked_N = torch.empty(len(target_N), dtype=torch.float32, device=hidden_UD.device)
        for start, stop, tokens_M in _blocks(target_N, num_positions, len(weight_VD)):
            logits_UC = form.apply_(_projected(hidden_UD, weight_VD, bias_V, start, stop), temperature)
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
        ctx.save_for_backward(hidden_UD, weight_VD, bias_V, position_N, target_N, log_mass_U, entropy_U)
        ctx.temperature, ctx.form = temperature, form
        ctx.set_materialize_grads(False)
        return picked_N - log_mass_U[position_N], entropy_U

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_logp_N, grad_entropy_U = grads
        hidden_UD, weight_VD, bias_V, position_N, target_N, log_mass_U, entropy_U = ctx.saved_tensors
        if grad_logp_N is None:
            grad_logp_N = torch.zeros(len(target_N), dtype=torch.float32, device=hidden_UD.device)
        total_U = torch.zeros_like(log_mass_U).index_add_(0, position_N, grad_logp_N)
        grad_hidden_UD = torch.zeros(hidden_UD.shape, dtype=torch.float32, device=hidden_UD.device)
        grad_weight_VD = torch.empty_like(weight_VD)
        grad_bias_V = None if bias_V is None else torch.empty_like(bias_V)
        for start, stop, tokens_M in _blocks(target_N, len(hidden_UD), len(weight_VD)):
            weight_CD = weight_VD[start:stop]
            logits_UC = ctx.form.apply_(_projected(hidden_UD, weight_VD, bias_V, start, stop), ctx.temperature)
            chain = ctx.form.slope(logits_UC, ctx.temperature)
            logp_UC = logits_UC.sub_(log_mass_U[:, None])
            if grad_entropy_U is None:
                grad_UC = logp_UC.exp_().mul_(-total_U[:, None])
            else:
                slope_UC = (logp_UC + entropy_U[:, None]).mul_(grad_entropy_U[:, None]).add_(total_U[:, None])
                grad_UC = logp_UC.exp_().mul_(slope_UC).neg_()
            at = (position_N[tokens_M], target_N[tokens_M] - start)
            grad_UC.index_put_(at, grad_logp_N[tokens_M], accumulate=True)
            grad_UC = grad_UC.mul_(chain)
            if grad_bias_V is not None:
                grad_bias_V[start:stop] = grad_UC.sum(0)
            grad_UC = grad_UC.to(weight_VD.dtype)
            grad_hidden_UD += grad_UC @ weight_CD
            torch.mm(grad_UC.t(), hidden_UD, out=grad_weight_VD[start:stop])
        return grad_hidden_UD.to(hidden_UD.dtype), grad_weight_VD, grad_bias_V, None, None, None, None


def _projected(hidden_UD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, start: int, stop: int) -> Tensor:
    """x_UC, float32: the projection onto vocabulary entries [start, stop)."""
    raw_UC = (hidden_UD @ weight_VD[start:stop].t()).float()
    return raw_UC if bias_V is None else raw_UC.add_(bias_V[start:stop])


class LogprobHead(nn.Module):
    """A model's output projection that answers with log-probabilities instead of logits.

    Shares the parameters of the projection it replaces (and so of tied embeddings) under the same names. ZeRO-3 gathers
    them around the call, as for any module.
    """

    def __init__(self, projection: nn.Linear, form: LogitsForm = PLAIN) -> None:
        """`form` is what the model does to the projection's output."""
        super().__init__()
        self.weight, self.form = projection.weight, form
        self.register_parameter("bias", projection.bias)

    def forward(
        self, hidden_UD: Tensor, position_N: Tensor, target_N: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """(log-probability of each token, entropy of the distribution it came from), both float32 [N].

        Token i has id target_N[i] and is predicted at row position_N[i] in [0, U) of hidden_UD, at `temperature`.
        """
        logp_N, entropy_U = _BlockedLogprobs.apply(
            hidden_UD, self.weight, self.bias, position_N, target_N, temperature, self.form
        )
        return logp_N, entropy_U[position_N]
