"""Connect to Ray, reserve, start, wire, run, tear down. The loop itself is in `driver.py`."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
import yaml
from ray._private import ray_constants

from v05ray import layout, temp_folder
from v05ray.actors.loss import describe_loss, full_store
from v05ray.actors.placement import join, node_types, nodes
from v05ray.actors.start import start_all, start_inference
from v05ray.checkpoint import Checkpoints, check_config
from v05ray.config import Config
from v05ray.config_files import to_yaml
from v05ray.data.stream import describe
from v05ray.disk import LastResort
from v05ray.driver import Trainer
from v05ray.evaluate import EvalReport, evaluate
from v05ray.ledger import LedgerWriter
from v05ray.memory import PeakMemory
from v05ray.object_store import shortage
from v05ray.ports import Roles
from v05ray.preflight import Prepared, check_resources, local_node, make_stream, prepare
from v05ray.progress import Progress
from v05ray.redaction import redact
from v05ray.registry import ConfigError, RunError
from v05ray.run_folder import RunFolder, folder_to_resume, held, new_folder
from v05ray.run_state import RunState
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
        resume: a run's folder, or `auto` for the newest of this name (a new one if there is none yet); it goes on from
            its newest checkpoint, or begins again where it has none. None starts a new run.

    Raises:
        ConfigError: the config cannot be run here; nothing heavy has been started.
        RunError: actors were lost more often in a row than `run.max_restarts` allows, or a disk refused; what was
            checkpointed can be resumed.
    """
    start = time.monotonic()
    prepared = prepare(config)
    if config.cluster.address is None:
        check_resources(config, [local_node(config)])
    folder = folder_to_resume(config.run.output_dir, config.run.name, resume) if resume else None
    resumed = folder is not None
    folder = folder or new_folder(config.run.output_dir, config.run.name)
    with LastResort() as last_resort, held(folder):
        checkpoints = Checkpoints(folder.path, config.model_dump(mode="json"), keep=config.run.keep_checkpoints)
        if resumed:
            _check_resumable(config, folder, checkpoints)
        else:
            folder.config.write_text(redact(to_yaml(config)))
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
                work = _Training(config, prepared, folder, checkpoints, tracker, last_resort)
                state = _run(work.train())
            interrupted = state.step < config.run.num_steps
            outcome = Outcome(folder, state, memory.peak_bytes, time.monotonic() - start, interrupted)
            folder.summary.write_text(
                json.dumps(
                    {**asdict(state), "peak_bytes": outcome.peak_bytes, "restarts": work.restarts.total}, indent=1
                )
            )
            tracker.log_artifact(folder.summary)
        except BaseException:
            with contextlib.suppress(RunError):  # a full disk refuses this too; the first error is the one to tell
                tracker.close("FAILED")
            raise
        tracker.close("KILLED" if interrupted else "FINISHED")
    return outcome


def _check_resumable(config: Config, folder: RunFolder, checkpoints: Checkpoints) -> None:
    """Raises `ConfigError` where the folder's run is another config's, or its checkpoints are all damaged."""
    latest = checkpoints.latest()
    if latest is not None:
        checkpoints.load(latest.folder)
    elif folder.config.is_file():  # it ended before its first checkpoint: it begins again
        saved, wanted = (yaml.safe_load(text) for text in (folder.config.read_text(), redact(to_yaml(config))))
        check_config(saved, wanted, where=str(folder.config))


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
    if config.cluster.address is not None:
        join(config.cluster.address)
        try:
            check_resources_or_wait(config)
            yield
        finally:
            ray.shutdown()
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A record of every task is for the dashboard, which a private cluster has not; else the GCS grows with each step.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    node = local_node(config)
    asked_dir = config.cluster.temp_dir
    with temp_folder.owned(logs) if asked_dir is None else contextlib.nullcontext(asked_dir) as temp_dir:
        with _on_loopback():
            context: Any = ray.init(
                address="local",
                num_cpus=int(node.resources["CPU"]),
                num_gpus=int(node.resources["GPU"]),
                object_store_memory=int(node.resources["object_store_memory"]),
                include_dashboard=False,
                _temp_dir=str(temp_dir),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        try:
            if logs.is_symlink() or logs.exists():
                logs.rename(logs.with_name(f"{logs.name}-before-{os.getpid()}"))
            logs.symlink_to(Path(context.address_info["session_dir"]) / "logs")
            yield
        finally:
            ray.shutdown()
            if asked_dir is not None and logs.is_symlink():
                temp_folder.keep_logs(logs)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Inside, a cluster that is started listens on loopback alone.

    Ray would take this machine's address on the network, where even without a dashboard its agent takes jobs, from
    anyone or from whoever has its token. That it need not is a setting of Ray's for other systems, which it reads from
    the environment when it is imported; clusters of several machines must not have it.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def check_resources_or_wait(config: Config) -> None:
    """Says what a joined cluster lacks and what its autoscaler may bring; `reserve` waits for it, or refuses."""
    present = nodes()
    _tell_shortage(config, present)
    look = layout.outlook(layout.roles(config), present, node_types())
    if look.text:
        log.warning("%s; waiting up to %g s for the cluster to grow", look.text, config.cluster.wait_s)


def _tell_shortage(config: Config, present: Sequence[layout.Node]) -> None:
    if small := shortage(config, present):
        log.warning("%s", small)


@dataclass
class Restarts:
    """Fresh starts after losses: a limit on those in a row that got no further."""

    limit: int
    in_a_row: int = 0
    total: int = 0
    furthest_step: int = -1
    """Most steps done when something was lost."""

    def count(self, step: int, what: str) -> None:
        """One more loss, `step` steps having been done. Raises `RunError` when that was one too many."""
        if step > self.furthest_step:
            self.furthest_step, self.in_a_row = step, 0
        if self.in_a_row == self.limit:
            again = f", after {self.limit} fresh starts that got no further" if self.limit else ""
            raise RunError(
                f"{what}{again}; mend the cause (the logs are in the run's folder) and go on with --resume, or raise "
                f"run.max_restarts (now {self.limit})"
            )
        self.in_a_row += 1
        self.total += 1


class _Training:
    """The run on a cluster: actors and trainer, begun again from the newest checkpoint whenever some are lost."""

    def __init__(
        self,
        config: Config,
        prepared: Prepared,
        folder: RunFolder,
        checkpoints: Checkpoints,
        tracker: MlflowTracker,
        last_resort: LastResort,
    ) -> None:
        self._config, self._prepared, self._folder = config, prepared, folder
        self._checkpoints, self._tracker, self._last_resort = checkpoints, tracker, last_resort
        self._progress = Progress(num_steps=config.run.num_steps)
        self._trainer: Trainer | None = None
        self.restarts = Restarts(config.run.max_restarts)

    async def train(self) -> RunState:
        """To the last step, or until a person or the system asks to stop; returns the state then."""
        with self._progress, _interruptible(self._progress) as stop:
            for line in describe(self._prepared.train):
                self._progress.note(line)
            while True:
                self._trainer = None
                try:
                    return await self._attempt(stop)
                except Exception as error:
                    if refused := full_store(error):
                        raise refused from error
                    what = describe_loss(error)
                    if what is None:
                        raise
                    self._count(what)

    def _count(self, what: str) -> None:
        latest = self._checkpoints.latest()
        done = self._trainer.state.step if self._trainer else latest.step if latest else 0
        self.restarts.count(done, what)
        back = f"the checkpoint of step {latest.step}" if latest else "the start, as there is no checkpoint yet"
        self._progress.note(
            f"{what}; {done} steps were done: fresh actors go on from {back} "
            f"(restart {self.restarts.in_a_row} of {self.restarts.limit})"
        )

    async def _attempt(self, stop: "Stop") -> RunState:
        config, progress = self._config, self._progress
        progress.note("starting the actors")
        cache = self._folder.path.parent / "embeddings.sqlite"
        async with start_all(config, self._tracker, cache=cache, folder=self._folder.path, note=progress.note) as roles:
            self._trainer = trainer = self._make_trainer(roles)
            with self._last_resort.after_a_hang(progress.note):
                return await self._train(trainer, stop)

    async def _train(self, trainer: Trainer, stop: "Stop") -> RunState:
        latest = self._checkpoints.latest()
        if latest is None:
            await trainer.begin()
        else:
            for skipped in latest.skipped:
                self._progress.note(f"skipped a damaged checkpoint: {skipped}")
            self._progress.note(f"resuming from {latest.folder.name}")
            await trainer.resume(latest.folder)
        with stop.waits_for_the_step(trainer, self._config.run.grace_s):
            state = await trainer.run(stop.is_set)
        if not trainer.abandoned:  # else there is no time left
            await trainer.export(self._folder.model)
        return state

    def _make_trainer(self, roles: Roles) -> Trainer:
        config, folder = self._config, self._folder
        return Trainer(
            config,
            roles,
            stream=make_stream(config, self._prepared.train),
            eval_prompts=self._prepared.eval,
            ledger=LedgerWriter(folder.ledger),
            checkpoints=self._checkpoints,
            progress=self._progress,
            samples=folder.samples,
        )


class Stop:
    """What Ctrl-C and SIGTERM ask for: an end after the step in progress, or at once where no step is."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._asked = progress, False
        self._task = asyncio.current_task()
        self._trainer: Trainer | None = None
        self._grace_s = 0.0

    def is_set(self) -> bool:
        """Whether to stop after this step."""
        return self._asked

    def ask(self, number: signal.Signals) -> None:
        """SIGTERM leaves a grace period, a person's Ctrl-C any time; the second one, or one between runs, ends at once.

        Between runs, while actors start, everything that can be saved is saved.
        """
        if self._asked or self._trainer is None:
            if self._task is not None:
                self._task.cancel()
            return
        self._asked = True
        within = ""
        if number == signal.SIGTERM:
            self._trainer.leave_by(asyncio.get_running_loop().time() + self._grace_s)
            within = f", within {self._grace_s:g} s"
        self._progress.note(f"stopping after this step, with a checkpoint{within}; once more to stop at once")

    @contextlib.contextmanager
    def waits_for_the_step(self, trainer: Trainer, grace_s: float) -> Iterator[None]:
        """Inside, `trainer` has steps to finish."""
        self._trainer, self._grace_s = trainer, grace_s
        try:
            yield
        finally:
            self._trainer = None


@contextlib.contextmanager
def _interruptible(progress: Progress) -> Iterator[Stop]:
    """Ctrl-C and SIGTERM are asked of the `Stop` that this gives."""
    stop = Stop(progress)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.ask, number)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
