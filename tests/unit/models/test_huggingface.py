"""What is wrong with a model folder is said of the file it is in, before anything is loaded."""

import json
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from v05ray.errors import ConfigError
from v05ray.job.config_files import make_config
from v05ray.job.model_checks import check_model_folder
from v05ray.machine.object_store import weights_bytes
from v05ray.models.huggingface import (
    check_token_ids,
    checkpoint_shapes,
    context_length,
    is_derived,
    load_tokenizer,
    vocabulary_size,
    weight_files,
)

SETTINGS = {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 128}


def write_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A safetensors file of float32 zeros."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * shape[0] * shape[1]
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards and their index."""
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    for name in ("tokenizer_config.json", "generation_config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    shards = {"model-1-of-2.safetensors": {"a": (2, 3)}, "model-2-of-2.safetensors": {"b": (4, 1)}}
    for name, shapes in shards.items():
        write_tensors(tmp_path / name, shapes)
    weight_map = {tensor: name for name, shapes in shards.items() for tensor in shapes}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return tmp_path


def refused(folder: Path) -> str:
    config = make_config({"model": {"path": str(folder)}, "data": {"train": "jsonl"}})
    with pytest.raises(ConfigError) as caught:
        check_model_folder(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_shards_of_the_index_are_the_model_whatever_lies_beside_them(folder: Path):
    write_tensors(folder / "consolidated.safetensors", {"layers.0.attention.wq.weight": (2, 2)})
    assert [file.name for file in weight_files(folder)] == ["model-1-of-2.safetensors", "model-2-of-2.safetensors"]
    assert checkpoint_shapes(folder) == {"a": (2, 3), "b": (4, 1)}


def test_one_whole_file_needs_no_index(tmp_path: Path):
    write_tensors(tmp_path / "model.safetensors", {"a": (2, 3)})
    assert checkpoint_shapes(tmp_path) == {"a": (2, 3)}


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "tokenizer_config.json",
        "generation_config.json",
        "tokenizer.json",
        "vocab.json",
        "model.safetensors.index.json",
    ],
)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"model_type": "llama", "hidden_si', "is not whole JSON (Unterminated string"),
        ("", "is not whole JSON (Expecting value"),
        ("[1]", "holds a JSON list, not an object"),
        ('{"a": "\xe9', "is not whole JSON ('utf-8' codec"),
    ],
)
def test_a_json_file_that_is_cut_off_is_named(folder: Path, name: str, text: str, said: str):
    (folder / name).write_bytes(text.encode("latin-1"))
    message = refused(folder)
    assert str(folder / name) in message
    assert said in message
    assert message.endswith("copy the model again")


def _cut(file: str, num_bytes: int) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:num_bytes])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut("model-2-of-2.safetensors", -3), "model-2-of-2.safetensors' is not a whole safetensors file (it has"),
        (_cut("model-2-of-2.safetensors", 20), "is not a whole safetensors file (its header would be"),
        (_cut("model-2-of-2.safetensors", 3), "is not a whole safetensors file (unpack requires"),
        (lambda folder: (folder / "model-1-of-2.safetensors").unlink(), "lacks model-1-of-2.safetensors (1 of 2 files"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "has no weight_map"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x"}}'),
            "names '../x', which is not a file of the folder",
        ),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), "neither model.safetensors nor model.safe"),
        (
            lambda folder: write_tensors(folder / "model.safetensors", {"a": (2, 3)}),
            "holds model.safetensors and also model-1-of-2.safetensors, model-2-of-2.safetensors",
        ),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json' names no model_type"),
        (lambda folder: (folder / "config.json").unlink(), "is not a Hugging Face model folder (no config.json)"),
    ],
)
def test_weights_that_are_not_whole_are_named(folder: Path, damage: Callable[[Path], object], said: str):
    damage(folder)
    assert said in refused(folder)


def test_a_file_beside_the_whole_one_that_vllm_would_read_too_is_refused(tmp_path: Path):
    for name in ("model.safetensors", "consolidated.safetensors"):
        write_tensors(tmp_path / name, {"a": (2, 3)})
    with pytest.raises(ConfigError, match=r"holds model\.safetensors and also consolidated\.safetensors: .* move what"):
        weight_files(tmp_path)


def test_sizes_are_read_from_the_names_that_architectures_have():
    assert context_length(SETTINGS) == 4096
    assert context_length({"n_positions": 1024}) == 1024  # GPT-2
    assert context_length({"text_config": {"max_position_embeddings": 8192}}) == 8192
    assert context_length({}) is None
    assert vocabulary_size(SETTINGS) == 128
    assert vocabulary_size({"text_config": {"vocab_size": 7}}) == 7


def test_stored_buffers_are_no_weights():
    assert is_derived("model.layers.3.self_attn.rotary_emb.inv_freq")
    assert is_derived("h.0.attn.bias")  # GPT-2's causal mask
    assert is_derived("transformer.h.0.attn.masked_bias")
    assert not is_derived("transformer.h.0.attn.c_attn.bias")
    assert not is_derived("model.layers.0.self_attn.q_proj.bias")


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused_where_it_matters():
    check_token_ids([("p0", (1, 127)), ("p1", ())], 128)
    check_token_ids([("p0", (1, 128))], None)
    with pytest.raises(ConfigError, match=r"prompt 'p0' has token id 128, the model's embedding has 128 rows"):
        check_token_ids([("p0", (1, 128))], 128)


@pytest.mark.parametrize("damage", [{"added_tokens": 7}, {"model": {"type": "unheard-of"}}])
def test_a_tokenizer_that_says_nothing_usable_is_named(
    random_tiny_model: Path, tmp_path: Path, damage: dict[str, object]
):
    folder = tmp_path / "model"
    shutil.copytree(random_tiny_model, folder)
    whole = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(whole | damage))
    with pytest.raises(ConfigError, match=r"cannot load the tokenizer of .*; copy the model again$"):
        load_tokenizer(folder, trust_remote_code=False)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model-1-of-2.safetensors"])
def test_a_pointer_of_git_lfs_is_named_as_such(folder: Path, name: str):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    assert f"{name} is a Git LFS pointer" in refused(folder)
    if name.endswith(".safetensors"):
        with pytest.raises(ConfigError, match=r"is a Git LFS pointer.*git lfs pull"):
            weights_bytes(folder, "float32")


@pytest.mark.parametrize(
    ("quantised", "said"),
    [
        ({"config.json": SETTINGS | {"quantization_config": {"quant_method": "gptq", "bits": 4}}}, "quantised (gptq)"),
        ({"config.json": SETTINGS | {"text_config": {"quantization_config": {"quant_method": "fp8"}}}}, "(fp8)"),
        ({"quantize_config.json": {"bits": 4}}, "quantised (quantization_config)"),
    ],
)
def test_packed_weights_are_refused_for_what_they_are(folder: Path, quantised: dict[str, object], said: str):
    for name, content in quantised.items():
        (folder / name).write_text(json.dumps(content))
    message = refused(folder)
    assert said in message
    assert "take the model in bfloat16 or float32" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [({"eos_token_id": "</s>"}, "eos_token_id is no number"), ({"temperature": "hot"}, "temperature is no number")],
)
def test_a_generation_config_that_no_engine_would_take_is_named(folder: Path, content: dict[str, object], said: str):
    (folder / "generation_config.json").write_text(json.dumps(content))
    assert said in refused(folder)


def test_what_is_no_model_folder_is_named_for_what_it_is(folder: Path):
    assert "is a file; give the Hugging Face model folder that holds it" in refused(folder / "config.json")
    assert "does not exist (looked from" in refused(folder / "gone")
    assert "copied with `hf download owner/name` first" in refused(Path("owner/name"))
    assert "cannot be read" in refused(Path("/" + "x" * 400))
    (folder / "adapter_config.json").write_text("{}")
    assert "holds an adapter (adapter_config.json); merge it" in refused(folder)


@pytest.mark.parametrize("header", [[1], {"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}, {"a": {}}])
def test_weights_whose_header_is_no_table_of_tensors_are_named_before_they_are_measured(folder: Path, header: object):
    text = json.dumps(header).encode()
    (folder / "model-1-of-2.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(ConfigError, match=r"model-1-of-2\.safetensors is not a whole safetensors file"):
        weights_bytes(folder, "float32")
