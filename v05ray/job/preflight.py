"""Everything a run can be refused for before anything heavy starts: prompts, model folder, verifier, resources."""

import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from v05ray.config import Config, RewardsConfig
from v05ray.data.loading import load_splits
from v05ray.data.stream import PromptSource, PromptStream
from v05ray.errors import ConfigError
from v05ray.job.model_checks import check_model_folder
from v05ray.machine import layout
from v05ray.machine.object_store import MIB, private_mib, weights_bytes
from v05ray.models import huggingface as model_folder
from v05ray.registry import PLUGIN
from v05ray.rewards.by_source import check_verifiers, source_verifiers, with_source_verifiers
from v05ray.rewards.code.sandbox import checked_isolation
from v05ray.rewards.pool import try_verifier
from v05ray.rewards.self_check import check_scorer, reference_check
from v05ray.storage.run_folder import check_output_dir
from v05ray.types import Prompt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """The data and tokenizer that the checks loaded, for the run to use."""

    tokenizer: Any
    train: tuple[PromptSource, ...]
    eval: list[Prompt]
    counts: Mapping[str, int]
    """Rows left out, by reason; see `data.loading.Splits`."""
    machine: str = ""
    """What the machine was found to be, and what was chosen for it."""


def prepare(config: Config) -> Prepared:
    """Loads tokenizer and prompts and looks at everything else; raises `ConfigError` for what cannot be run."""
    check_output_dir(config.run.output_dir)
    for named in outside_code(config):
        log.warning("code from outside of v05ray: %s", named)
    check_model_folder(config)
    check_disk(config)
    rewards = prepare_verifiers(config)
    tokenizer = load_tokenizer(config)
    splits = load_splits(
        config.data,
        tokenizer,
        max_prompt_tokens=config.model.max_length - config.sampling.max_tokens,
        max_eval_prompt_tokens=config.model.max_length - config.evaluation.draws_with(config.sampling).max_tokens,
        seed=config.run.seed,
        num_eval=config.evaluation.num_prompts,
        reference_check=reference_check(rewards.verifier),
    )
    model_folder.check_token_ids(
        ((prompt.prompt_id, prompt.token_ids) for prompt in (*splits.train, *splits.eval)),
        model_folder.vocabulary_size(model_folder.read_settings(config.model.path)),
    )
    check_scorer(rewards.verifier, splits.train)
    if len(splits.train) < config.run.prompts_per_step:
        raise ConfigError(
            f"data.train gives {len(splits.train)} prompts, fewer than run.prompts_per_step "
            f"{config.run.prompts_per_step}; take more data or a smaller batch"
        )
    # Made once to refuse what it cannot deal before anything heavy starts.
    make_stream(config, splits.sources)
    return Prepared(tokenizer, splits.sources, splits.eval, splits.counts)


def prepare_verifiers(config: Config) -> RewardsConfig:
    """The rewards with a verifier for every source, each known, and of code from outside built once; `ConfigError`."""
    rewards, chosen = with_source_verifiers(config), source_verifiers(config)
    check_verifiers(rewards)
    for line in sandboxes(config):
        log.info("%s", line)
    if any(one.name == PLUGIN for verifier in chosen.values() for one in verifier.singles):
        try_verifier(rewards)
    for source, verifier in chosen.items():
        if config.value.enabled and verifier.others_can_outweigh:
            first = verifier.components[0]
            log.warning(
                "%s: %s has a weight of %g and the others %g together, so a right response may get no more than a "
                "wrong one, and the value model takes the sign of the reward for success; give %s more than the others",
                *(_key(source), first.label, first.weight, verifier.weight_of_others, first.label),
            )
    return rewards


def _key(source: str) -> str:
    return f"the verifier of source {source!r}" if source else "rewards.verifier"


def sandboxes(config: Config) -> list[str]:
    """What holds programs in here, a line for each `code` verifier; on a joined cluster its own machine says that.

    Raises `ConfigError` where a verifier needs more than this machine has.
    """
    if config.cluster.address is not None:
        return []
    singles = [one for verifier in source_verifiers(config).values() for one in verifier.singles]
    wanted = [one.options.get("isolation", "required") for one in singles if one.name == "code"]
    return [f"verifier code: programs have {checked_isolation(one)}" for one in dict.fromkeys(wanted)]


def make_stream(config: Config, sources: Sequence[PromptSource]) -> PromptStream:
    """The stream of training prompts that the config asks for; raises `ConfigError`."""
    run = config.run
    return PromptStream(sources, batch_size=run.prompts_per_step, shuffle=config.data.shuffle, seed=run.seed)


CHECKPOINT_BYTES = 16
"""Of a parameter in a checkpoint: float32 weights and AdamW's two moments, and the weights as they are served."""


def check_disk(config: Config) -> None:
    """Raises `ConfigError` where the disk under `run.output_dir` cannot hold the checkpoints that the run keeps.

    One more than it keeps, since an old one goes only when the new one is whole; and the exported model.
    """
    size = weights_bytes(config.model.path, "float32")
    needed = size // 4 * CHECKPOINT_BYTES * (config.run.keep_checkpoints + 1) + size
    place = config.run.output_dir.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ConfigError(
            f"run.output_dir {str(config.run.output_dir)!r}: its disk has {free / 2**30:.1f} GiB free, and "
            f"{config.run.keep_checkpoints} checkpoints, one being written and the model take {needed / 2**30:.1f}; "
            "free some, take another disk, or lower run.keep_checkpoints"
        )


def outside_code(config: Config) -> list[str]:
    """What the run will load that is code and not part of this package: said in its log before any of it runs.

    What the config itself names (estimator, rule, loss, value backend) is said when the config is read.
    """
    named = []
    for key, specs in (("data.train", config.data.train), ("data.eval", config.data.eval or ())):
        named += [f"{key} runs {one.options.get('path')}" for one in specs if one.name == PLUGIN]
    for source, verifier in source_verifiers(config).items():
        named += [f"{_key(source)} runs {one.options['path']}" for one in verifier.singles if one.name == PLUGIN]
    if config.model.trust_remote_code:
        named.append(f"model.trust_remote_code: code in {config.model.path} runs")
    return named


def load_tokenizer(config: Config) -> Any:
    """The policy's tokenizer, from its folder alone; raises `ConfigError` where that holds none."""
    return model_folder.load_tokenizer(config.model.path, trust_remote_code=config.model.trust_remote_code)


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


def check_resources(
    config: Config, nodes: list[layout.Node], roles: Callable[[Config], Sequence[layout.Role]] = layout.roles
) -> None:
    """Raises `ConfigError` where the roles do not fit on the nodes, or the object store not into memory."""
    reason = layout.shortfall(roles(config), nodes)
    if reason:
        raise ConfigError(reason)
    if config.cluster.address is None:
        asked, free = private_mib(config), psutil.virtual_memory().available // MIB
        if asked > free:
            fix = "lower it" if config.cluster.object_store_mib else "set it lower, or take a smaller model"
            raise ConfigError(f"cluster.object_store_mib {asked} exceeds the {free} MiB of memory that are free; {fix}")
