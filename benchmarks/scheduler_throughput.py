"""Scored rollouts per second through one scheduler actor, with stub generators and stub verdicts: Ray's own cost.

    python -m benchmarks.scheduler_throughput [--prompts 512] [--generators 4] [--shards 1] [--repeats 5]

Prints the median and the spread over repeats, every repeat one batch of `--prompts` prompts, and the CPU time that the
deciding process spends per rollout: what bounds the rate however many shards and cores there are.
"""

import argparse
import asyncio
import contextlib
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import psutil
import ray

from tests.fakes import SAMPLING, FakeRewardPool, make_prompt
from tests.ray.stubs import StubGenerator
from v05ray.actors.scheduler import RayScheduler, SchedulerActor
from v05ray.job.config_files import make_config
from v05ray.ports import BatchRequest
from v05ray.types import Prior


@dataclass(frozen=True)
class Repeat:
    """One batch."""

    num_scored: int
    seconds: float
    scheduler_cpu_s: float


def scheduler_cpu_s() -> float:
    """CPU time of the deciding process so far."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("ray::SchedulerA") or "SchedulerActor" in " ".join(process.cmdline()):
                times = process.cpu_times()
                return times.user + times.system
    raise RuntimeError("no process is titled SchedulerActor")


async def measure(num_prompts: int, num_generators: int, num_shards: int, repeats: int) -> list[Repeat]:
    """Each repeat, after one to warm up."""
    names = [f"p{i}" for i in range(num_prompts)]
    rewards = {name: [1.0, -1.0, 1.0, 1.0] if i % 2 else [1.0] for i, name in enumerate(names)}
    settings = {"count": num_generators, "shards": num_shards}
    config = make_config({"model": {"path": "m"}, "data": {"train": "jsonl"}, "generators": settings})
    actor: Any = ray.remote(SchedulerActor).options(num_cpus=0, max_concurrency=10_000)
    generators = [StubGenerator(f"g{i}", rewards) for i in range(num_generators)]
    scheduler = RayScheduler(actor.remote(config, FakeRewardPool(), generators))
    await scheduler.start()
    batch = BatchRequest(1, 0, tuple(map(make_prompt, names)), {n: Prior(n, 0.0, 0) for n in names}, SAMPLING)
    results = []
    for _ in range(repeats + 1):
        start, cpu = time.perf_counter(), scheduler_cpu_s()
        scored = sum([len(group.scored) async for group in scheduler.run(batch)])
        results.append(Repeat(scored, time.perf_counter() - start, scheduler_cpu_s() - cpu))
    return results[1:]


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--generators", type=int, default=4)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parsed = parser.parse_args()
    temp_dir = tempfile.mkdtemp(prefix="v05b-")
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, _temp_dir=temp_dir)
    try:
        results = asyncio.run(measure(parsed.prompts, parsed.generators, parsed.shards, parsed.repeats))
    finally:
        ray.shutdown()
        shutil.rmtree(temp_dir, ignore_errors=True)
    rates = sorted(one.num_scored / one.seconds for one in results)
    costs = sorted(1e6 * one.scheduler_cpu_s / one.num_scored for one in results)
    print(
        f"{parsed.prompts} prompts, {results[0].num_scored} rollouts, {parsed.generators} stub generators, "
        f"{parsed.shards} shard(s): {statistics.median(rates):,.0f} scored rollouts/s (of {len(rates)}: "
        f"{rates[0]:,.0f} to {rates[-1]:,.0f}); the deciding process spends {statistics.median(costs):,.0f} us of CPU "
        f"per rollout ({costs[0]:,.0f} to {costs[-1]:,.0f})"
    )


if __name__ == "__main__":
    main()
