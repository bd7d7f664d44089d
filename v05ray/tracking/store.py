"""One MLflow run, spoken to in batches; every call may be repeated without changing the outcome.

The only file that imports MLflow's SDK, and only once there is something to send: importing it takes seconds.
"""

import fcntl
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from v05ray.config.dotted import flatten

_SETTINGS = {
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # its own report of every migration would break into the progress line
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the spool retries, and it sees the server's return sooner
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""Set before MLflow is imported, unless the user has set them."""
_METRICS_PER_BATCH, _PARAMS_PER_BATCH = 900, 100  # MLflow takes 1000 entities and 1 MB in one call
_PARAM_LENGTH, _TAG_LENGTH, _KEY_LENGTH = 6000, 8000, 250
_KEY_TAG = "v05ray.run_key"
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE"}


class Away(RuntimeError):
    """MLflow did not answer, or cannot do it now; the same call may work later."""


class Refused(RuntimeError):
    """MLflow will never take this."""


class MlflowStore:
    """The run that bears `run_key`, in one experiment of one tracking store."""

    def __init__(
        self,
        uri: str,
        experiment: str,
        run_name: str,
        run_key: str,
        artifacts: Path | None,
        database: Path | None = None,
    ) -> None:
        """Nothing is contacted yet.

        `artifacts` is where a new experiment keeps them; None leaves it to the server. `database` is the SQLite file
        that `uri` names, None for any other store.
        """
        # Not in the sender's thread: a child process that the caller starts meanwhile would read a moving environ.
        _configure()
        self._uri, self._experiment, self._run_name = uri, experiment, run_name
        self._run_key, self._artifacts, self._database = run_key, artifacts, database
        self._client: Any = None
        self._run_id = ""
        self._params: dict[str, str] = {}

    @property
    def connected(self) -> bool:
        """Whether `connect` has worked."""
        return bool(self._run_id)

    def connect(self, run_id: str | None) -> str:
        """Find or make the run; returns its id. Raises `Away`."""
        with _translated(), _alone_with(self._database):
            if self._client is None:
                self._client = _make_client(self._uri)
            run = self._client.get_run(run_id) if run_id else self._find_or_make()
            self._params = dict(run.data.params)
            self._run_id = run.info.run_id
        return self._run_id

    def _find_or_make(self) -> Any:
        experiment_id = self._experiment_id()
        found = self._client.search_runs([experiment_id], f"tags.`{_KEY_TAG}` = '{self._run_key}'", max_results=1)
        if found:
            return found[0]
        return self._client.create_run(experiment_id, run_name=self._run_name, tags={_KEY_TAG: self._run_key})

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment is None:
            location = None if self._artifacts is None else self._artifacts.as_uri()
            try:
                return self._client.create_experiment(self._experiment, artifact_location=location)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self._client.get_experiment_by_name(self._experiment)  # another run was quicker
        if experiment is None or experiment.lifecycle_stage != "active":
            raise Away(f"the experiment {self._experiment!r} was deleted; restore it or set tracking.experiment")
        return experiment.experiment_id

    def send(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Everything the records say, in order. Raises `Away` or `Refused`; may then be called again with the same."""
        with _translated():
            waiting: list[Any] = []
            for record in records:
                if record["kind"] == "metrics":
                    waiting.extend(_metrics(record))
                    continue
                self._send_metrics(waiting)
                waiting = []
                match record["kind"]:
                    case "params":
                        self._send_params(record["values"])
                    case "artifact":
                        self._send_artifact(Path(record["path"]))
                    case "status":
                        self._send_status(record)
                    case kind:
                        raise Refused(f"unknown kind of record {kind!r}")
            self._send_metrics(waiting)

    def _send_metrics(self, metrics: Sequence[Any]) -> None:
        for start in range(0, len(metrics), _METRICS_PER_BATCH):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])

    def _send_params(self, tree: Mapping[str, Any]) -> None:
        """MLflow never lets a param change, so a value that a resume has changed becomes a tag `resumed.<name>`."""
        from mlflow.entities import Param

        params = {_name(key): _text(value) for key, value in flatten(tree).items()}
        new = [Param(key, value[:_PARAM_LENGTH]) for key, value in params.items() if key not in self._params]
        for start in range(0, len(new), _PARAMS_PER_BATCH):
            self._client.log_batch(self._run_id, params=new[start : start + _PARAMS_PER_BATCH])
        for key, value in params.items():
            if self._params.setdefault(key, value[:_PARAM_LENGTH]) != value[:_PARAM_LENGTH]:
                self._client.set_tag(self._run_id, f"resumed.{key}"[:_KEY_LENGTH], value[:_TAG_LENGTH])

    def _send_artifact(self, path: Path) -> None:
        if path.is_dir():
            self._client.log_artifacts(self._run_id, str(path), artifact_path=path.name)
        elif path.is_file():
            self._client.log_artifact(self._run_id, str(path))
        else:
            raise Refused(f"the artifact {path} is gone")

    def _send_status(self, record: Mapping[str, Any]) -> None:
        if record["status"] == "RUNNING":
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            self._client.set_terminated(self._run_id, status=record["status"], end_time=record["time_ms"])


@contextmanager
def _translated() -> Iterator[None]:
    """Turns what MLflow and its transports raise into `Away` or `Refused`."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        # Transport errors quote the whole call and end with what went wrong.
        message = error.message.partition("\n")[0].rpartition("Caused by ")[2][:300]
        raise (Refused if error.error_code in _REFUSALS else Away)(f"{error.error_code}: {message}") from error
    except (OSError, SQLAlchemyError) as error:  # requests' and urllib3's errors are OSErrors
        raise Away(f"{type(error).__name__}: {str(error)[:300]}") from error


@contextmanager
def _alone_with(database: Path | None) -> Iterator[None]:
    """Inside, no other run connects to the same SQLite file.

    The first contact creates its tables and migrates them. MLflow does not lock that: two at once leave a database that
    is migrated in part, which MLflow refuses from then on.
    """
    if database is None:
        yield
        return
    with database.with_name(f".{database.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given up by the kernel with this process, however that ends
        yield


def _configure() -> None:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in (
        "mlflow",
        "alembic",
        "urllib3.connectionpool",
    ):  # they report every migration and retry on the terminal
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.ERROR)


def _make_client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _metrics(record: Mapping[str, Any]) -> Iterable[Any]:
    from mlflow.entities import Metric

    for key, value in record["values"].items():
        yield Metric(_name(key), float(value), record["time_ms"], record["step"])


def _name(key: str) -> str:
    """MLflow takes letters, digits, `_`, `-`, `.`, `/`, `:` and space, at most 250 of them."""
    return re.sub(r"[^\w\-./: ]", "_", key)[:_KEY_LENGTH]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
