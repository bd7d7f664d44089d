"""All that a disturbed run needs and that can be taken from it: nodes, a disk, an MLflow server, the store."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from tests.e2e.tracking.outage_server import Server

SABOTAGE = Path(__file__).parent / "sabotage"
DISK_MIB = 400
"""Of the run's output: some checkpoints of a tiny model."""
STORE_BYTES = 100 << 20
NODES: dict[str, dict[str, Any]] = {
    "generator": {"num_cpus": 1, "resources": {"generator": 1}},
    "learner": {"num_cpus": 2, "resources": {"learner": 1}},
}
HEAD = {"num_cpus": 2, "resources": {"value": 1}, "include_dashboard": False}
QUICK_DEATH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
"""So that a lost node is noticed within two seconds or three."""
OWN = ("ray::GeneratorActor", "ray::LearnerActor", "ray::SchedulerActor", "ray::ValueActor", "ray::RewardActor")
"""What a run starts on a cluster's nodes."""
LEAVE_S = 20.0


class World:
    """Use as a context manager."""

    def __init__(self, *, small_disk: bool = True, can_spill: bool = True) -> None:
        """A `small_disk` needs the right to mount, which `unshare --map-root-user --mount` gives to anyone.

        Where Ray cannot spill, it counts the disk behind its object store as full from the start; elsewhere not before
        its last byte, however full the disk of the machine is.
        """
        self._small_disk = small_disk
        self._system_config = {**QUICK_DEATH, "local_fs_capacity_threshold": 1.0 if can_spill else 0.0001}
        self._scratch = Path(tempfile.mkdtemp(prefix="v05w-"))
        self.output = self._folder("disk")
        """Where runs go: a small disk of its own."""
        self._sabotage = self._folder("sabotage")
        self.mlflow = Server(self._folder("mlflow"))
        self._nodes: dict[str, Any] = {}
        self._hog: subprocess.Popen[str] | None = None

    def _folder(self, name: str) -> Path:
        folder = self._scratch / name
        folder.mkdir()
        return folder

    def __enter__(self) -> "World":
        if self._small_disk:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "v05chaos", str(self.output)]
            subprocess.run(mount, check=True, env=dict(os.environ))
        path = os.pathsep.join([str(SABOTAGE), *filter(None, [os.environ.get("PYTHONPATH")])])
        os.environ |= {
            "RAY_TMPDIR": str(self._scratch),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": path,
            "V05RAY_SABOTAGE": str(self._sabotage),
        }
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={**HEAD, "object_store_memory": STORE_BYTES, "_system_config": self._system_config},
        )
        for kind in NODES:
            self.bring_node(kind)
        self.mlflow.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.free_store()
        self.mlflow.kill()
        self._cluster.shutdown()
        if self._small_disk:
            subprocess.run(["umount", "--lazy", str(self.output)], check=True, env=dict(os.environ))
        shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def settings(self) -> tuple[str, ...]:
        """Overrides of a run that needs all this."""
        return (
            f"cluster.address={self._cluster.address}",
            "cluster.node_types=true",
            "cluster.wait_s=60",
            f"tracking.uri={self.mlflow.uri}",
            "rewards.verifier={name: python, path: 'sabotaged_verifier:Verifier'}",
        )

    @property
    def logs(self) -> Path:
        """Of Ray and all actors."""
        head: Any = self._cluster.head_node
        return Path(head.get_session_dir_path()) / "logs"

    def sabotage(self, name: str) -> float:
        """`fail-load`, `crash`, `hang` or `eat-memory`, at the next occasion; returns when that was asked."""
        (self._sabotage / name).touch()
        return time.monotonic()

    def take_node(self, kind: str) -> float:
        """As a spot market does: without a word. Returns when."""
        at = time.monotonic()
        self._cluster.remove_node(self._nodes.pop(kind), allow_graceful=False)
        return at

    def bring_node(self, kind: str) -> None:
        """A fresh one."""
        self._nodes[kind] = self._cluster.add_node(**NODES[kind], object_store_memory=STORE_BYTES)

    def fill_disk(self) -> float:
        """To the last byte; returns when it was full."""
        with (self.output / "ballast").open("wb", buffering=0) as ballast:
            piece = bytes(2**20)
            try:
                while True:
                    if ballast.write(piece) < len(piece):
                        piece = piece[: max(1, len(piece) // 2)]
            except OSError:
                return time.monotonic()

    def free_disk(self) -> None:
        """As an operator would who sees the report."""
        (self.output / "ballast").unlink()

    def fill_store(self) -> float:
        """Of every node; returns when all were full."""
        program = [sys.executable, "-m", "tests.chaos.hog", self._cluster.address]
        self._hog = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        assert self._hog.stdout is not None
        assert self._hog.stdout.readline() == "full\n"
        return time.monotonic()

    def free_store(self) -> None:
        """All of it."""
        if self._hog is not None:
            self._hog.send_signal(signal.SIGKILL)
            self._hog.wait()
            self._hog = None

    def assert_idle(self) -> None:
        """Fails where actors outlive their run by 20 s."""
        started = time.monotonic()
        while left := [line for line in _command_lines() if any(name in line for name in OWN)]:
            assert time.monotonic() - started < LEAVE_S, f"outlived their driver: {left}"
            time.sleep(0.5)


def _command_lines() -> list[str]:
    """Of everything that this process has started."""
    lines = []
    for process in psutil.Process().children(recursive=True):
        try:
            lines.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return lines
