"""A model folder to the policy that is trained: loaded, and checked against what the model itself computes."""

import torch

from v05ray.config import ModelConfig
from v05ray.errors import ConfigError
from v05ray.lean_imports import lean_transformers
from v05ray.learning import architecture, kernels
from v05ray.learning.checks import checked_policy
from v05ray.learning.policy import DTYPES, Policy, check_folder


def load_policy(
    config: ModelConfig, temperature: float, device: torch.device, *, share_prefix: bool, checkpointing: bool
) -> Policy:
    """The policy, made for `device` but still on the CPU, its parameters in `config.dtype`.

    Raises ConfigError for a folder that is not there and for a model this learner would compute wrongly.
    """
    lean_transformers()
    from transformers import AutoConfig, AutoModelForCausalLM

    check_folder(config.path)
    try:
        settings = AutoConfig.from_pretrained(config.path, trust_remote_code=config.trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(
            config.path,
            dtype=DTYPES[config.dtype],
            attn_implementation=architecture.attention_implementation(settings.get_text_config()),
            use_safetensors=True,
            trust_remote_code=config.trust_remote_code,
        )
    except ValueError as error:
        raise ConfigError(f"model.path: transformers cannot load {str(config.path)!r}: {error}") from error
    return checked_policy(
        model,
        temperature,
        share_prefix=share_prefix,
        checkpointing=checkpointing,
        cpu_kernels=device.type == "cpu" and config.dtype == "bfloat16" and kernels.suit(model),
    )
