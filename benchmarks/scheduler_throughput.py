"""Scored rollouts per second through one scheduler actor, with stub generators and stub verdicts: Ray's own cost.

    python -m benchmarks.scheduler_throughput [--prompts 512] [--generators 4] [--repeats 5]

Prints the median and the spread over repeats; every repeat is one batch of `--prompts` prompts.
"""

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from typing import Any

import ray

from tests.fakes import SAMPLING, FakeRewardPool, make_prompt
from tests.ray.stubs import StubGenerator
from v05ray.actors.scheduler import RayScheduler, SchedulerActor
from v05ray.config_files import make_config
from v05ray.ports import BatchRequest
from v05ray.types import Prior


async def measure(num_prompts: int, num_generators: int, repeats: int) -> list[tuple[int, float]]:
    """(scored rollouts, seconds) of each repeat, after one to warm up."""
    names = [f"p{i}" for i in range(num_prompts)]
    rewards = {name: [1.0, -1.0, 1.0, 1.0] if i % 2 else [1.0] for i, name in enumerate(names)}
    config = make_config({"model": {"path": "m"}, "data": {"train": "jsonl"}})
    actor: Any = ray.remote(SchedulerActor).options(num_cpus=0, max_concurrency=10_000)
    generators = [StubGenerator(f"g{i}", rewards) for i in range(num_generators)]
    scheduler = RayScheduler(actor.remote(config, FakeRewardPool(), generators))
    await scheduler.start()
    batch = BatchRequest(1, 0, tuple(map(make_prompt, names)), {n: Prior(n, 0.0, 0) for n in names}, SAMPLING)
    results = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        scored = sum([len(group.scored) async for group in scheduler.run(batch)])
        results.append((scored, time.perf_counter() - start))
    return results[1:]


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--generators", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parsed = parser.parse_args()
    temp_dir = tempfile.mkdtemp(prefix="v05b-")
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, _temp_dir=temp_dir)
    try:
        results = asyncio.run(measure(parsed.prompts, parsed.generators, parsed.repeats))
    finally:
        ray.shutdown()
        shutil.rmtree(temp_dir, ignore_errors=True)
    rates = sorted(scored / seconds for scored, seconds in results)
    print(
        f"{parsed.prompts} prompts, {results[0][0]} rollouts, {parsed.generators} stub generators: "
        f"{statistics.median(rates):,.0f} scored rollouts/s (of {len(rates)}: {rates[0]:,.0f} to {rates[-1]:,.0f})"
    )


if __name__ == "__main__":
    main()
