"""Random small models, one for each row of docs/models.md: every structure that the table says is computed exactly."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from v05ray.models import tiny

COMMON = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.1,
}
EXPERTS = {"num_experts_per_tok": 2, "head_dim": 32}

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"vocab_size": 131, "attention_bias": True, "mlp_bias": True, "attention_dropout": 0.1}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "mistral": ("mistral", {"head_dim": 32, "sliding_window": None}),
    "mistral, window": ("mistral", {"head_dim": 32, "sliding_window": 4}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 16,
            "sliding_window": 4,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 2.0,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {"head_dim": 32, "query_pre_attn_scalar": 16, "sliding_window": 4, "sliding_window_pattern": 2},
    ),
    "phi": ("phi", {"num_key_value_heads": 2, "partial_rotary_factor": 0.5, "resid_pdrop": 0.1}),
    "phi3": ("phi3", {"sliding_window": None, "resid_pdrop": 0.1}),
    "phi3, window": ("phi3", {"sliding_window": 4}),
    "granite": (
        "granite",
        {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.1},
    ),
    "cohere": ("cohere", {"logit_scale": 0.25}),
    "olmo2": ("olmo2", {}),
    "gpt2": ("gpt2", {"n_positions": 256, "n_embd": 64, "n_layer": 2, "n_head": 2}),
    "mixtral": (
        "mixtral",
        {**EXPERTS, "num_local_experts": 4, "sliding_window": None, "router_jitter_noise": 0.1},
    ),
    "qwen3_moe": ("qwen3_moe", {**EXPERTS, "num_experts": 4, "moe_intermediate_size": 32, "norm_topk_prob": True}),
}
"""By the name in the table: model_type, and what differs from `COMMON`."""


def save(name: str, folder: Path) -> Path:
    """Writes a random float32 model of the row, with a tokenizer of 100 characters; returns the folder."""
    kind, options = ROWS[name]
    settings = {**COMMON, **options}
    if kind == "gpt2":  # has names of its own
        settings = {key: settings[key] for key in settings if key not in COMMON or key.endswith(("_id", "_size"))}
        del settings["hidden_size"], settings["intermediate_size"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
        for parameter in model.parameters():
            if parameter.ndim == 1:  # else a bias that is left out would not be seen
                torch.nn.init.normal_(parameter, parameter.mean().item(), 0.1)
    model.float().save_pretrained(folder)
    tiny.character_tokenizer().save_pretrained(folder)
    return folder
