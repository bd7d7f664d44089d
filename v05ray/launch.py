"""Connect to Ray, reserve, start, wire, run, tear down. The loop itself is in `driver.py`."""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Coroutine, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray

from v05ray import layout
from v05ray.actors.placement import nodes
from v05ray.actors.start import start_all, start_inference
from v05ray.checkpoint import Checkpoints, Latest
from v05ray.config import Config
from v05ray.config_files import to_yaml
from v05ray.data.stream import PromptStream
from v05ray.driver import RunState, Trainer
from v05ray.evaluate import EvalReport, evaluate
from v05ray.ledger import LedgerWriter
from v05ray.memory import PeakMemory
from v05ray.preflight import Prepared, check_resources, local_node, prepare
from v05ray.progress import Progress
from v05ray.redaction import redact
from v05ray.registry import ConfigError
from v05ray.run_folder import RunFolder, folder_to_resume, new_folder
from v05ray.tracking import MlflowTracker
from v05ray.types import Sampling

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    folder: RunFolder
    state: RunState
    peak_bytes: int
    """Of this process and all it started, at the worst moment seen."""
    wall_s: float
    """From the first check to the last file, in seconds."""
    interrupted: bool


def run(config: Config, *, resume: str | None = None) -> Outcome:
    """Trains as the config says; returns after the last step, or after an interruption, with everything saved.

    Args:
        config: the resolved config.
        resume: a run's folder, or `auto` for the newest of this name; None starts a new one.

    Raises:
        ConfigError: the config cannot be run here; nothing heavy has been started.
    """
    start = time.monotonic()
    prepared = prepare(config)
    if config.cluster.address is None:
        check_resources(config, [local_node(config)])
    if resume:
        folder = folder_to_resume(config.run.output_dir, config.run.name, resume)
    else:
        folder = new_folder(config.run.output_dir, config.run.name)
        folder.config.write_text(redact(to_yaml(config)))
    checkpoints = Checkpoints(folder.path, config.model_dump(mode="json"), keep=config.run.keep_checkpoints)
    latest = _latest(checkpoints, folder) if resume else None
    tracker = MlflowTracker(
        folder.path,
        uri=config.tracking.uri,
        output_dir=config.run.output_dir,
        experiment=config.tracking.experiment,
        run_name=folder.path.name,
    )
    try:
        tracker.log_params(config.model_dump(mode="json"))
        tracker.log_artifact(folder.config)
        with PeakMemory() as memory, cluster(config, folder.logs):
            state, interrupted = _run(_train(config, prepared, folder, checkpoints, latest, tracker))
        outcome = Outcome(folder, state, memory.peak_bytes, time.monotonic() - start, interrupted)
        folder.summary.write_text(json.dumps({**asdict(state), "peak_bytes": outcome.peak_bytes}, indent=1))
        tracker.log_artifact(folder.summary)
    except BaseException:
        tracker.close("FAILED")
        raise
    tracker.close("KILLED" if interrupted else "FINISHED")
    return outcome


def _latest(checkpoints: Checkpoints, folder: RunFolder) -> Latest:
    """The newest whole checkpoint, known to belong to this config."""
    latest = checkpoints.latest()
    if latest is None:
        raise ConfigError(f"{folder.path} holds no checkpoint to resume from; start anew without --resume")
    checkpoints.load(latest.folder)
    return latest


def evaluate_only(config: Config) -> EvalReport:
    """Evaluates `model.path` on the held-out prompts; raises `ConfigError` like `run`."""
    prepared = prepare(config)
    if not prepared.eval:
        raise ConfigError("data.eval names no held-out prompts; give it a source")
    if config.cluster.address is None:
        check_resources(config, [local_node(config)])
    logs = config.run.output_dir / f"{config.run.name}-eval-logs"
    logs.parent.mkdir(parents=True, exist_ok=True)
    with cluster(config, logs):
        return _run(_evaluate(config, prepared))


async def _evaluate(config: Config, prepared: Prepared) -> EvalReport:
    async with start_inference(config) as (scheduler, rewards):
        return await evaluate(
            prepared.eval,
            scheduler.draw,
            rewards,
            samples_per_prompt=config.evaluation.samples_per_prompt,
            sampling=Sampling(config.sampling.temperature, config.sampling.top_p, config.sampling.max_tokens),
            seed=config.run.seed,
            step=0,
        )


def _run(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`; a run that its user stopped at once ends as a KeyboardInterrupt."""
    try:
        return asyncio.run(work)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@contextlib.contextmanager
def cluster(config: Config, logs: Path) -> Iterator[None]:
    """Joins the configured cluster, or runs a private one whose logs end up in the folder `logs`."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if config.cluster.address is not None:
        ray.init(address=config.cluster.address, **quiet)
        try:
            check_resources_or_wait(config)
            yield
        finally:
            ray.shutdown()
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray puts sockets in there, whose paths may have at most 107 characters: never under the run's own folder.
    temp_dir = config.cluster.temp_dir or Path(tempfile.mkdtemp(prefix="v05ray-"))
    node = local_node(config)
    context: Any = ray.init(
        address="local",
        num_cpus=int(node.resources["CPU"]),
        num_gpus=int(node.resources["GPU"]),
        object_store_memory=config.cluster.object_store_mib * 2**20,
        include_dashboard=False,
        _temp_dir=str(temp_dir),
        **quiet,
    )
    session_logs = Path(context.address_info["session_dir"]) / "logs"
    if logs.is_symlink() or logs.exists():
        logs.rename(logs.with_name(f"{logs.name}-before-{os.getpid()}"))
    logs.symlink_to(session_logs)
    try:
        yield
    finally:
        ray.shutdown()
        logs.unlink()
        shutil.copytree(session_logs, logs, ignore_dangling_symlinks=True)
        if config.cluster.temp_dir is None:
            shutil.rmtree(temp_dir, ignore_errors=True)


def check_resources_or_wait(config: Config) -> None:
    """On a joined cluster a shortfall may still be mended by its autoscaler, so it is only said; `reserve` waits."""
    reason = layout.shortfall(layout.roles(config), nodes())
    if reason:
        log.warning("%s; waiting up to %g s for the cluster to grow", reason, config.cluster.wait_s)


async def _train(
    config: Config,
    prepared: Prepared,
    folder: RunFolder,
    checkpoints: Checkpoints,
    latest: Latest | None,
    tracker: MlflowTracker,
) -> tuple[RunState, bool]:
    """(the state at the end, whether it was interrupted)"""
    progress = Progress(num_steps=config.run.num_steps)
    with progress:
        progress.note("starting the actors")
        cache = folder.path.parent / "embeddings.sqlite"
        async with start_all(config, tracker, cache=cache, note=progress.note) as roles:
            trainer = Trainer(
                config,
                roles,
                stream=PromptStream(
                    prepared.train,
                    batch_size=config.run.prompts_per_step,
                    shuffle=config.data.shuffle,
                    seed=config.run.seed,
                ),
                eval_prompts=prepared.eval,
                ledger=LedgerWriter(folder.ledger),
                checkpoints=checkpoints,
                progress=progress,
                samples=folder.samples,
            )
            if latest is not None:
                for skipped in latest.skipped:
                    progress.note(f"skipped a damaged checkpoint: {skipped}")
                progress.note(f"resuming from {latest.folder.name}")
                await trainer.resume(latest.folder)
            with _interruptible(progress) as stop:
                state = await trainer.run(stop.is_set)
            await roles.learners.export(folder.model)
    return state, state.step < config.run.num_steps


@contextlib.contextmanager
def _interruptible(progress: Progress) -> Iterator[asyncio.Event]:
    """Ctrl-C or SIGTERM asks to stop after the step in progress; the second one stops at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()

    def ask() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
            return
        stop.set()
        progress.note("stopping after this step, with a checkpoint; once more to stop at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
