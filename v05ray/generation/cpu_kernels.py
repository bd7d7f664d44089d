"""Sampling and norms for vLLM on CPU, where its own take a third of a small model's step.

Measured on one core with AVX-512 and 64 sequences of SmolLM2-135M (vocabulary 49,152), per step: vLLM's Gumbel sampler
14 ms, which draws a random number for every entry of the vocabulary; its count of the ranks of the drawn tokens, which
no part here reads, 3 ms; its RMS norms as chains of elementwise operations 3 ms. The matrix products take 32 ms in
bfloat16. What replaces them is exact: the same distribution, the same log-probabilities.

Legend: B sequences, V vocabulary, C entries of one block of the vocabulary, N blocks, M random numbers a draw.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

BLOCK = 256
"""C: the block of a drawn token is found first, then the token within it."""


def register_norms(provider: str) -> None:
    """Offers vLLM's compiled CPU norms to its dispatcher, which knows them for GPUs alone. Call it once a process."""
    from vllm import ir

    if provider in ir.ops.rms_norm.impls:
        return

    def suits(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
        return variance_size is None and weight is not None and weight.dtype == x.dtype and x.is_contiguous()

    def suits_sum(
        x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> bool:
        return suits(x, weight, epsilon, variance_size) and x_residual.is_contiguous()

    @ir.ops.rms_norm.register_impl(provider, supports_args=suits)
    def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
        output = torch.empty_like(x)
        torch.ops._C.rms_norm(output, x, weight, epsilon)
        return output

    @ir.ops.fused_add_rms_norm.register_impl(provider, supports_args=suits_sum, inplace=True)
    def fused_add_rms_norm(
        x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
        return x, x_residual


def use_for(worker: Any) -> None:
    """Runs inside vLLM's worker: puts the sampler below in the place of vLLM's own."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

    sampler = worker.model_runner.sampler
    sampler.topk_topp_sampler.forward = _sampling(apply_top_k_top_p)
    sampler.gather_logprobs = _without_ranks(sampler.gather_logprobs)


def _sampling(filtered: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    def forward(
        logits_BV: Tensor, generators: Mapping[int, torch.Generator], k: Tensor | None, p: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        logprobs_BV = filtered(logits_BV, k, p).log_softmax(-1, dtype=torch.float32)
        noise_BM = torch.empty(len(logprobs_BV), num_noise(logprobs_BV.shape[1]), dtype=torch.float64)
        if len(generators) < len(noise_BM):
            noise_BM.exponential_()
        for index, generator in generators.items():
            noise_BM[index].exponential_(generator=generator)
        return draw(logprobs_BV, noise_BM), logprobs_BV

    return forward


def num_noise(num_tokens: int) -> int:
    """M: random numbers that a draw from V tokens takes, one a block and one an entry of the block."""
    return -(-num_tokens // BLOCK) + BLOCK


def draw(logprobs_BV: Tensor, noise_BM: Tensor) -> Tensor:
    """An exponential race (the Gumbel-max trick): token_B (int64), first among blocks and then within the winner.

    argmax_n mass_n / e_n takes block n with its probability, and so does the race of its entries. `logprobs_BV`
    float32, may be unnormalised or -inf; `noise_BM` float64, from the exponential distribution (see `num_noise`).

    A draw by the inverse of the cumulative distribution would take one random number, but then the rounding of all
    tokens before adds up at the drawn one: two batches that differ in the last digits of their logits draw different
    tokens wherever probabilities are small. In a race only the winner and the second count.
    """
    V = logprobs_BV.shape[1]
    num_whole = V // BLOCK * BLOCK
    probs_BV = logprobs_BV.exp()
    blocks_BN = probs_BV[:, :num_whole].unflatten(1, (-1, BLOCK)).sum(-1).double()
    if num_whole < V:
        blocks_BN = torch.cat([blocks_BN, probs_BV[:, num_whole:].double().sum(-1, keepdim=True)], 1)
    num_blocks = blocks_BN.shape[1]
    block_B1 = (blocks_BN / noise_BM[:, :num_blocks]).argmax(1, keepdim=True)
    # The last block may be shorter: its missing entries have probability 0.
    index_BC = block_B1 * BLOCK + torch.arange(BLOCK)
    entries_BC = probs_BV.gather(1, index_BC.clamp(max=V - 1)).double().masked_fill_(index_BC >= V, 0)
    token_B1 = block_B1 * BLOCK + (entries_BC / noise_BM[:, num_blocks:]).argmax(1, keepdim=True)
    return token_B1.squeeze(1)


def _without_ranks(gather: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM counts, over the whole vocabulary, how many tokens are likelier than the drawn one; nothing here asks."""

    def gather_logprobs(logprobs: Tensor, num_logprobs: int, token_ids: Tensor) -> Any:
        if num_logprobs > 0:
            return gather(logprobs, num_logprobs, token_ids)
        from vllm.v1.outputs import LogprobsTensors

        picked = token_ids.unsqueeze(-1)
        return LogprobsTensors(picked.to(torch.int32), logprobs.gather(-1, picked), torch.zeros_like(token_ids))

    return gather_logprobs
