"""How fast is the value model? Cold and cached latency of a call, queries per second by pool size, and memory.

    python -m benchmarks.value_latency [--support 256] [--queries 64] [--threads 1] [--repeats 60] [--json]

Embeddings are cached before the clock starts, as in a run that has seen its prompts. Cold: a support that was not seen
before (conditioning + queries). Cached: the same support again. New texts: support and queries that this process never
saw, whose embeddings lie in the cache file. Pool: real Ray actors behind the pool that training uses, support cached;
`one batch at a time` as a training step asks, `saturated` with two batches always under way per actor.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import ray

from v05ray.actors.value import ValueActor, predictors
from v05ray.config import ValueConfig
from v05ray.scheduling.predictors import PredictorPool
from v05ray.types import Prompt, SupportExample

MIB = 2**20


def make_texts(count: int, start: int = 0) -> list[str]:
    """Distinct short questions."""
    return [f"What is {i} + {(i * 7919) % 1000}? Answer with just the number." for i in range(start, start + count)]


def make_task(num_support: int, num_queries: int) -> tuple[list[SupportExample], list[Prompt]]:
    """Support pairs and prompts whose texts do not overlap."""
    support = [SupportExample(f"s{i}", text, 1 - 2 * (i % 2), 0) for i, text in enumerate(make_texts(num_support))]
    prompts = [Prompt(f"q{i}", text, (), "", "b") for i, text in enumerate(make_texts(num_queries, 100_000))]
    return support, prompts


def make_config(args: argparse.Namespace) -> ValueConfig:
    """The shipped bundle; the support is never sampled down."""
    return ValueConfig(num_threads=args.threads, support_size=max(16, args.support))


def spread(name: str, milliseconds: list[float]) -> dict[str, float]:
    """Median, and what 95 % of the calls stay under."""
    ordered = sorted(milliseconds)
    return {f"{name}_ms_median": statistics.median(ordered), f"{name}_ms_p95": ordered[int(0.95 * len(ordered))]}


def measure_latency(cache: Path, args: argparse.Namespace) -> dict[str, float]:
    """Of one model in this process."""
    from v05ray.value.model import ValueModel

    support, prompts = make_task(args.support, args.queries)
    config = make_config(args)

    def seconds_of(model: ValueModel, pairs: list[SupportExample]) -> float:
        start = time.perf_counter()
        model.predict(prompts, pairs, policy_version=0, seed=0)
        return 1e3 * (time.perf_counter() - start)

    seconds_of(ValueModel.load(config, cache=cache, announce=False), support)  # fills the cache file
    models = [ValueModel.load(config, cache=cache, announce=False) for _ in range(5)]
    new_texts = [seconds_of(model, support) for model in models]
    model, cold, cached = models[0], [], []
    for repeat in range(args.repeats):
        changed = [replace(support[0], score=1 - 2 * repeat / args.repeats), *support[1:]]
        cold.append(seconds_of(model, changed))
        cached.append(seconds_of(model, changed))
    return {**spread("cold", cold), **spread("cached", cached), "new_texts_ms_median": statistics.median(new_texts)}


async def ask(pool: PredictorPool, args: argparse.Namespace) -> float:
    """Queries per second, one batch after the other."""
    support, prompts = make_task(args.support, args.queries)
    for _ in range(3):
        await pool.predict(prompts, support, policy_version=0, seed=0)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < args.seconds:
        await pool.predict(prompts, support, policy_version=0, seed=0)
        count += 1
    return count * args.queries / (time.perf_counter() - start)


async def saturate(actors: list[Any], args: argparse.Namespace) -> float:
    """Queries per second when every actor always has a batch waiting."""
    return sum(
        await asyncio.gather(*(ask(PredictorPool(predictors([actor])), args) for actor in actors for _ in range(2)))
    )


def resident_mib(_actor: Any) -> float:
    """Of the process that this runs in."""
    return psutil.Process().memory_info().rss / MIB


def measure_pool(cache: Path, args: argparse.Namespace, size: int) -> dict[str, float]:
    """`size` fresh actors."""
    kind: Any = ray.remote(ValueActor).options(
        num_cpus=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": str(args.threads)}}
    )
    actors = [kind.remote(make_config(args), cache) for _ in range(size)]
    result = {
        f"pool_{size}_queries_per_s": asyncio.run(ask(PredictorPool(predictors(actors)), args)),
        f"pool_{size}_queries_per_s_saturated": asyncio.run(saturate(actors, args)),
        f"pool_{size}_resident_mib_per_actor": statistics.mean(
            ray.get([actor.__ray_call__.remote(resident_mib) for actor in actors])
        ),
    }
    for actor in actors:
        ray.kill(actor)
    return result


def main() -> int:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--support", type=int, default=256)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1, help="torch threads of one model")
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each pool measurement")
    parser.add_argument("--pools", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before torch is imported
    folder = Path(tempfile.mkdtemp(prefix="v05v-"))
    try:
        cache = folder / "embeddings.sqlite"
        result: dict[str, float] = {"threads_per_model": args.threads, "cpus": os.cpu_count() or 0}
        result |= {"load_before": os.getloadavg()[0]} | measure_latency(cache, args)
        ray.init(
            address="local",
            num_cpus=max(1, *args.pools),
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=200 * MIB,
            _temp_dir=str(folder / "ray"),
        )
        for size in args.pools:
            result |= measure_pool(cache, args, size)
        ray.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{args.support} support + {args.queries} queries, {args.threads} thread(s) per model, embeddings cached")
        for name, value in result.items():
            print(f"  {name:<32}{value:>10.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
