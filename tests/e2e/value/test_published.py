"""The published pipeline whole, on a tiny random Qwen3: files on disk to priors."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tabpfn.architectures import tabpfn_v2_5
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, PreTrainedTokenizerFast, Qwen3Config

from v05ray.config import PublishedValueConfig, ValueConfig
from v05ray.types import Prompt, SupportExample
from v05ray.value.adapter import AdapterConfig, TokenAdapter
from v05ray.value.model import ValueModel
from v05ray.value.published import MAX_TOKENS, PublishedBackend, PublishedEmbedding

WORDS = ["[PAD]", "[UNK]", *(f"w{i}" for i in range(40))]
HEAD = tabpfn_v2_5.TabPFNV2p5Config(
    max_num_classes=10, emsize=16, nlayers=2, nhead=2, features_per_group=3, num_thinking_rows=4
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> PublishedValueConfig:
    folder = tmp_path_factory.mktemp("published")
    backbone = folder / "backbone"
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=4096,
    )  # fmt: skip
    config.save_pretrained(backbone)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(backbone)
    model = PublishedEmbedding(AutoModel.from_config(config), TokenAdapter(AdapterConfig(32)))
    head = tabpfn_v2_5.get_architecture(HEAD)
    with torch.no_grad():
        for parameter in [*model.adapter_layer.parameters(), *head.parameters()]:
            parameter.add_(torch.randn_like(parameter) * 0.2)
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"model_state_dict": state}, folder / "v0.pt")
    content = {"state_dict": head.state_dict(), "config": dataclasses.asdict(HEAD), "architecture_name": "base"}
    torch.save(content, folder / "tabpfn.ckpt")
    return PublishedValueConfig(
        checkpoint=folder / "v0.pt", backbone=backbone, head=folder / "tabpfn.ckpt", num_estimators=2
    )


def text(index: int, length: int = 6) -> str:
    rng = np.random.default_rng(index)
    return " ".join(f"w{i}" for i in rng.integers(0, 40, length))


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(f"q{i}", one, (), "", "t") for i, one in enumerate(texts)]


def test_auto_takes_the_published_weights_and_names_their_licence(files: PublishedValueConfig, tmp_path: Path):
    model = ValueModel.load(ValueConfig(published=files, min_support=8), cache=tmp_path / "c.sqlite")
    assert model.choice.startswith("value model: published weights v0.pt")
    assert "non-commercial" in model.choice
    support = [SupportExample(f"s{i}", text(i), 1 - 2 * (i % 2), 0) for i in range(40)]
    first = model.predict(prompts(text(100), text(101)), support, policy_version=3, seed=0)
    again = model.predict(prompts(text(100), text(101)), support, policy_version=3, seed=0)
    assert first == again
    assert first[0].value != first[1].value
    assert all(abs(prior.value) <= 0.95 and prior.origin == "v0" for prior in first)
    assert model.metrics()["v05/value_support_cache_hits"] == 1


def test_columns_do_not_depend_on_the_batch_beside_them(files: PublishedValueConfig):
    backend = PublishedBackend.from_files(
        files.checkpoint, files.backbone, files.head, num_estimators=1, cache=None, num_threads=1
    )
    alone = backend.encoder.encode([text(1)]).vectors_NH[0]
    fresh = PublishedBackend.from_files(
        files.checkpoint, files.backbone, files.head, num_estimators=1, cache=None, num_threads=1
    )
    batched = fresh.encoder.encode([text(2, 50), text(1), text(3, 20)]).vectors_NH[1]
    assert alone.shape == (1008,)
    assert np.allclose(alone, batched, atol=2e-3)  # the cache keeps 16-bit floats


def test_the_end_of_a_long_prompt_is_lost_and_counted(files: PublishedValueConfig):
    backend = PublishedBackend.from_files(
        files.checkpoint, files.backbone, files.head, num_estimators=1, cache=None, num_threads=1
    )
    start = text(5, MAX_TOKENS)
    embeddings = backend.encoder.encode([start, start + " w1 w2", start + " w3"])
    assert embeddings.num_truncated == 2
    assert np.allclose(embeddings.vectors_NH[0], embeddings.vectors_NH[1], atol=1e-3)
