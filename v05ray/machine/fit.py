"""Settings left to the machine (`auto`), resolved to what was measured best on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from v05ray.config import Config
from v05ray.machine.probe import Machine

AUTO = "auto"
GAIN = 1.2
"""bfloat16 is taken where it is at least this much faster than float32: below, its rounding buys nothing."""
EMULATED = 0.8
"""bfloat16 slower than this share of float32's speed is emulated, and asking for it is worth a warning."""
FIELDS = (("model", "dtype"), ("generators", "num_threads"), ("learner", "num_threads"))
"""Every setting that can be `auto`, as (section, field)."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A config without `auto`, and the reasons."""

    config: Config
    reason: str
    """One line: what was found, what was chosen, why."""
    warning: str = ""
    """Set where something asked for suits the machine badly."""


def is_open(config: Config) -> bool:
    """Whether any setting is left to the machine."""
    return any(getattr(getattr(config, section), field) == AUTO for section, field in FIELDS)


def take_over(config: Config, saved: Mapping[str, Any]) -> Config:
    """Settings left to the machine as an earlier start of the same run (`saved`: its config.yaml) resolved them."""
    for section, field in FIELDS:
        value = (saved.get(section) or {}).get(field, AUTO)
        if getattr(getattr(config, section), field) == AUTO and value != AUTO:
            config = _with(config, section, field, value)
    return config


def fit(config: Config, machine: Machine) -> Fitted:
    """Resolves every `auto`.

    The dtype is bfloat16 where the device computes it: on CPU where it is measured faster than float32, on GPU from
    compute capability 8. Threads: on a private cluster all cores that pay, shared evenly by a role's processes, since
    generators and learners take turns; on a joined one the CPUs that the role reserves, since others may have the rest.
    """
    on_gpu = config.generators.num_gpus > 0 or config.learner.num_gpus > 0
    asked = config.model.dtype
    chosen, why = _dtype(machine, on_gpu=on_gpu) if asked == AUTO else (asked, "as asked")
    config = _with(config, "model", "dtype", chosen)
    for section, processes in (("generators", config.generators.count), ("learner", config.learner.num_ranks)):
        role = getattr(config, section)
        if role.num_threads != AUTO:
            continue
        if config.cluster.address is None and role.num_gpus == 0:
            count = max(1, machine.threads(chosen) // processes)
        else:
            count = max(1, int(role.num_cpus))
        config = _with(config, section, "num_threads", count)
    threads = f"{config.generators.num_threads} thread(s) per generator, {config.learner.num_threads} per learner rank"
    reason = f"{describe(machine)}; model.dtype {chosen} ({why}), {threads}"
    return Fitted(config, reason, "" if on_gpu else _warning(asked, machine))


def describe(machine: Machine) -> str:
    """One phrase: instruction set, CPUs, GFLOP/s by dtype with one thread and with the best number."""
    cpus = f"{machine.num_cpus} CPU(s), {machine.isa}"
    rates = "; ".join(
        f"{dtype} {of[min(of)]:.0f} GFLOP/s on one thread, {machine.best(dtype):.0f} on {machine.threads(dtype)}"
        for dtype, of in machine.gflops.items()
    )
    gpu = f"; GPU {machine.gpu}" if machine.gpu else ""
    return f"{cpus}: {rates}{gpu}"


def _dtype(machine: Machine, *, on_gpu: bool) -> tuple[str, str]:
    if on_gpu:
        if machine.gpu_has_bfloat16:
            return "bfloat16", "the GPU computes it"
        return "float32", "no GPU that computes bfloat16"
    ratio = machine.best("bfloat16") / machine.best("float32")
    if ratio >= GAIN:
        return "bfloat16", f"{ratio:.1f} times as fast as float32"
    return "float32", f"bfloat16 runs at {ratio:.2f} of its speed"


def _warning(asked: str, machine: Machine) -> str:
    ratio = machine.best("bfloat16") / machine.best("float32")
    if asked != "bfloat16" or ratio >= EMULATED:
        return ""
    return (
        f"model.dtype is bfloat16, which this machine emulates at {ratio:.2f} of float32's speed: expect the run to "
        f"take {1 / ratio:.0f} times as long; set model.dtype: float32, or auto"
    )


def _with(config: Config, section: str, field: str, value: object) -> Config:
    changed = getattr(config, section).model_copy(update={field: value})
    return config.model_copy(update={section: changed})
