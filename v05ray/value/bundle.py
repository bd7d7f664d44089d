"""One safetensors file that holds a whole embedded V0: feature map, head and calibration, strictly checked.

The header says what made it (`BundleInfo`), under the one key `v05ray`: safetensors writes several keys in no fixed
order, and equal bundles should be equal files. The tensors are `features.*` and `head.*` in float32.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from v05ray.errors import ConfigError
from v05ray.value.features import STATISTICS, FeatureMap
from v05ray.value.head import HeadConfig, ValueHead, head_config_from

FORMAT_VERSION = 2
HEADER_KEY = "v05ray"
BUILT_IN = Path(__file__).parent / "bundle" / "v0-minilm.safetensors"
"""The bundle that the package ships."""


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """The header of a bundle: what it was made with, and its shapes."""

    backbone: str
    """Model id of the text encoder."""
    embedding_width: int
    """H."""
    num_projected: int
    """P."""
    bottleneck: int
    head: HeadConfig
    calibration: tuple[float, float]
    """(a, b) of the Platt scaling p = sigmoid(a * margin + b); (1, 0) changes nothing."""
    hard_labels: bool
    """Support labels are thresholded at .5 before the head sees them."""
    seed: int
    command: str
    """The command line that made it."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Free facts: versions, losses, scores."""


def save_bundle(path: Path, features: FeatureMap, head: ValueHead, info: BundleInfo) -> None:
    """Writes atomically: a reader sees the old file or the whole new one."""
    tensors = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    tensors |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    tensors = {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {"format": FORMAT_VERSION, "statistics": STATISTICS, "info": dataclasses.asdict(info)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, str(partial), metadata={HEADER_KEY: json.dumps(header, sort_keys=True)})
    partial.replace(path)


def load_bundle(path: Path) -> tuple[FeatureMap, ValueHead, BundleInfo]:
    """Reads and checks everything: format, statistics, every tensor's name, shape and finiteness.

    Both modules come in evaluation mode. Raises `ConfigError` that names the file and what does not match.
    """
    if not path.is_file():
        raise ConfigError(f"value bundle {path} does not exist; make one with `v05ray value pretrain --out {path}`")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            header = json.loads((file.metadata() or {}).get(HEADER_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ConfigError(f"value bundle {path} is not a safetensors file: {error}") from error
    version = header.get("format")
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"value bundle {path} has format {version}, this version of v05ray reads {FORMAT_VERSION}; make a new one "
            "with `v05ray value pretrain`"
        )
    statistics = header.get("statistics")
    if statistics != list(STATISTICS):
        raise ConfigError(f"value bundle {path} was made for text statistics {statistics}, expected {list(STATISTICS)}")
    try:
        values = dict(header["info"])
        values["head"] = head_config_from(values["head"])
        values["calibration"] = tuple(values["calibration"])
        info = BundleInfo(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"value bundle {path} has an unreadable header: {error}") from error
    features = FeatureMap(info.embedding_width, info.num_projected, bottleneck=info.bottleneck)
    if features.num_columns != info.head.num_columns:
        raise ConfigError(
            f"value bundle {path}: the features have {features.num_columns} columns, its head takes "
            f"{info.head.num_columns}"
        )
    head = ValueHead(info.head)
    strict_load(features, _under(tensors, "features."), path)
    strict_load(head, _under(tensors, "head."), path)
    foreign = [name for name in tensors if not name.startswith(("features.", "head."))]
    if foreign:
        raise ConfigError(f"value bundle {path} holds unknown tensors: {', '.join(sorted(foreign))}")
    return features.eval(), head.eval(), info


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def strict_load(module: nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Loads `state`; raises `ConfigError` that names missing, extra, misshapen or non-finite tensors."""
    own = module.state_dict()
    missing = sorted(set(own) - set(state))
    extra = sorted(set(state) - set(own))
    common = sorted(set(own) & set(state))
    misshapen = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in common
        if state[name].shape != own[name].shape
    ]
    broken = [name for name in common if state[name].is_floating_point() and not bool(state[name].isfinite().all())]
    problems = [
        f"{kind}: {', '.join(names)}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", extra),
            ("misshapen", misshapen),
            ("with NaN or infinity", broken),
        )
        if names
    ]
    if problems:
        raise ConfigError(f"{path} does not fit {type(module).__name__}: {'; '.join(problems)}")
    module.load_state_dict(dict(state))
