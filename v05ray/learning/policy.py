"""The policy as the learner sees it: tokens in, log-probabilities and entropies out.

Legend: B rows, L padded row length, U positions that predict, N response tokens, D hidden size.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from v05ray.config import ModelConfig
from v05ray.learning import kernels
from v05ray.learning.batching import MicroBatch, collate, make_rows
from v05ray.learning.head import LogprobHead
from v05ray.registry import ConfigError
from v05ray.types import TrainSample

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Policy(nn.Module):
    """A Hugging Face causal language model whose output projection is a `LogprobHead`."""

    def __init__(self, model: Any, temperature: float, *, cpu_kernels: bool = False) -> None:
        """Takes the model over: its projection, and with `cpu_kernels` its attention and norms, are replaced."""
        super().__init__()
        model.set_output_embeddings(LogprobHead(model.get_output_embeddings()))
        if cpu_kernels:
            kernels.use_for(model)
        self.model = model
        self.temperature = temperature
        self._on_cpu_kernels = cpu_kernels

    def forward(
        self,
        input_ids_BL: Tensor,
        position_ids_BL: Tensor,
        mask_B1LL: Tensor | None,
        predictor_U: Tensor,
        position_N: Tensor,
        target_N: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(logp_N, entropy_N), float32, of the targets at the predicting positions, at the sampling temperature."""
        length = input_ids_BL.shape[1]
        if self._on_cpu_kernels and length <= kernels.MAX_DENSE_LENGTH:
            mask_B1LL = kernels.additive_mask(mask_B1LL, length, self.model.dtype)
        hidden_BLD = self.model.get_decoder()(
            input_ids=input_ids_BL, position_ids=position_ids_BL, attention_mask=mask_B1LL, use_cache=False
        ).last_hidden_state
        hidden_UD = hidden_BLD.flatten(0, 1)[predictor_U]
        return self.model.get_output_embeddings()(hidden_UD, position_N, target_N, self.temperature)


def arguments(batch: MicroBatch) -> tuple[Tensor | None, ...]:
    """What `Policy.forward` takes, in order."""
    return (
        batch.input_ids_BL,
        batch.position_ids_BL,
        batch.mask_B1LL,
        batch.predictor_U,
        batch.position_N,
        batch.target_N,
    )


def check_folder(path: Path) -> None:
    """Raises ConfigError unless `path` looks like a Hugging Face model folder."""
    if not (path / "config.json").is_file():
        raise ConfigError(
            f"model.path: no config.json in {str(path)!r}; give a Hugging Face folder (config, safetensors)"
        )


def load_policy(
    config: ModelConfig, temperature: float, device: torch.device, *, share_prefix: bool, checkpointing: bool
) -> Policy:
    """The policy in training mode, made for `device` but still on the CPU, its parameters in `config.dtype`.

    Raises ConfigError for a folder that is not there and for a model this learner would compute wrongly.
    """
    from transformers import AutoModelForCausalLM

    check_folder(config.path)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            config.path,
            dtype=DTYPES[config.dtype],
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=config.trust_remote_code,
        )
    except ValueError as error:
        raise ConfigError(f"model.path: transformers cannot load {str(config.path)!r}: {error}") from error
    _check_projection(model.eval())
    cpu_kernels = device.type == "cpu" and config.dtype == "bfloat16" and kernels.suit(model)
    policy = Policy(model, temperature, cpu_kernels=cpu_kernels)
    if share_prefix:
        _check_sharing(policy, config)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return policy.train()


@torch.no_grad()
def _check_projection(model: Any) -> None:
    """Refuses models whose logits are anything but the last hidden state times the output weights."""
    projection, name = model.get_output_embeddings(), type(model).__name__
    if not isinstance(projection, nn.Linear) or projection.bias is not None:
        raise ConfigError(f"model.path: {name} has no plain output projection without bias; use a model that has")
    ids = torch.tensor([[3, 5, 7, 11, 13, 2]])  # any vocabulary has them
    logits = model(input_ids=ids, use_cache=False).logits
    ours = projection(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
    error, size = (logits - ours).abs().max().item(), logits.abs().max().item()
    if not error <= 1e-2 * size:
        raise ConfigError(
            f"model.path: {name} transforms its logits after the projection (by up to {error:.3g} of {size:.3g}); "
            "use a model that does not"
        )


def _probe(responses: tuple[tuple[int, ...], ...]) -> MicroBatch:
    """Responses of one prompt in one row."""
    samples = [
        TrainSample("probe", (3, 5, 7, 11, 13), response, (0.0,) * len(response), (1.0,) * len(response), 0)
        for response in responses
    ]
    return collate(make_rows(samples, 1 << 20, share_prefix=True), "token_mean")


@torch.no_grad()
def _check_sharing(policy: Policy, config: ModelConfig) -> None:
    """Refuses prefix sharing for models that do not go by the given mask and positions.

    Both tests hold in any precision: a branch must not change with what its sibling says, and must change with its
    position ids.
    """
    name, fix = type(policy.model).__name__, "set learner.share_prefix=false"
    window = kernels.attention_window(policy.model.config)
    if window is not None and window < config.max_length:
        raise ConfigError(
            f"learner.share_prefix: {name} attends within a window of {window} tokens, which a shared prefix cannot "
            f"express up to model.max_length={config.max_length}; {fix}"
        )
    branch = (12, 4, 6, 8)
    batches = [_probe((sibling, branch)) for sibling in ((2, 4, 6), (1, 9, 7))]
    ours, other = (policy(*arguments(batch))[0][-len(branch) :] for batch in batches)
    if not torch.allclose(ours, other, rtol=0, atol=1e-3):
        raise ConfigError(f"learner.share_prefix: {name} lets responses see one another despite the mask; {fix}")
    in_order = torch.arange(batches[0].position_ids_BL.shape[1]).unsqueeze(0)
    moved = policy(*arguments(replace(batches[0], position_ids_BL=in_order)))[0][-len(branch) :]
    if torch.equal(ours, moved):
        raise ConfigError(f"learner.share_prefix: {name} ignores position ids; {fix}")
