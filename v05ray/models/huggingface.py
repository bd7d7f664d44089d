"""A Hugging Face model folder, read without loading it: its JSON files, and the headers of its weights.

Which safetensors files hold the weights is decided as transformers does: `model.safetensors`, or else the files that
`model.safetensors.index.json` lists. What else lies beside those (another format's `consolidated.safetensors`) is no
part of the model.
"""

import json
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from v05ray.errors import ConfigError
from v05ray.lean_imports import lean_transformers
from v05ray.storage.lfs import check_no_pointer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
JSON_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    INDEX,
)
"""Files that transformers or vLLM parse, where they exist."""
_UNREADABLE = (ValueError, OSError, LookupError, TypeError, AttributeError, ImportError)
"""What transformers raises for tokenizer files that miss something."""
_HEADER_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
_DERIVED = re.compile(r"(rotary_emb\.inv_freq|(^|\.)attn\.(masked_)?bias)$")
"""Buffers that old releases store although they follow from the config: rotary frequencies, GPT-2's causal mask."""


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file of a model folder, `{}` where it does not exist; raises ConfigError unless it holds an object."""
    if not path.is_file():
        return {}
    check_no_pointer(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ConfigError(f"model.path: {str(path)!r} is not whole JSON ({error}); copy the model again") from error
    if not isinstance(found, dict):
        raise ConfigError(
            f"model.path: {str(path)!r} holds a JSON {type(found).__name__}, not an object; copy the model again"
        )
    return found


def read_settings(folder: Path) -> dict[str, Any]:
    """`config.json`; raises ConfigError where the folder has none."""
    _check_is_model(folder)
    settings = read_object(folder / "config.json")
    if not isinstance(settings.get("model_type"), str):
        raise ConfigError(f"model.path: {str(folder / 'config.json')!r} names no model_type; copy the model again")
    return settings


def _check_is_model(folder: Path) -> None:
    """Raises ConfigError where the folder is none, or that of something else than a model which can be trained."""
    try:
        kind = "a file" if folder.is_file() else "a folder" if folder.is_dir() else None
    except OSError as error:
        raise ConfigError(f"model.path {str(folder)!r:.200} cannot be read: {error.strerror or error}") from error
    if kind is None:
        name = str(folder)
        hub = "" if _HUB_NAME.fullmatch(name) is None else f"; a hub's model is copied with `hf download {name}` first"
        raise ConfigError(
            f"model.path {name!r} is not a Hugging Face model folder: it does not exist (looked from {Path.cwd()}){hub}"
        )
    if kind == "a file":
        raise ConfigError(f"model.path {str(folder)!r} is a file; give the Hugging Face model folder that holds it")
    if (folder / "adapter_config.json").is_file():
        # transformers would put it on the model as it loads, vLLM would not.
        raise ConfigError(
            f"model.path {str(folder)!r} holds an adapter (adapter_config.json); merge it into its model with peft's "
            "merge_and_unload and save that"
        )
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.path {str(folder)!r} is not a Hugging Face model folder (no config.json); "
            "`python -m v05ray.models smollm2 DIR` and `... tiny DIR` make small ones"
        )


_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_not_quantised(folder: Path) -> None:
    """Raises ConfigError for packed weights (GPTQ, AWQ, FP8, ...), which cannot be trained."""
    settings = read_settings(folder)
    packed = settings.get("quantization_config") or _of_text(settings).get("quantization_config")
    packed = packed or read_object(folder / "quantize_config.json") or read_object(folder / "quant_config.json")
    if packed:
        method = packed.get("quant_method") if isinstance(packed, Mapping) else None
        raise ConfigError(
            f"model.path {str(folder)!r} is quantised ({method or 'quantization_config'}), and packed weights cannot "
            "be trained; take the model in bfloat16 or float32"
        )


def check_generation(folder: Path) -> None:
    """Raises ConfigError for a `generation_config.json` that transformers or vLLM would stumble over at the start."""
    file = folder / "generation_config.json"
    settings = read_object(file)
    for name in ("eos_token_id", "pad_token_id", "bos_token_id"):
        value = settings.get(name)
        if any(not isinstance(one, int) for one in (value if isinstance(value, list) else [value]) if one is not None):
            raise ConfigError(f"model.path: {str(file)!r}: {name} is no number: {value!r:.80}")
    for name in ("temperature", "top_p", "top_k", "repetition_penalty"):
        value = settings.get(name)
        if value is not None and not isinstance(value, int | float):
            raise ConfigError(f"model.path: {str(file)!r}: {name} is no number: {value!r:.80}")


def _of_text(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part, of a model that also sees or hears."""
    nested = settings.get("text_config")
    return nested if isinstance(nested, Mapping) else settings


def context_length(settings: Mapping[str, Any]) -> int | None:
    """Most positions the model knows; None where its `config.json` does not say."""
    text = _of_text(settings)
    found = text.get("max_position_embeddings") or text.get("n_positions")
    return found if isinstance(found, int) else None


def vocabulary_size(settings: Mapping[str, Any]) -> int | None:
    """Rows of the embedding; None where `config.json` does not say."""
    found = _of_text(settings).get("vocab_size")
    return found if isinstance(found, int) else None


def check_json(folder: Path) -> None:
    """Raises ConfigError where a JSON file that a run reads is cut off or is not an object."""
    for name in JSON_FILES:
        read_object(folder / name)


def weight_files(folder: Path) -> list[Path]:
    """The model's safetensors files, by name; raises ConfigError where there are none or the folder is ambiguous."""
    whole, index = folder / WEIGHTS, folder / INDEX
    present = {file.name for file in folder.glob("*.safetensors")}
    listed = _listed(index) if index.is_file() else set()
    if listed and (missing := sorted(listed - present)):
        raise ConfigError(
            f"model.path: {str(folder)!r} lacks {', '.join(missing[:3])} ({len(missing)} of {len(listed)} files that "
            f"{INDEX} lists); copy the model again"
        )
    if whole.is_file():
        # transformers reads this file alone, vLLM every file or those of the index.
        if others := sorted((listed or present) - {WEIGHTS}):
            raise ConfigError(
                f"model.path: {str(folder)!r} holds {WEIGHTS} and also {', '.join(others[:3])}: transformers would "
                "read the one and vLLM the others; move what is not the model elsewhere"
            )
        return [whole]
    if listed:
        return [folder / name for name in sorted(listed)]
    if present:
        raise ConfigError(
            f"model.path: {str(folder)!r} holds {', '.join(sorted(present)[:3])} but neither {WEIGHTS} nor {INDEX}, by "
            "which transformers finds the weights; save the model with save_pretrained"
        )
    pickled = sorted(file.name for end in ("bin", "pt", "pth", "ckpt") for file in folder.glob(f"*.{end}"))
    found = f"{', '.join(pickled)}: pickles, which can run code and are not read" if pickled else "no weights"
    if not pickled and (gguf := sorted(file.name for file in folder.glob("*.gguf"))):
        found = f"{gguf[0]}, which is of another engine"
    raise ConfigError(f"model.path {str(folder)!r} holds {found}; save the model as safetensors")


def _listed(index: Path) -> set[str]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise ConfigError(f"model.path: {str(index)!r} has no weight_map of tensors to files; copy the model again")
    names = {str(name) for name in weight_map.values()}
    if outside := sorted(name for name in names if Path(name).name != name):
        raise ConfigError(f"model.path: {str(index)!r} names {outside[0]!r}, which is not a file of the folder")
    return names


def checkpoint_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the model, from the headers of its files alone.

    Raises ConfigError for a folder without safetensors and for a file that is cut off.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        shapes |= _header(file)
    return shapes


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    """Format: u64 length n, n bytes of JSON {name: {dtype, shape, data_offsets: [start, end]}}, then the data."""
    check_no_pointer(file)
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            (length,) = _HEADER_LENGTH.unpack(opened.read(_HEADER_LENGTH.size))
            if length > min(size, _MAX_HEADER_BYTES):
                raise ValueError(f"its header would be {length} bytes long")
            header = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        expected = _HEADER_LENGTH.size + length + end
        if expected != size:
            raise ValueError(f"it has {size} bytes, its header says {expected}")
        return {name: tuple(entry["shape"]) for name, entry in header.items()}
    except (struct.error, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"model.path: {str(file)!r} is not a whole safetensors file ({error}); copy it again"
        ) from error


def is_derived(name: str) -> bool:
    """Whether a stored tensor is a buffer that follows from the config: it is neither trained nor sent."""
    return _DERIVED.search(name) is not None


def load_tokenizer(folder: Path, *, trust_remote_code: bool) -> Any:
    """transformers' tokenizer of the folder alone; raises ConfigError where its files make none."""
    lean_transformers()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        # The tokenizers library raises Exception itself, for any file that it cannot make sense of.
        if type(error) is not Exception and not isinstance(error, _UNREADABLE):
            raise
        text = " ".join(str(error).split())
        raise ConfigError(
            f"model.path: transformers cannot load the tokenizer of {str(folder)!r} ({type(error).__name__}: {text}); "
            "copy the model again"
        ) from error


def check_token_ids(prompts: Iterable[tuple[str, tuple[int, ...]]], vocab_size: int | None) -> None:
    """Raises ConfigError for a prompt (id, token ids) with a token that the embedding has no row for."""
    if vocab_size is None:
        return
    for prompt_id, token_ids in prompts:
        largest = max(token_ids, default=0)
        if largest >= vocab_size:
            raise ConfigError(
                f"prompt {prompt_id!r} has token id {largest}, the model's embedding has {vocab_size} rows: the "
                "tokenizer is not this model's; copy the model again with its own tokenizer, or resize the embedding"
            )
