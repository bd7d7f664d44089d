"""How fast is the value model? Cold and cached latency of a call, queries per second by pool size, and memory.

    python benchmarks/value_latency.py [--support 256] [--queries 64] [--threads 1] [--repeats 30] [--json]

Embeddings are cached before the clock starts, as in a run that has seen its prompts. Cold: a support that was not seen
before (conditioning + queries). Cached: the same support again. Pool: that many processes, each with its own model,
asked for different queries with the support cached.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path


def make_texts(count: int, start: int = 0) -> list[str]:
    """Distinct short questions."""
    return [f"What is {i} + {(i * 7919) % 1000}? Answer with just the number." for i in range(start, start + count)]


def make_model(cache: Path, threads: int):
    """The shipped bundle on one torch thread (or more)."""
    import torch

    torch.set_num_threads(threads)
    from v05ray.config import ValueConfig
    from v05ray.value.model import ValueModel

    return ValueModel.load(ValueConfig(num_threads=threads, support_size=1024), cache=cache, announce=False)


def make_task(num_support: int, num_queries: int):
    """Support pairs and prompts whose texts do not overlap."""
    from v05ray.types import Prompt, SupportExample

    support = [SupportExample(f"s{i}", text, 1 - 2 * (i % 2), 0) for i, text in enumerate(make_texts(num_support))]
    prompts = [Prompt(f"q{i}", text, (), "", "b") for i, text in enumerate(make_texts(num_queries, 100_000))]
    return support, prompts


def measure_latency(cache: Path, args: argparse.Namespace) -> dict[str, float]:
    """Median and 95th percentile in milliseconds, cold and cached, and the process's memory in MiB."""
    from dataclasses import replace

    import psutil

    model = make_model(cache, args.threads)
    support, prompts = make_task(args.support, args.queries)
    model.predict(prompts, support, policy_version=0, seed=0)
    cold, cached = [], []
    for repeat in range(args.repeats):
        changed = [replace(support[0], score=1 - 2 * repeat / args.repeats), *support[1:]]
        for times in (cold, cached):
            start = time.perf_counter()
            model.predict(prompts, changed, policy_version=0, seed=0)
            times.append(1e3 * (time.perf_counter() - start))
    return {
        "cold_ms_median": statistics.median(cold),
        "cold_ms_p95": sorted(cold)[int(0.95 * len(cold))],
        "cached_ms_median": statistics.median(cached),
        "cached_ms_p95": sorted(cached)[int(0.95 * len(cached))],
        "rss_mib": psutil.Process().memory_info().rss / 2**20,
    }


def serve(cache: Path, threads: int, num_support: int, num_queries: int, seconds: float, barrier, answers) -> None:
    """One member of the pool: predicts until the time is over, then says how many queries it answered."""
    model = make_model(cache, threads)
    support, prompts = make_task(num_support, num_queries)
    model.predict(prompts, support, policy_version=0, seed=0)
    barrier.wait()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        model.predict(prompts, support, policy_version=0, seed=0)
        count += num_queries
    answers.put(count / (time.perf_counter() - start))


def measure_pool(cache: Path, args: argparse.Namespace, size: int) -> float:
    """Queries per second of `size` processes together."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(size), context.Queue()
    work = (cache, args.threads, args.support, args.queries, args.seconds, barrier, answers)
    processes = [context.Process(target=serve, args=work) for _ in range(size)]
    for process in processes:
        process.start()
    total = sum(answers.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    return total


def main() -> int:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--support", type=int, default=256)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1, help="torch threads of one model")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each pool measurement")
    parser.add_argument("--pools", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    # Before torch is imported, here and in the pool's processes.
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "embeddings.sqlite"
        result: dict[str, float] = {"threads": args.threads, "cpus": os.cpu_count() or 0, "load": os.getloadavg()[0]}
        result |= measure_latency(cache, args)
        for size in args.pools:
            result[f"queries_per_second_pool_{size}"] = measure_pool(cache, args, size)
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{args.support} support + {args.queries} queries, {args.threads} thread(s) per model, embeddings cached")
        for name, value in result.items():
            print(f"  {name:<28}{value:>10.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
