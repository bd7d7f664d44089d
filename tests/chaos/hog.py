"""`python -m tests.chaos.hog ADDRESS`: fills the object store of every node of a cluster, and holds on to it."""

import logging
import sys
import time
from typing import Any

import ray
from ray.exceptions import OutOfDiskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

PIECE = 2**20
AGAIN_S = 0.1


class Hog:
    """Holds what it put and reads it: Ray can neither evict nor spill an object that is being read."""

    def __init__(self) -> None:
        self._held: list[Any] = []

    def fill(self, num_bytes: int) -> None:
        """Takes what is left of `num_bytes`, to less than one piece."""
        import numpy as np

        while len(self._held) < num_bytes // PIECE - 1:
            try:
                reference = ray.put(np.zeros(PIECE - 4096, np.uint8))
            except OutOfDiskError:  # what others have put takes the rest
                return
            self._held.append((reference, ray.get(reference)))


def main(address: str) -> None:
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    hogs = []
    for node in ray.nodes():
        if node["Alive"]:
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            hog: Any = ray.remote(Hog).options(num_cpus=0, scheduling_strategy=place).remote()
            hogs.append((hog, int(node["Resources"]["object_store_memory"])))
    ray.get([hog.fill.remote(size) for hog, size in hogs])
    print("full", flush=True)
    while True:  # what others give back is taken too
        ray.get([hog.fill.remote(size) for hog, size in hogs])
        time.sleep(AGAIN_S)


if __name__ == "__main__":
    main(sys.argv[1])
