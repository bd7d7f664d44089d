"""Does any process of a long run grow? Every process of a real run, sampled from outside after each step.

    python -m benchmarks.memory_slope jobs/tiny_cpu.yaml --warm-up 50 run.num_steps=300 run.prompts_per_step=8 ...

Starts `v05ray train` with the given overrides, and after each step's line reads how much memory every process below it
holds. A process belongs to the nearest actor above it (an engine's own process to its generator, verifiers to the
rewards). Private memory (anonymous pages, where leaks are) and shared memory (the object store's pages that a process
has touched, at most the store's size) are kept apart, both counted proportionally where processes share them.

Prints, per role, the private memory at the end of the warm-up and of the run, the least-squares slope after the warm-up
and of the second half of it, and shared memory at both times. Needs Linux (`/proc/PID/smaps_rollup`).
"""

import argparse
import contextlib
import csv
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROLES = {
    "ray::SchedulerActor": "scheduler",
    "ray::ShardActor": "scheduler shard",
    "ray::GeneratorActor": "generator",
    "ray::StubEngine": "generator",
    "ray::LearnerActor": "learner",
    "ray::ValueActor": "value",
    "ray::RewardActor": "rewards",
    "raylet": "raylet",
    "gcs_server": "gcs",
}
"""How a process's command line begins (a path's last part), and whose it is; any other one is its parent's."""


@dataclass(frozen=True, slots=True)
class Held:
    """Memory of one role after one step, in MiB."""

    private: float
    shared: float
    num_processes: int


def role_of(command: Sequence[str], parent: str) -> str:
    """The role of a process from its command line, else that of its parent."""
    first = command[0] if command else ""
    for start, role in ROLES.items():
        if first.startswith(start) or Path(first).name.startswith(start):
            return role
    if first.startswith("ray::"):
        return "other ray workers"
    return "other ray services" if parent in ("raylet", "gcs") or "ray/" in first else parent


def processes(root: psutil.Process) -> Iterator[tuple[str, psutil.Process]]:
    """(role, process) of `root`, which is the driver, and of everything below it."""
    roles = {root.pid: "driver"}
    yield "driver", root
    for process in root.children(recursive=True):  # every parent before its children
        with contextlib.suppress(psutil.Error):  # it ended between the listing and the look
            roles[process.pid] = role_of(process.cmdline(), roles.get(process.ppid(), "driver"))
            yield roles[process.pid], process


def look(root: psutil.Process) -> dict[str, Held]:
    """Every role's memory now."""
    held: dict[str, Held] = {}
    for role, process in processes(root):
        try:
            private, shared = _proportional_mib(process.pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # as above
        so_far = held.get(role, Held(0, 0, 0))
        held[role] = Held(so_far.private + private, so_far.shared + shared, so_far.num_processes + 1)
    return held


def _proportional_mib(pid: int) -> tuple[float, float]:
    """(anonymous, file and shared) memory of one process, shared pages divided among those that share them."""
    kib = {"Pss_Anon": 0, "Pss_Shmem": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in kib:
            kib[name] = int(rest.split()[0])
    return kib["Pss_Anon"] / 1024, kib["Pss_Shmem"] / 1024


def slope(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """(MiB per 100 steps, its standard error) of the least-squares line through (step, MiB), at least 3 of them."""
    fit = statistics.linear_regression(*zip(*points, strict=True))
    mean = statistics.fmean(step for step, _ in points)
    spread = sum((step - mean) ** 2 for step, _ in points)
    rest = sum((mib - fit.intercept - fit.slope * step) ** 2 for step, mib in points)
    return 100 * fit.slope, 100 * (rest / (len(points) - 2) / spread) ** 0.5


def table(samples: Mapping[int, Mapping[str, Held]], warm_up: int) -> str:
    """The figures by role, as Markdown; `samples` by step."""
    steps = sorted(step for step in samples if step >= warm_up)
    half = steps[len(steps) // 2 :]
    lines = [
        f"| role | processes | private MiB, step {steps[0]} | step {steps[-1]} | MiB per 100 steps | "
        f"from step {half[0]} | shared MiB, step {steps[0]} | step {steps[-1]} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    none = Held(0, 0, 0)
    for role in sorted({role for step in steps for role in samples[step]}):
        series = [(step, samples[step].get(role, none)) for step in steps]
        first, last = series[0][1], series[-1][1]
        figures = [slope([(s, h.private) for s, h in series if s >= start]) for start in (steps[0], half[0])]
        lines.append(
            f"| {role} | {last.num_processes} | {first.private:.1f} | {last.private:.1f} | "
            + " | ".join(f"{value:+.2f} ± {error:.2f}" for value, error in figures)
            + f" | {first.shared:.1f} | {last.shared:.1f} |"
        )
    return "\n".join(lines)


def watch(command: Sequence[str]) -> dict[int, dict[str, Held]]:
    """Runs the command and samples after each step's line; raises RuntimeError if it fails."""
    samples: dict[int, dict[str, Held]] = {}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)) as run:
        assert run.stdout is not None
        for line in run.stdout:
            step = re.match(r"step (\d+)/", line)
            if step is not None:
                samples[int(step[1])] = look(psutil.Process(run.pid))
            if step is None or int(step[1]) % 25 == 0:
                print(line, end="", file=sys.stderr, flush=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {run.returncode}")
    return samples


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job")
    parser.add_argument("overrides", nargs="*", help="dotted.key=value, as for v05ray train")
    parser.add_argument("--warm-up", type=int, default=50, help="steps that are not fitted")
    parser.add_argument(
        "--csv", type=Path, help="where every sample goes: step, role, private and shared MiB, processes"
    )
    parsed = parser.parse_intermixed_args()
    samples = watch([sys.executable, "-m", "v05ray.cli", "train", parsed.job, *parsed.overrides])
    if parsed.csv:
        with parsed.csv.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["step", "role", "private_mib", "shared_mib", "processes"])
            for step, roles in samples.items():
                for role, held in sorted(roles.items()):
                    rows.writerow([step, role, f"{held.private:.2f}", f"{held.shared:.2f}", held.num_processes])
    print(f"{len(samples)} steps sampled\n{table(samples, parsed.warm_up)}")


if __name__ == "__main__":
    main()
