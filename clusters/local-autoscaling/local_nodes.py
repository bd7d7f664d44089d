"""Ray's fake_multinode provider, with a folder of its own for each node's copies of the jobs' working directories.

Unmodified, all its nodes share one, and every node that comes deletes a running job's working directory to unpack it
afresh (`overwrite=True` in Ray's working_dir.py): processes of the job lose the folder they run in. Real nodes have
disks of their own.
"""

from typing import Any

from ray._private import ray_constants
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class LocalNodes(FakeMultiNodeProvider):
    """Starts each node as processes of this machine."""

    def _create_node_with_resources_and_labels(self, *arguments: Any, **named: Any) -> None:
        shared = ray_constants.DEFAULT_RUNTIME_ENV_DIR_NAME
        with self.lock:
            # The parameters of a node take the name from here, and offer the provider no other way in.
            ray_constants.DEFAULT_RUNTIME_ENV_DIR_NAME = f"{shared}_{self._next_node_id + 1}"
            try:
                super()._create_node_with_resources_and_labels(*arguments, **named)
            finally:
                ray_constants.DEFAULT_RUNTIME_ENV_DIR_NAME = shared
