"""Sharing prefixes changes which hidden states are computed how often, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tests.e2e.learning.tiny import VOCABULARY, make_samples, model_config
from v05ray.errors import ConfigError
from v05ray.learning import kernels
from v05ray.learning.batching import collate, make_rows
from v05ray.learning.loading import load_policy
from v05ray.learning.policy import Policy, arguments
from v05ray.types import TrainSample

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def run(
    policy: Policy, samples: list[TrainSample], *, share_prefix: bool
) -> tuple[dict[tuple[int, ...], list[float]], dict[str, torch.Tensor]]:
    """Log-probabilities by sequence, and gradients of a loss that gives every token another weight."""
    policy.zero_grad()
    rows = make_rows(samples, 10_000, share_prefix=share_prefix)
    batch = collate(rows, "token_mean")
    logp_N, _ = policy(*arguments(batch))
    (logp_N * torch.sin(batch.target_N + 10 * batch.advantages_N)).sum().backward()
    in_order = [sample for row in rows for sample in row.samples]
    pieces = logp_N.detach().split([len(sample.response_ids) for sample in in_order])
    logprobs = {(*s.prompt_ids, -1, *s.response_ids): piece.tolist() for s, piece in zip(in_order, pieces, strict=True)}
    return logprobs, {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
WINDOWED = {
    "mistral": {"num_hidden_layers": 2, "sliding_window": 3, "head_dim": 16},
    "qwen2": {"num_hidden_layers": 2, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "gemma2": {
        "num_hidden_layers": 2,
        "sliding_window": 3,
        "head_dim": 16,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
}
"""One window for all layers; layers with and without; the same with softcaps."""


@pytest.mark.parametrize("architecture", ["qwen3", "llama", *WINDOWED])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_logprobs_and_gradients_equal_the_unpacked_path(
    tied_folder: Path, llama_folder: Path, tmp_path: Path, architecture: str, checkpointing: bool
) -> None:
    if architecture in WINDOWED:
        options = {"initializer_range": 0.2, "pad_token_id": 0, **SMALL, **WINDOWED[architecture]}
        folder = tiny_of_type(tmp_path, architecture, **options)
    else:
        folder = tied_folder if architecture == "qwen3" else llama_folder
    policy = load_policy(model_config(folder), 0.8, CPU, share_prefix=True, checkpointing=checkpointing)
    samples = make_samples(12)
    packed, packed_gradients = run(policy, samples, share_prefix=True)
    assert len(make_rows(samples, 10_000, share_prefix=True)) < len(samples) / 2
    packed_gradients = {name: gradient.clone() for name, gradient in packed_gradients.items()}
    plain, plain_gradients = run(policy, samples, share_prefix=False)
    assert packed.keys() == plain.keys()
    for key, logprobs in plain.items():
        assert packed[key] == pytest.approx(logprobs, abs=1e-5)
    assert packed_gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_a_model_that_transforms_its_logits_is_refused(tmp_path: Path) -> None:
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    folder = tiny_of_type(tmp_path, "bert", is_decoder=True, initializer_range=1.0, **small)
    with pytest.raises(ConfigError, match="BertLMHeadModel transforms its logits"):
        load_policy(model_config(folder), 1.0, CPU, share_prefix=False, checkpointing=False)


def tiny_of_type(folder: Path, model_type: str, **options: Any) -> Path:
    config = AutoConfig.for_model(model_type, vocab_size=VOCABULARY, **options)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_models_that_cannot_share_are_refused_only_if_they_are_to_share(tmp_path: Path) -> None:
    recurrent = tiny_of_type(
        tmp_path / "qwen3_next",
        "qwen3_next",
        num_hidden_layers=2,
        layer_types=["linear_attention", "full_attention"],
        linear_num_value_heads=2,
        linear_num_key_heads=2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        head_dim=16,
        **SMALL,
    )
    with pytest.raises(ConfigError, match="Qwen3NextForCausalLM lets responses see one another"):
        load_policy(model_config(recurrent), 1.0, CPU, share_prefix=True, checkpointing=False)
    load_policy(model_config(recurrent), 1.0, CPU, share_prefix=False, checkpointing=False)


def test_a_model_without_sdpa_is_refused(tmp_path: Path) -> None:
    folder = tiny_of_type(tmp_path, "mamba", hidden_size=32, num_hidden_layers=1, state_size=8)
    with pytest.raises(ConfigError, match="transformers cannot load"):
        load_policy(model_config(folder), 1.0, CPU, share_prefix=False, checkpointing=False)


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_the_cpu_kernels_change_nothing(
    tied_folder: Path, llama_folder: Path, architecture: str, share_prefix: bool
) -> None:
    folder = tied_folder if architecture == "qwen3" else llama_folder
    samples = make_samples(8)
    results = []
    for cpu_kernels in (False, True):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
        assert kernels.suit(model)
        results.append(run(Policy(model, 0.8, cpu_kernels=cpu_kernels), samples, share_prefix=share_prefix))
    (plain, plain_gradients), (ours, our_gradients) = results
    for key, logprobs in plain.items():
        assert ours[key] == pytest.approx(logprobs, abs=1e-5)
    assert our_gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, atol=1e-4, rtol=1e-4, msg=name)
