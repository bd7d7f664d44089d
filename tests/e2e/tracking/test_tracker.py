"""The tracker against real MLflow on SQLite, and against servers that refuse, hang or answer nonsense."""

import json
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from v05ray.ports import Tracker
from v05ray.tracking import MlflowTracker
from v05ray.tracking.store import MlflowStore, Refused
from v05ray.tracking.uri import default_uri


@pytest.fixture(scope="session")
def template_db(tmp_path_factory) -> Path:
    """An empty MLflow database: making its tables takes seconds, so it is made once."""
    folder = tmp_path_factory.mktemp("template")
    MlflowStore(default_uri(folder), "template", "run", "key", folder / "mlartifacts").connect(None)
    return folder / "mlflow.db"


@pytest.fixture
def output_dir(tmp_path, template_db) -> Path:
    shutil.copy(template_db, tmp_path / "mlflow.db")
    return tmp_path


def make_tracker(output_dir: Path, *, uri: str | None = None, **options) -> MlflowTracker:
    return MlflowTracker(
        output_dir / "run1", uri=uri, output_dir=output_dir, experiment="test", run_name="run1", **options
    )


def client(output_dir: Path):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=default_uri(output_dir))


def run_id_of(tracker: Tracker) -> str:
    """MLflow's id of the run, which the tracker knows once it has reached the server."""
    assert isinstance(tracker, MlflowTracker)
    run_id = tracker.status().run_id
    assert run_id is not None
    return run_id


def history(output_dir: Path, run_id: str | None, key: str) -> list[tuple[int, float]]:
    assert run_id is not None
    return [(m.step, m.value) for m in client(output_dir).get_metric_history(run_id, key)]


def test_what_is_logged_is_in_mlflow(output_dir, tmp_path):
    (tmp_path / "config.yaml").write_text("recipe: v05")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "1.txt").write_text("42")
    tracker: Tracker = make_tracker(output_dir)
    tracker.log_params(
        {"recipe": "v05", "learner": {"betas": [0.9, 0.95], "rate": 1e-6, "cap": None}, "long": "x" * 7000}
    )
    for step in range(1, 4):
        tracker.log_metrics({"actor/grad_norm": step / 2, "reward (chain sum)": -1.0, "empty": math.nan}, step)
    tracker.log_artifact(tmp_path / "config.yaml")
    tracker.log_artifact(tmp_path / "samples")
    tracker.close()

    status = make_status(tracker)
    assert (status.num_pending, status.num_refused, status.last_error) == (0, 0, None)
    run = client(output_dir).get_run(run_id_of(tracker))
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run1"
    assert run.data.params["learner.betas"] == "[0.9, 0.95]"
    assert run.data.params["learner.rate"] == "1e-06"
    assert run.data.params["learner.cap"] == "null"
    assert len(run.data.params["long"]) == 6000
    assert history(output_dir, status.run_id, "actor/grad_norm") == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert history(output_dir, status.run_id, "reward _chain sum_") == [(1, -1.0), (2, -1.0), (3, -1.0)]
    assert all(math.isnan(value) for _, value in history(output_dir, status.run_id, "empty"))
    artifacts = client(output_dir).list_artifacts(run_id_of(tracker))
    assert sorted(a.path for a in artifacts) == ["config.yaml", "samples"]
    assert list((output_dir / "mlartifacts").rglob("1.txt"))  # beside the database, not in the working folder


def make_status(tracker):
    assert isinstance(tracker, MlflowTracker)
    return tracker.status()


def test_a_resumed_run_is_the_same_mlflow_run(output_dir):
    first = make_tracker(output_dir)
    first.log_params({"run": {"num_steps": 10, "seed": 3}})
    first.log_metrics({"a": 1.0}, 1)
    first.close("KILLED")
    assert client(output_dir).get_run(run_id_of(first)).info.status == "KILLED"
    second = make_tracker(output_dir)
    second.log_params({"run": {"num_steps": 20, "seed": 3}, "new": "x"})
    second.log_metrics({"a": 2.0}, 2)
    second.close()
    assert second.status().run_id == first.status().run_id
    assert second.status().num_refused == 0
    run = client(output_dir).get_run(run_id_of(second))
    assert run.info.status == "FINISHED"
    assert run.data.params == {"run.num_steps": "10", "run.seed": "3", "new": "x"}
    assert run.data.tags["resumed.run.num_steps"] == "20"
    assert history(output_dir, second.status().run_id, "a") == [(1, 1.0), (2, 2.0)]


def test_more_than_one_batch_of_metrics_and_params(output_dir):
    tracker = make_tracker(output_dir)
    tracker.log_params({f"p{i}": i for i in range(250)})
    tracker.log_metrics({f"m{i}": float(i) for i in range(2100)}, 1)
    tracker.close()
    run = client(output_dir).get_run(run_id_of(tracker))
    assert len(run.data.params) == 250
    assert len(run.data.metrics) == 2100


def test_a_repetition_is_stored_once(output_dir):
    store = MlflowStore(default_uri(output_dir), "test", "run1", "key1", None)
    run_id = store.connect(None)
    batch = [
        {"kind": "params", "values": {"a": 1}},
        {"kind": "metrics", "step": 1, "time_ms": 1000, "values": {"m": 0.5}},
        {"kind": "metrics", "step": 2, "time_ms": 2000, "values": {"m": 0.25}},
    ]
    store.send(batch)
    store.send(batch)  # as after a crash between sending and noting it
    again = MlflowStore(default_uri(output_dir), "test", "run1", "key1", None)
    assert again.connect(None) == run_id  # as after a crash between making the run and noting its id
    again.send(batch)
    assert history(output_dir, run_id, "m") == [(1, 0.5), (2, 0.25)]


def test_what_mlflow_refuses_is_set_aside_and_holds_nothing_up(output_dir, tmp_path):
    tracker = make_tracker(output_dir)
    tracker.log_metrics({"a": 1.0}, 1)
    tracker.log_artifact(tmp_path / "never-there.txt")
    tracker.log_metrics({"": 1.0}, 2)  # an empty name
    tracker.log_metrics({"a": 3.0}, 3)
    tracker.close()
    assert tracker.status().num_pending == 0
    assert tracker.status().num_refused == 2
    assert history(output_dir, tracker.status().run_id, "a") == [(1, 1.0), (3, 3.0)]
    refused = [json.loads(line) for line in (output_dir / "run1" / "mlflow-refused.jsonl").read_text().splitlines()]
    assert "never-there.txt is gone" in refused[0]["reason"]
    assert refused[1]["record"]["step"] == 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_refuses_costs_no_time_and_no_record(output_dir, caplog):
    uri = f"http://user:hunter22@127.0.0.1:{free_port()}"
    start = time.monotonic()
    tracker = make_tracker(output_dir, uri=uri)
    for step in range(1, 101):
        tracker.log_metrics({"a": 0.5}, step)
    logged = time.monotonic()
    with caplog.at_level(logging.WARNING):
        tracker.close(timeout_s=0.5)
    assert logged - start < 1.0
    assert time.monotonic() - logged < 2.0
    assert tracker.status().run_id is None
    assert tracker.status().num_pending == 102
    assert "has not got 102 records" in caplog.text
    assert "sent by the next start on this run" in caplog.text
    assert "hunter22" not in caplog.text + "".join(p.read_text() for p in (output_dir / "run1").iterdir())


def test_a_server_that_hangs_costs_no_time_and_no_record(output_dir):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, never answers
        tracker = make_tracker(output_dir, uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        for step in range(1, 101):
            tracker.log_metrics({"a": 0.5}, step)
        logged = time.monotonic()
        tracker.close(timeout_s=0.5)
        assert logged - start < 1.0
        assert time.monotonic() - logged < 2.0
    assert tracker.status().num_pending == 102


def test_secrets_are_not_logged(output_dir, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok-123456789")
    tracker = make_tracker(output_dir)
    tracker.log_params({"tracking": {"uri": "postgresql://me:hunter22@host/db"}, "headers": ["Bearer tok-123456789"]})
    tracker.close()
    params = client(output_dir).get_run(run_id_of(tracker)).data.params
    assert params == {"tracking.uri": "postgresql://***@host/db", "headers": '["Bearer ***"]'}


def test_the_password_of_a_tracking_uri_is_in_no_file_and_no_message(output_dir, caplog):
    with socket.socket() as taken:  # no server: what is logged stays in the run's folder
        taken.bind(("127.0.0.1", 0))
        uri = f"http://somebody:not-for-any-file@127.0.0.1:{taken.getsockname()[1]}"
        with caplog.at_level(logging.DEBUG, logger="v05ray"):
            tracker = make_tracker(output_dir, uri=uri)
            tracker.log_params({"tracking": {"uri": uri}})
            tracker.log_metrics({"a": 1.0}, 1)
            deadline = time.monotonic() + 60
            while tracker.status().last_error is None and time.monotonic() < deadline:
                time.sleep(0.05)
            tracker.close(timeout_s=0.5)
    assert "127.0.0.1" in str(tracker.status().last_error) + caplog.text
    assert "not-for-any-file" not in str(tracker.status()) + caplog.text
    files = [path for path in output_dir.rglob("*") if path.is_file()]
    assert output_dir / "run1" / "mlflow-spool.jsonl" in files
    assert [path for path in files if b"not-for-any-file" in path.read_bytes()] == []


ENDLESS = """
import sys, time
from pathlib import Path
from tests.e2e.tracking.test_tracker import make_tracker
tracker = make_tracker(Path(sys.argv[1]))
for step in range(1, 1_000_000):
    tracker.log_metrics({"a": float(step), "b": -float(step)}, step)
    print(step, flush=True)
    time.sleep(0.001)
"""


def test_a_killed_run_loses_and_repeats_no_metric(output_dir):
    child = subprocess.Popen([sys.executable, "-c", ENDLESS, str(output_dir)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    spool = output_dir / "run1" / "mlflow-spool.jsonl.sent"
    while not spool.exists():  # until it is in the middle of sending
        assert child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    steps = [int(line) for line in child.stdout.read().split() if line.isdigit()]
    child.wait()
    tracker = make_tracker(output_dir)
    tracker.close(timeout_s=60)
    seen = [step for step, _ in history(output_dir, tracker.status().run_id, "a")]
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) >= max(steps, default=1)
    assert len(client(output_dir).search_runs(["1", "2"])) == 2  # the template's, and one of ours


def test_a_closed_tracker_says_so(output_dir):
    tracker = make_tracker(output_dir)
    tracker.close()
    tracker.close()
    with pytest.raises(RuntimeError, match="the tracker is closed"):
        tracker.log_metrics({"a": 1.0}, 1)


def test_an_unwritable_run_folder_is_a_clear_error(tmp_path):
    (tmp_path / "run1").write_text("")
    with pytest.raises(RuntimeError, match=r"cannot write .*run1"):
        make_tracker(tmp_path)


def test_a_damaged_record_in_the_spool_is_set_aside(output_dir):
    (output_dir / "run1").mkdir()
    (output_dir / "run1" / "mlflow-spool.jsonl").write_text("\x00\x00\n")
    tracker = make_tracker(output_dir)
    tracker.log_metrics({"a": 1.0}, 1)
    tracker.close()
    assert (tracker.status().num_refused, tracker.status().num_pending) == (1, 0)
    assert history(output_dir, tracker.status().run_id, "a") == [(1, 1.0)]


def test_an_unknown_record_is_refused(output_dir):
    store = MlflowStore(default_uri(output_dir), "test", "run1", "key1", None)
    store.connect(None)
    with pytest.raises(Refused, match="unknown kind of record 'damaged'"):
        store.send([{"kind": "damaged", "text": "x"}])


FIRST_CONTACT = """
import sys, time
from pathlib import Path
from v05ray.tracking import MlflowTracker
import mlflow.store.tracking.sqlalchemy_store  # else the slower import lets the other one go first

name, output = sys.argv[1], Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
tracker = MlflowTracker(output / name, uri=None, output_dir=output, experiment="test", run_name=name)
tracker.log_metrics({"reward": 1.0}, 1)
tracker.close(timeout_s=100)
"""


def test_runs_that_make_the_database_at_once_are_both_recorded(tmp_path):
    runs = {
        name: subprocess.Popen(
            [sys.executable, "-c", FIRST_CONTACT, name, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two", "three")
    }
    for process in runs.values():
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in runs.values():
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = {name: process.communicate(timeout=120)[1] for name, process in runs.items()}
    assert not any("is away" in words or "has not got" in words for words in said.values()), said
    for name in runs:
        run_id = json.loads((tmp_path / name / "mlflow-run.json").read_text())["run_id"]
        assert history(tmp_path, run_id, "reward") == [(1, 1.0)]
