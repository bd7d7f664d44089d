"""Over how many parts a model can be split."""

import sys
from pathlib import Path

from v05ray.errors import ConfigError
from v05ray.models.huggingface import read_object


def check_parts(model_path: Path, tensor_parallel: int) -> None:
    """Raises `ConfigError` unless the model's attention splits evenly over `tensor_parallel` parts.

    Every part has as many attention heads; it has as many key-value heads too, or shares one with as many others.
    """
    if tensor_parallel == 1:
        return
    if sys.platform != "linux":
        raise ConfigError(
            f"generators.tensor_parallel is {tensor_parallel}, but that works on Linux alone; set it to 1"
        )
    settings = read_object(model_path / "config.json")
    settings = settings.get("text_config", settings)  # of a model that also sees or hears
    heads = settings.get("num_attention_heads", 0)
    shared_heads = settings.get("num_key_value_heads") or heads
    if heads % tensor_parallel or (shared_heads % tensor_parallel and tensor_parallel % shared_heads):
        raise ConfigError(
            f"generators.tensor_parallel is {tensor_parallel}, which does not divide the model's {heads} attention"
            f" heads ({shared_heads} for keys and values) evenly; set it to a divisor of both, or to 1"
        )
