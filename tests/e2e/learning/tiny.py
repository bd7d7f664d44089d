"""A tiny random Qwen3 and hand-made train samples, for learner tests that need a real model but no language."""

import random
from pathlib import Path

import torch

from v05ray.config import ModelConfig
from v05ray.types import TrainSample

VOCABULARY = 101


def save_tiny_qwen3(folder: Path, *, tied: bool) -> Path:
    """Writes a random two-layer model (float32, 64 wide) with a character tokenizer; returns the folder."""
    # Here alone: what a rank imports that only makes samples of this file is looked at.
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    characters = ["<pad>", "<bos>", "<eos>", "<unk>", *map(chr, range(32, 127)), "\n"]
    tokenizer = Tokenizer(models.WordLevel({text: i for i, text in enumerate(characters)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.1,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def model_config(folder: Path, dtype: str = "float32") -> ModelConfig:
    return ModelConfig.model_validate({"path": folder, "dtype": dtype, "max_length": 64})


def make_samples(num_prompts: int, seed: int = 0) -> list[TrainSample]:
    """Groups of 1 to 5 responses over an alphabet of 6, so that many begin alike; some advantages are 0."""
    rng = random.Random(seed)
    samples = []
    for p in range(num_prompts):
        prompt = tuple(rng.randrange(4, VOCABULARY) for _ in range(rng.randint(2, 9)))
        for _ in range(rng.randint(1, 5)):
            length = rng.randint(1, 7)
            advantage = rng.choice([-1.0, -0.5, 0.0, 1.0, 2.0])
            samples.append(
                TrainSample(
                    prompt_id=f"p{p}",
                    prompt_ids=prompt,
                    response_ids=tuple(rng.randrange(4, 10) for _ in range(length)),
                    logprobs=tuple(rng.uniform(-6.0, -3.0) for _ in range(length)),
                    advantages=(advantage,) * length,
                    loss_mask=(True,) * length,
                    policy_version=0,
                )
            )
    return samples
