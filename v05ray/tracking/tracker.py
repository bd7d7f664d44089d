"""MLflow behind `ports.Tracker`: training never waits for it, and nothing logged is lost while it is away.

    log_*()  --one line-->  RUN/mlflow-spool.jsonl  --background thread-->  MLflow (SQLite file, server, database)

Every call appends one record to the spool and returns. A daemon thread sends what the spool holds and removes it once
MLflow has it; while MLflow is away or slow, records wait, over the end of the process if need be: the next tracker on
the same RUN folder sends them first. A record sent twice (killed between sending and removing) carries the same
timestamp and is stored once. The run's id is kept in RUN/mlflow-run.json, so a resumed run continues it.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from v05ray.config.redaction import redact, redact_tree
from v05ray.errors import RunError
from v05ray.storage import durable
from v05ray.tracking.spool import Spool, Spooled
from v05ray.tracking.store import Away, MlflowStore, Refused
from v05ray.tracking.uri import check_uri, default_uri, sqlite_path

logger = logging.getLogger(__name__)
SPOOL_NAME = "mlflow-spool.jsonl"
REFUSED_NAME = "mlflow-refused.jsonl"
RUN_NAME = "mlflow-run.json"
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
Ending = Literal["FINISHED", "FAILED", "KILLED"]


class TrackingError(RunError):
    """Not even the spool can be written; the message names it."""


@dataclass(frozen=True, slots=True)
class TrackerStatus:
    """How far MLflow is behind."""

    run_id: str | None
    """None until MLflow answered for the first time."""
    num_pending: int
    """Records that wait in the spool."""
    num_refused: int
    """Records that MLflow will not take (in RUN/mlflow-refused.jsonl, with its reason)."""
    last_error: str | None
    """Why the last attempt failed; None when it worked."""


class MlflowTracker:
    """Implements `ports.Tracker`; one per RUN folder at a time."""

    def __init__(
        self,
        run_dir: Path,
        *,
        uri: str | None,
        output_dir: Path,
        experiment: str,
        run_name: str,
        close_timeout_s: float = 20.0,
    ) -> None:
        """Starts the sender and returns at once, whether or not MLflow is there.

        Args:
            run_dir: RUN; the spool and the run's id live here.
            uri: MLflow tracking URI; None means `output_dir`/mlflow.db with artifacts beside it.
            output_dir: where the embedded store goes.
            experiment: MLflow experiment, made if need be.
            run_name: MLflow's name for the run.
            close_timeout_s: longest time that `close` waits for what is pending, in seconds.

        Raises:
            ConfigError: a malformed URI.
            TrackingError: RUN cannot be written.
        """
        self.uri = check_uri(uri) or default_uri(output_dir)
        self._run_dir, self._close_timeout_s = run_dir, close_timeout_s
        database = sqlite_path(self.uri)
        artifacts = None if database is None else database.parent / "mlartifacts"
        try:
            if database is not None:
                database.parent.mkdir(parents=True, exist_ok=True)
            self._spool = Spool(run_dir / SPOOL_NAME)
            self._identity = _Identity.open(run_dir / RUN_NAME, redact(self.uri))
            self._spool.append({"kind": "status", "status": "RUNNING"})
        except OSError as error:
            raise TrackingError(f"cannot write {error.filename or run_dir}: {error.strerror or error}") from error
        self._store = MlflowStore(self.uri, experiment, run_name, self._identity.key, artifacts, database)
        self._last_error: str | None = None
        self._num_refused = 0
        self._wake, self._closing, self._abandoned = threading.Event(), threading.Event(), threading.Event()
        self._sender = threading.Thread(target=self._run, name="mlflow-sender", daemon=True)
        self._sender.start()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics of one step; characters that MLflow refuses in a name become `_`. NaN and infinity are kept."""
        self._append({"kind": "metrics", "step": step, "time_ms": time.time_ns() // 1_000_000, "values": dict(metrics)})

    def log_params(self, params: Mapping[str, object]) -> None:
        """A nested mapping, logged with dotted names; secrets are replaced. A changed one (after a resume) is a tag."""
        self._append({"kind": "params", "values": redact_tree(json.loads(json.dumps(params, default=str)))})

    def log_artifact(self, path: Path) -> None:
        """A file or a folder, read when it is sent: it must stay as it is until `close`."""
        self._append({"kind": "artifact", "path": str(path.absolute())})

    def status(self) -> TrackerStatus:
        """How far MLflow is behind."""
        return TrackerStatus(self._identity.run_id, len(self._spool), self._num_refused, self._last_error)

    def close(self, status: Ending = "FINISHED", timeout_s: float | None = None) -> None:
        """Send what is pending, for at most `timeout_s`; the rest waits in RUN for the next tracker."""
        if self._closing.is_set():
            return
        self._append({"kind": "status", "status": status, "time_ms": time.time_ns() // 1_000_000})
        self._closing.set()
        self._wake.set()
        self._sender.join(self._close_timeout_s if timeout_s is None else timeout_s)
        if self._sender.is_alive():
            self._abandoned.set()  # it may hang in a request; whatever becomes of that, the spool keeps the records
        else:
            self._spool.close()
        if pending := len(self._spool):
            logger.warning("%s; %s", self._away_message(pending), "they are sent by the next start on this run")

    def _append(self, record: Mapping[str, Any]) -> None:
        if self._closing.is_set():
            raise TrackingError("the tracker is closed")
        try:
            self._spool.append(record)
        except OSError as error:
            raise TrackingError(f"cannot write {self._spool.path}: {error.strerror or error}") from error
        self._wake.set()

    def _away_message(self, pending: int) -> str:
        reason = self._last_error or "it takes its time"
        return f"MLflow at {redact(self.uri)} has not got {pending} records ({reason}), kept in {self._spool.path}"

    def _run(self) -> None:
        """The sender thread: ends when closing and done, or abandoned."""
        wait_s = _FIRST_WAIT_S
        while not self._abandoned.is_set():
            self._wake.clear()
            batch = self._spool.peek()
            if not batch:
                if self._closing.is_set():
                    return
                self._wake.wait()
                continue
            try:
                self._send(batch)
            except Away as error:
                if self._last_error is None:
                    logger.warning(
                        "MLflow at %s is away (%s); records wait in RUN", redact(self.uri), redact(str(error))
                    )
                self._last_error = redact(str(error))
                # While closing, retry briskly until `close` gives up: the deadline is there, not here.
                self._closing.wait(wait_s) if not self._closing.is_set() else self._abandoned.wait(_FIRST_WAIT_S)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                continue
            wait_s = _FIRST_WAIT_S

    def _send(self, batch: list[Spooled]) -> None:
        self._spool.flush()
        if not self._store.connected:
            run_id = self._store.connect(self._identity.run_id)
            self._identity.keep(run_id)
        try:
            self._store.send([spooled.record for spooled in batch])
            self._done(batch[-1])
        except Refused:
            for spooled in batch:  # one of them is at fault: the others must not be held up by it
                try:
                    self._store.send([spooled.record])
                except Refused as error:
                    self._set_aside(spooled.record, redact(str(error)))
                self._done(spooled)

    def _done(self, last: Spooled) -> None:
        if self._last_error is not None:
            logger.warning("MLflow at %s answers again", redact(self.uri))
        # Before the record leaves the spool: a reader must not see nothing pending and an error that is over.
        self._last_error = None
        if not self._abandoned.is_set():  # another tracker may own the spool by now
            self._spool.acknowledge(last.end)

    def _set_aside(self, record: Mapping[str, Any], reason: str) -> None:
        with (self._run_dir / REFUSED_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"reason": reason, "record": record}) + "\n")
        self._num_refused += 1
        logger.warning("MLflow refused a record of kind %s (%s); kept in RUN/%s", record["kind"], reason, REFUSED_NAME)


class _Identity:
    """Which MLflow run this RUN folder is: a key made before the first contact, and MLflow's id after it.

    The key goes with the run as a tag, so a process killed between making the run and noting its id finds it again.
    """

    def __init__(self, path: Path, uri: str, key: str, run_id: str | None) -> None:
        self._path, self._uri, self.key, self.run_id = path, uri, key, run_id

    @classmethod
    def open(cls, path: Path, uri: str) -> "_Identity":
        """What is noted in `path`; a fresh key where nothing is, or where the tracking URI has changed."""
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
            if noted["uri"] == uri:
                return cls(path, uri, noted["key"], noted["run_id"])
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            raise TrackingError(f"{path} is damaged ({error}); delete it to start another MLflow run") from error
        identity = cls(path, uri, uuid.uuid4().hex, None)
        identity.keep(None)
        return identity

    def keep(self, run_id: str | None) -> None:
        """Note the id on disk."""
        self.run_id = run_id
        durable.replace_text(self._path, json.dumps({"uri": self._uri, "key": self.key, "run_id": run_id}, indent=1))
