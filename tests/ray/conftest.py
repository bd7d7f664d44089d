"""One private Ray cluster for the whole layer; actors run stubs in place of engines."""

import shutil
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def local_ray() -> Iterator[None]:
    """A cluster of four CPUs (Ray's, not the machine's) on this machine, its sockets under a short path."""
    import ray

    temp_dir = tempfile.mkdtemp(prefix="v05t-")
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
        _temp_dir=temp_dir,
    )
    yield
    ray.shutdown()
    shutil.rmtree(temp_dir, ignore_errors=True)
