"""The policy as a Hugging Face folder: its settings, which are those it was loaded with, and its weights."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from v05ray.config import ModelConfig
from v05ray.errors import ConfigError
from v05ray.models.huggingface import load_tokenizer
from v05ray.storage.durable import permit_by_umask

MAX_SHARD = "5GB"
"""Weights beyond this are spread over several files, with an index."""


def check_export(model: Any, config: ModelConfig) -> None:
    """Writes everything but the weights to a folder that is removed again; raises ConfigError where that fails.

    Found before the first step, and not by the run's last act.
    """
    with tempfile.TemporaryDirectory(prefix="v05ray-export-") as folder:
        try:
            write_settings(Path(folder), model, config)
        except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
            raise ConfigError(
                f"model.path: a trained {type(model).__name__} could not be exported "
                f"({type(error).__name__}: {error}); repair the files of {str(config.path)!r}"
            ) from error


def write_settings(folder: Path, model: Any, config: ModelConfig) -> None:
    """Config, generation config, tokenizer, and code of the model's own where that was allowed."""
    from transformers import AutoConfig

    # Read again: the live one has its dropout switched off, which is of the learner and not of the model.
    settings: Any = AutoConfig.from_pretrained(config.path, trust_remote_code=config.trust_remote_code)
    settings.dtype, settings.architectures = config.dtype, [type(model).__name__]
    if model.is_remote_code():
        from transformers.dynamic_module_utils import custom_object_save

        custom_object_save(model, folder, config=settings)
    settings.save_pretrained(folder)
    generation = config.path / "generation_config.json"
    if generation.is_file():
        # As it is: transformers would refuse to write a temperature beside no do_sample, which many releases have.
        shutil.copyfile(generation, folder / generation.name)
    load_tokenizer(config.path, trust_remote_code=config.trust_remote_code).save_pretrained(folder)


def write_model(folder: Path, model: Any, config: ModelConfig, state: Mapping[str, Tensor]) -> None:
    """The whole folder, its files with the umask's permissions; `state` holds the weights under the folder's names."""
    from huggingface_hub import save_torch_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    write_settings(folder, model, config)
    save_torch_state_dict(dict(state), folder, max_shard_size=MAX_SHARD, metadata={"format": "pt"})
    permit_by_umask(folder)
