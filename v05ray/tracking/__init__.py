"""Experiment tracking: MLflow, behind a spool on disk so that training never waits and nothing is lost.

tracker.py   what the driver holds: `ports.Tracker`, the sender thread
spool.py     the queue on disk between them
store.py     MLflow's SDK: the only file that imports it
naming.py    metric names as MLflow takes them
uri.py       where the tracking store is, and how to look at it
"""

from v05ray.tracking.tracker import MlflowTracker, TrackerStatus, TrackingError
from v05ray.tracking.uri import check_uri, default_uri, how_to_look

__all__ = ["MlflowTracker", "TrackerStatus", "TrackingError", "check_uri", "default_uri", "how_to_look"]
