"""Everything a run can be refused for before anything heavy starts: prompts, model folder, verifier, resources."""

import json
import logging
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from v05ray import layout
from v05ray.config import Config
from v05ray.data.loading import load_splits
from v05ray.generation.parts import check_parts
from v05ray.object_store import MIB, private_mib
from v05ray.registry import ConfigError
from v05ray.rewards.pool import try_verifier
from v05ray.rewards.self_check import check_scorer, reference_check
from v05ray.rewards.verifiers import check_verifier
from v05ray.types import Prompt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What was loaded on the way."""

    tokenizer: Any
    train: list[Prompt]
    eval: list[Prompt]
    counts: Mapping[str, int]
    """Rows left out, by reason; see `data.loading.Splits`."""


def prepare(config: Config) -> Prepared:
    """Loads tokenizer and prompts and looks at everything else; raises `ConfigError` for what cannot be run."""
    for named in outside_code(config):
        log.warning("code from outside of v05ray: %s", named)
    check_model_folder(config)
    check_verifier(config.rewards.verifier.name, config.rewards.verifier.options)
    if config.rewards.verifier.name == "python":
        try_verifier(config.rewards)
    tokenizer = load_tokenizer(config)
    splits = load_splits(
        config.data,
        tokenizer,
        max_prompt_tokens=config.model.max_length - config.sampling.max_tokens,
        seed=config.run.seed,
        num_eval=config.evaluation.num_prompts,
        reference_check=reference_check(config.rewards.verifier),
    )
    check_scorer(config.rewards.verifier, splits.train)
    if len(splits.train) < config.run.prompts_per_step:
        raise ConfigError(
            f"data.train gives {len(splits.train)} prompts, fewer than run.prompts_per_step "
            f"{config.run.prompts_per_step}; take more data or a smaller batch"
        )
    return Prepared(tokenizer, splits.train, splits.eval, splits.counts)


def outside_code(config: Config) -> list[str]:
    """What the run will load that is code and not part of this package: said in its log before any of it runs."""
    named = []
    if config.rewards.verifier.name == "python":
        named.append(f"rewards.verifier runs {config.rewards.verifier.options['path']}")
    if config.model.trust_remote_code:
        named.append(f"model.trust_remote_code: code in {config.model.path} runs")
    return named


def check_model_folder(config: Config) -> None:
    """The policy's folder: safetensors, a context that is long enough, no code to be run, split as asked."""
    path = config.model.path
    settings = path / "config.json"
    if not settings.is_file():
        raise ConfigError(
            f"model.path {str(path)!r} is not a Hugging Face model folder (no config.json); "
            "`python -m v05ray.models smollm2 DIR` and `... tiny DIR` make small ones"
        )
    context = json.loads(settings.read_text()).get("max_position_embeddings")
    if context is not None and config.model.max_length > context:
        raise ConfigError(
            f"model.max_length {config.model.max_length} exceeds the model's context of {context} tokens; lower it"
        )
    if not any(path.glob("*.safetensors")):
        pickled = sorted(file.name for end in ("bin", "pt", "pth", "ckpt") for file in path.glob(f"*.{end}"))
        found = f"{', '.join(pickled)}: pickles, which can run code and are not read" if pickled else "no weights"
        raise ConfigError(f"model.path {str(path)!r} holds {found}; save the model as safetensors")
    if not config.model.trust_remote_code:
        _refuse_own_code(path)
    check_parts(path, config.generators.tensor_parallel)


def _refuse_own_code(path: Path) -> None:
    """Raises `ConfigError` where the model or its tokenizer is known to code in its folder alone.

    Nothing of that code is imported to find out. Some folders still ship code of classes that transformers has by now:
    theirs is neither needed nor run.
    """
    config, tokenizer = _read_object(path / "config.json"), _read_object(path / "tokenizer_config.json")
    own = {**(config.get("auto_map") or {}), **(tokenizer.get("auto_map") or {})}
    if not own:
        return
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind, name = config.get("model_type"), tokenizer.get("tokenizer_class")
    known = {
        "AutoConfig": kind in transformers.CONFIG_MAPPING,
        "AutoModelForCausalLM": kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        # Asked for a class that it does not have, transformers would take another one and say nothing.
        "AutoTokenizer": name is None or hasattr(transformers, name),
    }
    if needed := [f"{auto} ({own[auto]})" for auto in known if auto in own and not known[auto]]:
        raise ConfigError(
            f"model.path {str(path)!r} needs code that it ships for {', '.join(needed)}, which is not run; take a "
            "model that transformers itself knows, or read the code and allow it with model.trust_remote_code=true"
        )


def _read_object(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def load_tokenizer(config: Config) -> Any:
    """The policy's tokenizer, from its folder alone; raises `ConfigError` where that holds none."""
    from transformers import AutoTokenizer

    path = config.model.path
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=config.model.trust_remote_code)
    except (ValueError, OSError) as error:
        raise ConfigError(f"model.path: transformers cannot load the tokenizer of {str(path)!r}: {error}") from error


def count_gpus() -> int:
    """NVIDIA GPUs of this machine, without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device not in ("", "-1")])
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
    except (FileNotFoundError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def local_node(config: Config) -> layout.Node:
    """What the private cluster on this machine will have."""
    num_cpus = config.cluster.num_cpus or os.cpu_count() or 1
    resources = {"CPU": float(num_cpus), "GPU": float(count_gpus())}
    return layout.Node("this machine", resources | {"object_store_memory": private_mib(config) * float(MIB)})


def check_resources(config: Config, nodes: list[layout.Node]) -> None:
    """Raises `ConfigError` where the roles do not fit on the nodes, or the object store not into memory."""
    reason = layout.shortfall(layout.roles(config), nodes)
    if reason:
        raise ConfigError(reason)
    if config.cluster.address is None:
        asked, free = private_mib(config), psutil.virtual_memory().available // MIB
        if asked > free:
            fix = "lower it" if config.cluster.object_store_mib else "set it lower, or take a smaller model"
            raise ConfigError(f"cluster.object_store_mib {asked} exceeds the {free} MiB of memory that are free; {fix}")
