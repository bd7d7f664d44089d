"""A real MLflow server is killed while a run logs, and comes back: no metric lost, none twice."""

import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.tracking.outage_server import Server
from v05ray.tracking import MlflowTracker


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def make_tracker(tmp_path: Path, uri: str) -> MlflowTracker:
    return MlflowTracker(tmp_path / "run1", uri=uri, output_dir=tmp_path, experiment="outage", run_name="run1")


def steps_of(uri: str, run_id: str | None, key: str) -> list[int]:
    from mlflow.tracking import MlflowClient

    assert run_id is not None
    return [metric.step for metric in MlflowClient(tracking_uri=uri).get_metric_history(run_id, key)]


def test_a_server_killed_and_brought_back_misses_nothing(tmp_path):
    server = Server(tmp_path)
    tracker = make_tracker(tmp_path, server.uri)  # it is not there yet
    try:
        for step in range(1, 21):
            tracker.log_metrics({"a": float(step)}, step)
        server.start()
        wait_until(lambda: tracker.status().num_pending == 0)
        for step in range(21, 401):
            tracker.log_metrics({"a": float(step)}, step)
            if step == 100:
                server.kill()  # with records on their way
        wait_until(lambda: tracker.status().last_error is not None)
        assert tracker.status().num_pending > 0
        server.start()
        (tmp_path / "note.txt").write_text("42")
        tracker.log_artifact(tmp_path / "note.txt")
        tracker.log_metrics({"a": 401.0}, 401)
        wait_until(lambda: tracker.status().num_pending == 0)
        assert tracker.status().last_error is None
        tracker.log_metrics({"a": 402.0}, 402)
        server.kill()
        tracker.close(timeout_s=0.2)  # the run ends during the second outage
        assert tracker.status().num_pending > 0

        server.start()
        resumed = make_tracker(tmp_path, server.uri)
        resumed.log_metrics({"a": 403.0}, 403)
        resumed.close(timeout_s=60)
        assert resumed.status().run_id == tracker.status().run_id
        assert resumed.status().num_pending == 0
        assert steps_of(server.uri, resumed.status().run_id, "a") == list(range(1, 404))
        assert (next((tmp_path / "artifacts").rglob("note.txt"))).read_text() == "42"
    finally:
        server.kill()
