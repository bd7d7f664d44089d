"""Connect to Ray, reserve, start, wire, run, tear down. The loop itself is in `driver.py`."""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from v05ray import layout
from v05ray.actors.learner import RayLearnerGroup
from v05ray.actors.placement import nodes, on, reserve
from v05ray.actors.rewards import RayRewardPool, RewardActor
from v05ray.actors.scheduler import RayScheduler, SchedulerActor
from v05ray.actors.value import RayValuePool, ValueActor
from v05ray.checkpoint import Checkpoints
from v05ray.config import Config, to_yaml
from v05ray.data.stream import PromptStream
from v05ray.driver import Roles, RunState, Trainer
from v05ray.ledger import LedgerWriter
from v05ray.memory import PeakMemory
from v05ray.preflight import Prepared, check_resources, local_node, prepare
from v05ray.progress import Progress
from v05ray.registry import ConfigError
from v05ray.run_folder import RunFolder, folder_to_resume, new_folder
from v05ray.tracking import MlflowTracker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    folder: RunFolder
    state: RunState
    peak_bytes: int
    interrupted: bool


def run(config: Config, *, resume: str | None = None) -> Outcome:
    """Trains as the config says; returns after the last step, or after an interruption, with everything saved.

    Args:
        config: the resolved config.
        resume: a run's folder, or `auto` for the newest of this name; None starts a new one.

    Raises:
        ConfigError: the config cannot be run here; nothing heavy has been started.
    """
    prepared = prepare(config)
    if config.cluster.address is None:
        check_resources(config, [local_node(config)])
    if resume:
        folder = folder_to_resume(config.run.output_dir, config.run.name, resume)
    else:
        folder = new_folder(config.run.output_dir, config.run.name)
        folder.config.write_text(to_yaml(config))
    with PeakMemory() as memory, cluster(config, folder):
        state, interrupted = asyncio.run(_train(config, prepared, folder, resume=resume is not None))
    outcome = Outcome(folder, state, memory.peak_bytes, interrupted)
    folder.summary.write_text(json.dumps({**asdict(state), "peak_bytes": outcome.peak_bytes}, indent=1))
    return outcome


@contextlib.contextmanager
def cluster(config: Config, folder: RunFolder) -> Iterator[None]:
    """Joins the configured cluster, or runs a private one whose logs end up in the run's folder."""
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
    if folder.logs.is_symlink() or folder.logs.exists():
        folder.logs.rename(folder.path / f"logs-before-{os.getpid()}")
    folder.logs.symlink_to(session_logs)
    try:
        yield
    finally:
        ray.shutdown()
        folder.logs.unlink()
        shutil.copytree(session_logs, folder.logs, ignore_dangling_symlinks=True)
        if config.cluster.temp_dir is None:
            shutil.rmtree(temp_dir, ignore_errors=True)


def check_resources_or_wait(config: Config) -> None:
    """On a joined cluster a shortfall may still be mended by its autoscaler, so it is only said; `reserve` waits."""
    reason = layout.shortfall(layout.roles(config), nodes())
    if reason:
        log.warning("%s; waiting up to %g s for the cluster to grow", reason, config.cluster.wait_s)


async def _train(config: Config, prepared: Prepared, folder: RunFolder, *, resume: bool) -> tuple[RunState, bool]:
    checkpoints = Checkpoints(folder.path, config.model_dump(mode="json"), keep=config.run.keep_checkpoints)
    latest = checkpoints.latest() if resume else None
    if resume and latest is None:
        raise ConfigError(f"{folder.path} holds no whole checkpoint to resume from; start anew without --resume")
    tracker = MlflowTracker(
        folder.path,
        uri=config.tracking.uri,
        output_dir=config.run.output_dir,
        experiment=config.tracking.experiment,
        run_name=folder.path.name,
    )
    tracker.log_params(config.model_dump(mode="json"))
    tracker.log_artifact(folder.config)
    progress = Progress(num_steps=config.run.num_steps)
    interrupted = False
    try:
        with progress:
            progress.note("starting the actors")
            async with start_roles(config, folder, tracker) as roles:
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
                )
                if latest is not None:
                    for skipped in latest.skipped:
                        progress.note(f"skipped a damaged checkpoint: {skipped}")
                    progress.note(f"resuming from {latest.folder.name}")
                    await trainer.resume(latest.folder)
                with _interruptible(progress) as stop:
                    state = await trainer.run(stop.is_set)
                interrupted = state.step < config.run.num_steps
                await roles.learners.export(folder.model)
    finally:
        tracker.close()
    return state, interrupted


@contextlib.asynccontextmanager
async def start_roles(config: Config, folder: RunFolder, tracker: MlflowTracker) -> AsyncIterator[Roles]:
    """Every actor, up and wired; ended again on leaving."""
    asked = layout.roles(config)
    groups = await reserve(asked, wait_s=config.cluster.wait_s)
    reward_actor: Any = (
        ray.remote(RewardActor)
        .options(
            num_cpus=config.rewards.num_cpus,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=1000,
            scheduling_strategy=on(groups["rewards"]),
        )
        .remote(config.rewards)
    )
    rewards = RayRewardPool(reward_actor)
    generator_groups = {name: group for name, group in groups.items() if name.startswith("generator-")}
    scheduler_actor: Any = (
        ray.remote(SchedulerActor)
        .options(num_cpus=layout.SCHEDULER_CPUS, max_concurrency=10_000, scheduling_strategy=on(groups["scheduler"]))
        .remote(config, rewards, generator_groups)
    )
    learners = RayLearnerGroup(config, groups["learner"])
    scheduler = RayScheduler(scheduler_actor)
    values = _start_values(config, folder, groups) if config.value.enabled else None
    try:
        waits = [scheduler.start(), learners.setup()]
        if values is not None:
            waits.append(values.describe())
        answers = await asyncio.gather(*waits)
        if values is not None:
            log.warning("value model: %s", answers[-1])
        yield Roles(scheduler=scheduler, rewards=rewards, learners=learners, tracker=tracker, values=values)
    finally:
        with contextlib.suppress(RayError, TimeoutError):
            await asyncio.wait_for(reward_actor.close.remote(), 10)


def _start_values(config: Config, folder: RunFolder, groups: dict[str, Any]) -> RayValuePool:
    cache = folder.path.parent / "embeddings.sqlite"
    threads = str(config.value.num_threads)
    return RayValuePool(
        [
            ray.remote(ValueActor)
            .options(
                num_cpus=config.value.num_cpus,
                max_restarts=-1,
                max_task_retries=-1,
                scheduling_strategy=on(groups["value"], index),
                runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}},
            )
            .remote(config.value, cache)
            for index in range(config.value.pool_size)
        ]
    )


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
