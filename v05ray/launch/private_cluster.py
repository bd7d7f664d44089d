"""The Ray cluster of a run on one machine: started for it, reached by it alone, and ended with it.

Four settings of Ray's have no public switch; each is set here while Ray starts, and put back.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray._common.usage import usage_lib
from ray._private import ray_constants, services
from ray._private import utils as ray_utils
from ray._private.node import Node

from v05ray.config import Config
from v05ray.errors import RunError
from v05ray.job.preflight import local_node
from v05ray.launch import cluster_guard, temp_folder
from v05ray.stopping.stop_signals import StopSignals

log = logging.getLogger(__name__)
NOT_FOR_RAY = (signal.SIGTERM, signal.SIGHUP)
"""Blocked in Ray's processes, where Ray itself blocks SIGINT: only the driver acts on signals, and ends the others."""


@contextlib.contextmanager
def private_cluster(config: Config, logs: Path, signals: StopSignals | None = None) -> Iterator[None]:
    """Inside, Ray runs; its logs end up in the folder `logs`, and none of its processes is left afterwards.

    `signals` are kept back while Ray starts and while it ends, and installed again after its start.
    """
    asked_dir = config.cluster.temp_dir
    with temp_folder.owned(logs) if asked_dir is None else contextlib.nullcontext(asked_dir) as temp_dir:
        # The guard's end comes after Ray's and before the folder's, which the last processes still write into.
        with _guard() as guard, _writable_home(temp_dir):
            try:
                with signals.held() if signals else contextlib.nullcontext():
                    _start(config, temp_dir, guard, logs)
                    if signals:
                        signals.install()
                yield
            finally:
                if signals:
                    signals.ending()
                ray.shutdown()
        if asked_dir is not None and logs.is_symlink():
            temp_folder.keep_logs(logs)


def _start(config: Config, temp_dir: Path, guard: "_Guard", logs: Path) -> None:
    """Starts Ray and joins it; `logs` becomes a link to its logs, also where it did not start."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A record of every task is for the dashboard, which a private cluster has not; else the GCS grows with each step.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    node = local_node(config)
    with _on_loopback(), _handlers_kept(), _nothing_idle(), guard.watches_what_ray_starts():
        try:
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
        except Exception as error:
            if type(error) is not Exception:
                raise
            # Ray has no class of its own for this one: its node was not there after 30 s, which cannot be set.
            _link(logs, (temp_dir / "session_latest").resolve() / "logs")
            raise RunError(
                f"Ray did not start on this machine: {error} The machine may be short of CPU time or of memory: try "
                f"again when less runs beside; Ray's logs are in {logs}"
            ) from error
    _link(logs, Path(context.address_info["session_dir"]) / "logs")


def _link(logs: Path, target: Path) -> None:
    """Makes `logs` a link to `target`; what has that name already gets another."""
    if logs.is_symlink() or logs.exists():
        logs.rename(logs.with_name(f"{logs.name}-before-{os.getpid()}"))
    logs.symlink_to(target)


@contextlib.contextmanager
def _writable_home(temp_dir: Path) -> Iterator[None]:
    """Inside, HOME names a folder that can be written to: one in `temp_dir`, where the user's own cannot.

    Ray keeps its token in it, and some libraries make folders in it as they are imported.
    """
    before = os.environ.get("HOME")
    if _can_write(before):
        yield
        return
    home = temp_dir / "home"
    home.mkdir(mode=0o700)
    log.warning("HOME (%s) cannot be written to: what libraries keep there goes to a folder of this run", before)
    os.environ["HOME"] = str(home)
    try:
        yield
    finally:
        if before is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = before


def _can_write(home: str | None) -> bool:
    try:
        folder = Path(home) if home else Path.home()
        with tempfile.TemporaryFile(dir=folder):
            return True
    except (OSError, RuntimeError):  # RuntimeError: the user has no home at all
        return False


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Inside, a cluster that is started listens on loopback alone.

    Otherwise Ray takes the machine's network address, where even without a dashboard its agent accepts jobs from
    whatever has its token. Ray's flag for it is read from the environment at import; clusters of several machines must
    not have it.
    """
    with _replaced(ray_constants, "ENABLE_RAY_CLUSTER", False):
        yield


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Inside, Ray does not replace the process's handler of SIGTERM, which would end it with Ray's exit codes."""
    with _replaced(ray_utils, "set_sigterm_handler", lambda handler: None):
        yield


@contextlib.contextmanager
def _nothing_idle() -> Iterator[None]:
    """Inside, a head that is started starts without the processes that a private cluster does not need.

    Their start takes seconds. They are the autoscaler's, which has no nodes to bring; the one that sends logs to the
    driver, which wants none; and the dashboard's server, which without a dashboard sends usage statistics and is waited
    for all the same: it stays where the user has allowed those.
    """
    with contextlib.ExitStack() as stack:
        for start in ("start_monitor", "start_log_monitor"):
            stack.enter_context(_replaced(Node, start, lambda node: None))
        if not usage_lib.usage_stats_enabled():
            stack.enter_context(_replaced(Node, "start_api_server", lambda node, **options: None))
        yield


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


class _Guard:
    """The driver's end of `cluster_guard`."""

    def __init__(self) -> None:
        self._mark = uuid4().hex
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", cluster_guard.__file__, self._mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def end(self) -> None:
        """Returns when no process of the cluster is left; warns of those that had to be killed."""
        try:
            hung, _ = self._process.communicate(timeout=4 * cluster_guard.GRACE_S)
        except subprocess.TimeoutExpired:
            log.warning("some of Ray's processes are still there: the kernel does not end them")
            return
        if lines := hung.split("\n")[:-1]:
            log.warning("killed what did not leave at the end of the run: %s", ", ".join(lines))

    @contextlib.contextmanager
    def watches_what_ray_starts(self) -> Iterator[None]:
        """Inside, each process that Ray starts gets a session of its own, which is reported to the guard.

        The session keeps a terminal's signals away, and the blocked signals those that are sent to every process of a
        job: systemd, Slurm and container runtimes do that. All that Ray's processes start inherits both.
        """
        guard = self._process.stdin
        assert guard is not None

        class InSession(services.ConsolePopen):
            def __init__(self, *arguments: Any, preexec_fn: Any = None, **options: Any) -> None:
                def prepare() -> None:
                    if preexec_fn is not None:
                        preexec_fn()
                    signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_RAY)

                super().__init__(*arguments, preexec_fn=prepare, start_new_session=True, **options)
                guard.write(f"{self.pid}\n")  # of a session's first process the number is also the session's
                guard.flush()

            def terminate(self) -> None:
                # SIGTERM is blocked, and there is nothing to save: the actors are gone, the sockets' folder is deleted.
                self.kill()

        os.environ[cluster_guard.VARIABLE] = self._mark
        try:
            with _replaced(services, "ConsolePopen", InSession):
                yield
        finally:
            del os.environ[cluster_guard.VARIABLE]


@contextlib.contextmanager
def _guard() -> Iterator[_Guard]:
    guard = _Guard()
    try:
        yield guard
    finally:
        guard.end()
