"""From a job file to the request that the cluster gets: command, files, environment, metadata, a name.

Everything a cluster would only complain of after minutes is refused here: an unknown config key, a path that exists on
this machine alone, a secret that Ray would keep.
"""

import hashlib
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from v05ray import __version__
from v05ray.config import Config, Spec
from v05ray.config.redaction import environment_secrets, is_secret_variable, redact, redact_tree
from v05ray.data.paths import local_path
from v05ray.errors import ConfigError
from v05ray.job.config_files import load_config
from v05ray.submit.working_dir import LIMIT_MIB, Shipment, collect

GRACE_S = 300
"""Seconds that a stopped job may take for its step in progress and its checkpoint; Ray's default is 3."""
SAVING_SHARE = 0.8
"""Of that time, what the run is given (`run.grace_s`): its actors and files still have to be put away."""


@dataclass(frozen=True)
class Request:
    """A job as it is submitted: files, command, environment, metadata."""

    shipment: Shipment
    entrypoint: str
    """The command, run on the head inside the working directory."""
    env_vars: Mapping[str, str] = field(repr=False)
    """For the command and every actor. Ray stores names and values for as long as the head lives."""
    metadata: Mapping[str, str]
    """Shown by `jobs status`: recipe, run, job file, version, commit."""
    id_stem: str
    """Run name and eight digits made from files, command and environment names: equal for equal requests."""


def make_request(
    job: Path,
    overrides: Sequence[str] = (),
    *,
    environment: Mapping[str, str],
    env_names: Sequence[str] = (),
    store_secrets: bool = False,
    included: Sequence[Path] = (),
    base: Path | None = None,
    limit_mib: float = LIMIT_MIB,
    grace_s: int = GRACE_S,
    resume: str | None = None,
) -> Request:
    """Checks a job and says what to ask the cluster for.

    Args:
        job: the job file.
        overrides: `dotted.key=value`, passed on to `v05ray train`.
        environment: this process's; the values of `env_names` are read from it.
        env_names: environment variables the job gets.
        store_secrets: let Ray store variables whose names sound secret.
        included: further files and folders for the working directory.
        base: what relative paths start from; None means the current folder.
        limit_mib: largest working directory, in MiB.
        grace_s: between the request to stop and the kill, in seconds; a run that would take longer gets a warning.
        resume: what `v05ray train --resume` gets: a run's absolute folder, or `auto`.

    Raises:
        ConfigError: the job cannot run on a cluster as it is, or a secret would be stored.
    """
    _refuse_address(overrides)
    config = load_config(job, overrides)
    _refuse_secrets(job, overrides, environment)
    shipment, job_name = collect(job, included, base=base, limit_mib=limit_mib)
    _refuse_secret_files(shipment, environment)
    _refuse_local_paths(config, shipment)
    command = ["python", "-m", "v05ray.cli", "train", job_name, "cluster.address=auto", *overrides]
    if config.run.grace_s >= grace_s:
        command.append(f"run.grace_s={grace_s * SAVING_SHARE:g}")
    if resume is not None:
        if resume != "auto" and not Path(resume).is_absolute():
            raise ConfigError(f"--resume {resume} is relative; give the run's folder as every node sees it, or auto")
        command += ["--resume", resume]
    entrypoint = shlex.join(command)
    stem = hashlib.sha256("\0".join([shipment.digest(), entrypoint, *sorted(env_names)]).encode()).hexdigest()[:8]
    return Request(
        shipment=shipment,
        entrypoint=entrypoint,
        env_vars={
            **_env_vars(env_names, environment, store_secrets=store_secrets),
            # Read by the job's supervisor, which Ray starts with this same environment.
            "RAY_JOB_STOP_WAIT_TIME_S": str(grace_s),
        },
        metadata=_metadata(config, job, job_name),
        id_stem=f"{config.run.name}-{stem}",
    )


def derive_id(stem: str, taken: Sequence[str]) -> str:
    """`stem`, or `stem-2`, `stem-3`, ...: the first one that no job of the cluster bears."""
    number = 1
    while (candidate := stem if number == 1 else f"{stem}-{number}") in taken:
        number += 1
    return candidate


def _refuse_address(overrides: Sequence[str]) -> None:
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "cluster.address" and value != "auto":
            raise ConfigError(
                f"override {override!r}: a submitted job joins the cluster that runs it (cluster.address=auto); "
                "name the cluster with --address"
            )


def _refuse_secrets(job: Path, overrides: Sequence[str], environment: Mapping[str, str]) -> None:
    """Ray keeps the command and the working directory: neither may hold a password or token."""
    fix = "keep it in an environment variable of the cluster's nodes, or pass the variable by name with --env"
    for override in overrides:
        key, _, value = override.partition("=")
        if redact_tree(value, environment, key=key) != value:
            raise ConfigError(f"override {key!r} carries a credential, which Ray would store in the command; {fix}")
    text = job.read_text()
    if redact(text, environment) != text:
        raise ConfigError(f"{job} carries a credential, which Ray would store with the working directory; {fix}")


def _refuse_secret_files(shipment: Shipment, environment: Mapping[str, str]) -> None:
    """Raises `ConfigError` naming a file that would travel with a secret of this environment in it."""
    secrets = [secret.encode() for secret in environment_secrets(environment)]
    for name, file in shipment.files.items() if secrets else ():
        content = file.read_bytes()
        if any(secret in content for secret in secrets):
            raise ConfigError(
                f"{name} holds the value of a secret variable of this environment, which Ray would store with the "
                "working directory; take it out, or leave the file out"
            )


def _env_vars(names: Sequence[str], environment: Mapping[str, str], *, store_secrets: bool) -> dict[str, str]:
    found = {}
    for name in names:
        if "=" in name:
            raise ConfigError(
                f"--env takes a name alone, got one with a value ({name.partition('=')[0]}=...); "
                "export the variable and give its name"
            )
        if name not in environment:
            raise ConfigError(f"--env {name}: no such variable in this environment; export it first")
        if not store_secrets and (is_secret_variable(name) or redact(environment[name], {}) != environment[name]):
            raise ConfigError(
                f"--env {name} is a secret by its name or holds a password, and Ray stores the values of passed "
                "variables on the head and shows them to every user of its Jobs API; set it on the nodes (see "
                "docs/clusters.md), or allow it with --store-secrets"
            )
        found[name] = environment[name]
    return found


def _refuse_local_paths(config: Config, shipment: Shipment) -> None:
    """A relative path means the working directory, which holds the shipment alone and goes when the job ends."""
    if not config.run.output_dir.is_absolute():
        raise ConfigError(
            f"run.output_dir {str(config.run.output_dir)!r} is relative: the run would be deleted with the job's "
            "working directory; give a folder that every node sees, such as run.output_dir=/shared/runs"
        )
    for key, path in _read_paths(config):
        name = path.as_posix().removeprefix("./")
        sent = any(file == name or file.startswith(f"{name}/") for file in shipment.files)
        if not path.is_absolute() and not sent:
            raise ConfigError(
                f"{key} {str(path)!r} is relative, and the job's working directory does not hold it; give an absolute "
                f"path that every node sees ({key}=/shared/...), or send it along with --include {path}"
            )


def _read_paths(config: Config) -> Iterator[tuple[str, Path]]:
    yield "model.path", config.model.path
    if config.value.bundle is not None:
        yield "value.bundle", config.value.bundle
    if config.value.published is not None:
        for key in ("checkpoint", "backbone", "head"):
            yield f"value.published.{key}", getattr(config.value.published, key)
    for key, specs in (("data.train", config.data.train), ("data.eval", config.data.eval or ())):
        for index, spec in enumerate(specs):
            where = key if len(specs) == 1 else f"{key}.{index}"
            yield from ((f"{where}.path", path) for path in _spec_paths(spec))


def _spec_paths(spec: Spec) -> list[Path]:
    """The files a source of prompts reads; a `huggingface` path may as well be a name on the hub."""
    if spec.name == "huggingface":
        return []
    path = spec.options.get("path", [])
    return [local_path(one) for one in ([path] if isinstance(path, str) else path)]


def _metadata(config: Config, job: Path, job_name: str) -> dict[str, str]:
    commit = git_commit(job.resolve().parent)
    return {
        "recipe": config.recipe,
        "run": config.run.name,
        "job_file": job_name,
        "v05ray": __version__,
        **({"git_commit": commit} if commit else {}),
    }


def git_commit(folder: Path) -> str | None:
    """The commit checked out in `folder`, with `-dirty` where tracked files differ; None outside of git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (FileNotFoundError, subprocess.SubprocessError):
        return None
