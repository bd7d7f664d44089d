"""The policy as the learner sees it: tokens in, log-probabilities and entropies out.

Legend: B rows, L padded row length, U positions that predict, N response tokens, D hidden size.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from v05ray.errors import ConfigError
from v05ray.learning import architecture, kernels
from v05ray.learning.batching import MicroBatch
from v05ray.learning.head import LogitsForm, LogprobHead

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Policy(nn.Module):
    """A Hugging Face causal language model whose output projection is a `LogprobHead`; never with dropout."""

    def __init__(
        self, model: Any, temperature: float, *, cpu_kernels: bool = False, checkpointing: bool = False
    ) -> None:
        """Takes the model over: its projection, and with `cpu_kernels` its attention and norms, are replaced."""
        super().__init__()
        self._settings = model.config.get_text_config()
        model.set_output_embeddings(LogprobHead(model.get_output_embeddings(), LogitsForm.of(self._settings)))
        if cpu_kernels:
            kernels.use_for(model)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model = model
        self.temperature = temperature
        self._on_cpu_kernels, self._checkpointing = cpu_kernels, checkpointing
        self.train(False)

    def train(self, mode: bool = True) -> "Policy":
        """Both modes compute the same: see `architecture.hold_still`."""
        super().train(False)
        architecture.hold_still(self.model, checkpointing=self._checkpointing)
        return self

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
        hidden_BLD = self.model.get_decoder()(
            input_ids=input_ids_BL,
            position_ids=position_ids_BL,
            attention_mask=self._mask(mask_B1LL, position_ids_BL),
            use_cache=False,
        ).last_hidden_state
        hidden_UD = hidden_BLD.flatten(0, 1)[predictor_U]
        return self.model.get_output_embeddings()(hidden_UD, position_N, target_N, self.temperature)

    def _mask(self, mask_B1LL: Tensor | None, depth_BL: Tensor) -> Any:
        """The batch's mask as the model takes it; None where transformers' own causal (and windowed) one will do."""
        length = depth_BL.shape[1]
        if self._on_cpu_kernels and length <= kernels.MAX_DENSE_LENGTH:
            return kernels.additive_mask(mask_B1LL, length, self.model.dtype)
        if mask_B1LL is None:
            return None
        masks = architecture.tree_masks(self._settings, mask_B1LL, depth_BL)
        if architecture.attention_implementation(self._settings) != "eager":
            return masks
        if isinstance(masks, Tensor):
            return architecture.additive(masks, self.model.dtype)
        return {kind: architecture.additive(mask, self.model.dtype) for kind, mask in masks.items()}


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
