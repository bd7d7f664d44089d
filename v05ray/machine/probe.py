"""What this machine computes, measured in a second or two in a process of its own.

    python -m v05ray.machine.probe       prints it as JSON

Measured rather than read from the CPU's flags: makers name the same ability differently, a virtual machine may hide it,
and a library may emulate it. bfloat16 without instructions for it runs at a seventh of float32's speed (AMD Zen 3).
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from v05ray.errors import RunError

SHAPE = (64, 1024, 2048)
"""(M, K, N) of the product that is timed: that of a decoding step, 64 sequences through a middle-sized layer."""
BUDGET_S = 0.1
"""Time for each data type and number of threads; the best of at least 3 products counts."""
TIMEOUT_S = 120.0
"""Longest time that loading torch and measuring may take, in seconds."""

_ISAS = (
    ("amx_bf16", "AMX bf16"),
    ("avx512_bf16", "AVX-512 bf16"),
    ("avx512f", "AVX-512"),
    ("avx2", "AVX2"),
    ("bf16", "Arm bf16"),
    ("asimd", "Arm NEON"),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine, as a process on it may use it."""

    num_cpus: int
    """CPUs that this process may run on."""
    isa: str
    """The widest instruction set that its libraries use, for people: `AVX2`, `AMX bf16`, ..."""
    gflops: Mapping[str, Mapping[int, float]]
    """dtype -> threads -> GFLOP/s of a matrix product of shape `SHAPE`; empty where it was not measured."""
    gpu: str = ""
    """Name of the first GPU; empty without one."""
    gpu_has_bfloat16: bool = False
    """Whether that GPU computes bfloat16 in hardware."""

    def best(self, dtype: str) -> float:
        """GFLOP/s with the best number of threads."""
        return max(self.gflops[dtype].values())

    def threads(self, dtype: str) -> int:
        """The smallest number of threads within 10 % of the best rate; 1 where nothing was measured.

        Fewer threads leave cores to others, and on hyper-threads or shared cores more of them gain nothing.
        """
        rates = self.gflops.get(dtype, {1: 1.0})
        return min(count for count, rate in rates.items() if rate >= 0.9 * max(rates.values()))


def measure(num_cpus: int | None = None) -> Machine:
    """Measures in a child process, so that the caller loads no torch and no thread pool is left behind.

    `num_cpus` limits the threads that are tried. Raises `RunError` if the child fails.
    """
    command = [sys.executable, "-m", "v05ray.machine.probe", *([] if num_cpus is None else [str(num_cpus)])]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(f"measuring this machine took more than {TIMEOUT_S:g} s; set model.dtype by hand") from error
    if done.returncode:
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        raise RunError(f"measuring this machine failed ({last}); set model.dtype by hand")
    return from_json(done.stdout.strip().splitlines()[-1])


def from_json(text: str) -> Machine:
    """The machine that the child printed."""
    values = json.loads(text)
    values["gflops"] = {
        dtype: {int(count): rate for count, rate in rates.items()} for dtype, rates in values["gflops"].items()
    }
    return Machine(**values)


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity, and the quota of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, _, period = quota.read_text().strip().partition(" ")
        if limit != "max":
            count = min(count, max(1, round(int(limit) / int(period))))
    return count


def thread_counts(num_cpus: int) -> list[int]:
    """1, 2, 4, ... and `num_cpus` itself."""
    return sorted({2**i for i in range(num_cpus.bit_length()) if 2**i <= num_cpus} | {num_cpus})


def instruction_set() -> str:
    """For people; a limit that the environment sets for oneDNN is named, since it decides what is measured."""
    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        line = next((line for line in info.read_text().splitlines() if line.startswith(("flags", "Features"))), "")
        flags = set(line.partition(":")[2].split())
    isa = next((name for flag, name in _ISAS if flag in flags), platform.machine())
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return f"{isa}, limited to {limit} by ONEDNN_MAX_CPU_ISA" if limit else isa


def _rates(num_cpus: int) -> dict[str, dict[int, float]]:
    import torch

    num_rows, inner, num_columns = SHAPE
    num_operations = 2 * num_rows * inner * num_columns
    rates: dict[str, dict[int, float]] = {"float32": {}, "bfloat16": {}}
    for name, of_threads in rates.items():
        dtype = getattr(torch, name)
        left = torch.randn(num_rows, inner).to(dtype)
        weight = torch.randn(num_columns, inner).to(dtype)
        for count in thread_counts(num_cpus):
            torch.set_num_threads(count)
            torch.nn.functional.linear(left, weight)
            best, start, number = float("inf"), time.perf_counter(), 0
            while number < 3 or time.perf_counter() - start < BUDGET_S:
                before = time.perf_counter()
                torch.nn.functional.linear(left, weight)
                best, number = min(best, time.perf_counter() - before), number + 1
            of_threads[count] = round(num_operations / best / 1e9, 1)
    return rates


def here(num_cpus: int) -> Machine:
    """Measures in this process, which is left with another number of torch threads."""
    import torch

    gpu, has_bfloat16 = "", False
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_name(0)
        has_bfloat16 = torch.cuda.get_device_capability(0) >= (8, 0)
    return Machine(num_cpus, instruction_set(), _rates(num_cpus), gpu, has_bfloat16)


if __name__ == "__main__":
    allowed = min(usable_cpus(), int(sys.argv[1])) if len(sys.argv) > 1 else usable_cpus()
    print(json.dumps(asdict(here(allowed))))
