"""The policy as the learner sees it: tokens in, log-probabilities and entropies out.

Legend: B rows, L padded row length, N response tokens, D hidden size.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from v05ray.config import ModelConfig
from v05ray.learning.batching import MicroBatch, collate, make_rows
from v05ray.learning.head import LogprobHead
from v05ray.registry import ConfigError
from v05ray.types import TrainSample

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Policy(nn.Module):
    """A Hugging Face causal language model whose output projection is a `LogprobHead`."""

    def __init__(self, model: Any, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(
        self,
        input_ids_BL: Tensor,
        position_ids_BL: Tensor,
        mask_B1LL: Tensor | None,
        predictor_N: Tensor,
        target_N: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(logp_N, entropy_N), float32, of the targets at the predictor positions, at the sampling temperature."""
        hidden_BLD = self.model.get_decoder()(
            input_ids=input_ids_BL, position_ids=position_ids_BL, attention_mask=mask_B1LL, use_cache=False
        ).last_hidden_state
        hidden_ND = hidden_BLD.flatten(0, 1)[predictor_N]
        return self.model.get_output_embeddings()(hidden_ND, target_N, self.temperature)


def arguments(batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    """What `Policy.forward` takes, in order."""
    return batch.input_ids_BL, batch.position_ids_BL, batch.mask_B1LL, batch.predictor_N, batch.target_N


def check_folder(path: Path) -> None:
    """Raises ConfigError unless `path` looks like a Hugging Face model folder."""
    if not (path / "config.json").is_file():
        raise ConfigError(
            f"model.path: no config.json in {str(path)!r}; give a Hugging Face folder (config, safetensors)"
        )


def load_policy(config: ModelConfig, temperature: float, *, share_prefix: bool, checkpointing: bool) -> Policy:
    """The policy in training mode, on the CPU, its parameters in `config.dtype`.

    Raises ConfigError for a folder that is not there and for a model this learner would compute wrongly.
    """
    from transformers import AutoModelForCausalLM

    check_folder(config.path)
    model = AutoModelForCausalLM.from_pretrained(
        config.path,
        dtype=DTYPES[config.dtype],
        attn_implementation="sdpa",
        trust_remote_code=config.trust_remote_code,
    )
    projection = model.get_output_embeddings()
    if not isinstance(projection, nn.Linear) or projection.bias is not None:
        raise ConfigError(
            f"model.path: {type(model).__name__} in {str(config.path)!r} has no plain output projection without bias; "
            "the learner cannot compute its log-probabilities"
        )
    reference = _reference_logprobs(model.eval(), temperature)
    model.set_output_embeddings(LogprobHead(projection))
    policy = Policy(model, temperature)
    _check_logprobs(policy, reference, share_prefix=share_prefix)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return policy.train()


_PROBE = tuple(
    TrainSample("probe", (3, 5, 7, 11, 13), response, (0.0,) * 4, (1.0,) * 4, 0)
    for response in ((2, 4, 6, 8), (2, 4, 9, 1), (12, 4, 6, 8))
)
"""Three sequences with a common prompt, two of them with a common beginning: small ids, so any vocabulary has them."""


@torch.no_grad()
def _reference_logprobs(model: Any, temperature: float) -> Tensor:
    """[3, 4] log-probabilities of the probe by the model's own forward pass, one sequence a row."""
    ids = torch.tensor([sample.prompt_ids + sample.response_ids for sample in _PROBE])
    logits = model(input_ids=ids, use_cache=False).logits[:, 4:-1].float() / temperature
    return torch.log_softmax(logits, -1).gather(2, ids[:, 5:, None]).squeeze(2)


@torch.no_grad()
def _check_logprobs(policy: Policy, reference: Tensor, *, share_prefix: bool) -> None:
    """Refuses models that scale their logits, or that do not honour positions and masks (so that packing is wrong)."""
    # Rounding in bfloat16 moves log-probs by some .05; what is checked for moves them by several tenths or more.
    tolerance = 1e-3 if next(policy.parameters()).dtype == torch.float32 else 0.3
    batch = collate(make_rows(_PROBE, 1 << 20, share_prefix=share_prefix), "token_mean")
    logprobs, _ = policy(*arguments(batch))
    error = (logprobs.view(3, 4) - reference).abs().max().item()
    if not error <= tolerance:
        name = type(policy.model).__name__
        advice = "; set learner.share_prefix=false" if share_prefix else ": its logits are transformed after projection"
        raise ConfigError(
            f"model.path: the learner's log-probabilities differ from those of {name} itself by {error:.3g}{advice}"
        )
