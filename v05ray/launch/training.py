"""Connect to Ray, reserve, start, wire, run, tear down. The loop itself is in `training/driver.py`."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import ray
import yaml

from v05ray.actors.loss import describe_loss, full_store, plain_errors
from v05ray.actors.placement import join, node_types, nodes
from v05ray.actors.probe import measure_generator_node
from v05ray.actors.start import start_all
from v05ray.config import Config
from v05ray.config.redaction import redact
from v05ray.data.stream import describe
from v05ray.errors import RunError
from v05ray.job.config_files import to_yaml
from v05ray.job.preflight import Prepared, check_resources, local_node, make_stream, prepare
from v05ray.launch.private_cluster import private_cluster
from v05ray.ledger import LedgerWriter
from v05ray.losses.updates import describe_updates
from v05ray.machine import layout
from v05ray.machine.fitting import fit_to_machine
from v05ray.machine.memory import PeakMemory
from v05ray.machine.object_store import shortage
from v05ray.ports import Roles
from v05ray.stopping.disk import LastResort
from v05ray.stopping.exit_codes import ExitCode, StoppedAtOnce
from v05ray.stopping.stop_signals import Stop, StopSignals
from v05ray.storage.checkpoint import Checkpoints, check_config
from v05ray.storage.run_folder import RunFolder, check_output_dir, folder_to_resume, held, new_folder
from v05ray.tracking import MlflowTracker
from v05ray.training.driver import Trainer
from v05ray.training.progress import Progress
from v05ray.training.run_state import RunState

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
    exit_code: ExitCode
    """`DONE`, or that of a stop by a signal before the last step."""

    @property
    def interrupted(self) -> bool:
        """Whether a signal stopped it before its last step."""
        return self.exit_code is not ExitCode.DONE


def run(config: Config, *, resume: str | None = None) -> Outcome:
    """Trains as the config says; returns after the last step, or after an interruption, with everything saved.

    Args:
        config: the resolved config.
        resume: a run's folder, or `auto` for the newest of this name (a new one if there is none yet); it resumes
            from its newest checkpoint, or begins again where it has none. None starts a new run.

    Raises:
        ConfigError: the config cannot be run here; nothing heavy has been started.
        RunError: actors were lost more often in a row than `run.max_restarts` allows, or a disk refused; what was
            checkpointed can be resumed.
        StoppedAtOnce: a signal ended it without waiting for the step in progress.
    """
    with StopSignals() as signals:
        return _under(signals, config, resume)


def _under(signals: StopSignals, config: Config, resume: str | None) -> Outcome:
    start = time.monotonic()
    check_output_dir(config.run.output_dir)  # before the machine is measured and prompts are loaded
    folder = folder_to_resume(config.run.output_dir, config.run.name, resume) if resume else None
    resumed = folder is not None
    fitted = fit_to_machine(config, saved=folder.config if folder else None, measure_node=measure_generator_node)
    config = fitted.config
    prepared = replace(prepare(config), machine=fitted.reason)
    if config.cluster.address is None:
        check_resources(config, [local_node(config)])
    folder = folder or new_folder(config.run.output_dir, config.run.name)
    with LastResort() as last_resort, held(folder):
        checkpoints = Checkpoints(folder.path, config.model_dump(mode="json"), keep=config.run.keep_checkpoints)
        if resumed:
            _check_resumable(config, folder, checkpoints)
        else:
            folder.config.write_text(redact(to_yaml(config)))
        try:
            return _in_folder(signals, config, prepared, folder, checkpoints, last_resort, start)
        except KeyboardInterrupt:
            raise StoppedAtOnce(checkpoints.newest_step(), str(folder.path)) from None


def _in_folder(
    signals: StopSignals,
    config: Config,
    prepared: Prepared,
    folder: RunFolder,
    checkpoints: Checkpoints,
    last_resort: LastResort,
    start: float,
) -> Outcome:
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
        with PeakMemory() as memory, cluster(config, folder.logs, signals):
            work = _Training(config, prepared, folder, checkpoints, tracker, last_resort, signals)
            state = run_to_end(work.train(), signals)
        code = _ending(state, config, checkpoints)
        outcome = Outcome(folder, state, memory.peak_bytes, time.monotonic() - start, code)
        folder.summary.write_text(
            json.dumps({**asdict(state), "peak_bytes": outcome.peak_bytes, "restarts": work.restarts.total}, indent=1)
        )
        tracker.log_artifact(folder.summary)
    except KeyboardInterrupt:
        with contextlib.suppress(RunError):
            tracker.close("KILLED")
        raise
    except BaseException:
        with contextlib.suppress(RunError):  # a full disk refuses this too; the first error is the one to report
            tracker.close("FAILED")
        raise
    tracker.close("KILLED" if outcome.interrupted else "FINISHED")
    return outcome


def _ending(state: RunState, config: Config, checkpoints: Checkpoints) -> ExitCode:
    if state.step >= config.run.num_steps:
        return ExitCode.DONE
    return ExitCode.STOPPED_EMPTY if checkpoints.newest_step() is None else ExitCode.STOPPED


def _check_resumable(config: Config, folder: RunFolder, checkpoints: Checkpoints) -> None:
    """Raises `ConfigError` where the folder's run is another config's, or its checkpoints are all damaged."""
    latest = checkpoints.latest()
    if latest is not None:
        checkpoints.load(latest.folder)
    elif folder.config.is_file():  # it ended before its first checkpoint: it begins again
        saved, wanted = (yaml.safe_load(text) for text in (folder.config.read_text(), redact(to_yaml(config))))
        check_config(saved, wanted, where=str(folder.config))


def run_to_end(work: Coroutine[Any, Any, T], signals: StopSignals) -> T:
    """`asyncio.run`; a run that a signal stopped at once ends as a KeyboardInterrupt."""
    try:
        return asyncio.run(work)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        signals.ending()


@contextlib.contextmanager
def cluster(config: Config, logs: Path, signals: StopSignals | None = None) -> Iterator[None]:
    """Joins the configured cluster, or runs a private one whose logs end up in the folder `logs`.

    `signals` are those of this process, which stay as they are.
    """
    if config.cluster.address is not None:
        with signals.held() if signals else contextlib.nullcontext():
            join(config.cluster.address)
            if signals:
                signals.install()  # Ray has set its own handler of SIGTERM
        try:
            check_resources_or_wait(config)
            yield
        finally:
            ray.shutdown()
        return
    with private_cluster(config, logs, signals):
        yield


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
                f"{what}{again}; fix the cause (the logs are in the run's folder) and continue with --resume, or raise "
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
        signals: StopSignals,
    ) -> None:
        self._config, self._prepared, self._folder = config, prepared, folder
        self._checkpoints, self._tracker, self._last_resort = checkpoints, tracker, last_resort
        self._signals = signals
        self._progress = Progress(num_steps=config.run.num_steps)
        self._trainer: Trainer | None = None
        self.restarts = Restarts(config.run.max_restarts)

    async def train(self) -> RunState:
        """To the last step, or until a person or the system asks to stop; returns the state then."""
        stop = Stop(self._progress.note)
        with plain_errors(), self._progress, self._signals.delivered(stop.request):
            self._progress.note(self._prepared.machine)
            self._progress.note(describe_updates(self._config))
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
            f"{what}; {done} steps were done: fresh actors resume from {back} "
            f"(restart {self.restarts.in_a_row} of {self.restarts.limit})"
        )

    async def _attempt(self, stop: Stop) -> RunState:
        config, progress = self._config, self._progress
        progress.note("starting the actors")
        cache = self._folder.path.parent / "embeddings.sqlite"
        async with start_all(config, self._tracker, cache=cache, folder=self._folder.path, note=progress.note) as roles:
            self._trainer = trainer = self._make_trainer(roles)
            with self._last_resort.after_a_hang(progress.note):
                return await self._train(trainer, stop)

    async def _train(self, trainer: Trainer, stop: Stop) -> RunState:
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
