"""From the config that was asked for to the one that runs: every choice left to the machine is made, and reported."""

import logging
from collections.abc import Callable
from pathlib import Path

import yaml

from v05ray.config import Config
from v05ray.machine.fit import Fitted, fit, is_open, take_over
from v05ray.machine.probe import Machine, measure

log = logging.getLogger(__name__)


def fit_to_machine(
    config: Config, *, saved: Path | None = None, measure_node: Callable[[Config], Machine] | None = None
) -> Fitted:
    """Resolves `auto`, by measuring where something is left open or bfloat16 is asked of a CPU.

    `saved` is the config.yaml of an earlier start of the same run: what that resolved is taken over, because a run
    cannot change its precision between two steps. `measure_node` measures a node of the joined cluster, where one is
    configured; without it (a command that starts nothing) the dtype stays `auto` there. Raises `RunError` where
    measuring fails, `ConfigError` where a joined cluster has no place for it.
    """
    if saved is not None and saved.is_file():
        config = take_over(config, yaml.safe_load(saved.read_text()) or {})
    asked_of_cpu = config.model.dtype == "bfloat16" and config.generators.num_gpus == 0
    if not is_open(config) and not asked_of_cpu:
        return Fitted(config, f"model.dtype {config.model.dtype}, threads as asked; this machine was not measured")
    if config.cluster.address is None:
        fitted = fit(config, measure(config.cluster.num_cpus))
    elif config.model.dtype == "auto":
        if measure_node is None:
            return Fitted(config, "model.dtype auto: decided at the start, on a node of the cluster")
        fitted = fit(config, measure_node(config))
    else:  # threads follow from what the roles reserve
        fitted = fit(config, Machine(1, "not measured", {"float32": {1: 1.0}, "bfloat16": {1: 1.0}}))
        fitted = Fitted(fitted.config, f"model.dtype {config.model.dtype}, threads as reserved; no node was measured")
    if fitted.warning:
        log.warning("%s", fitted.warning)
    return fitted
