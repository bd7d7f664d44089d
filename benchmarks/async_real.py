"""Async against rounds with real vLLM generators: the same prompts, priors and seeds, the two modes alternately.

    python -m benchmarks.async_real models/smollm2-135m [--prompts 64] [--generators 2] [--repeats 3] [--max-tokens 64]

The prior is the same for every prompt, and wrong for many, so cold starts and top-ups both happen; a small model's
answers differ greatly in length. Prints each pair's makespans and the ratio async / rounds.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from v05ray.actors.start import start_inference
from v05ray.config import Config
from v05ray.data.loading import load_prompts
from v05ray.job.config_files import make_config
from v05ray.job.preflight import load_tokenizer
from v05ray.launch.training import cluster
from v05ray.ports import BatchRequest
from v05ray.types import Prior


def config_of(parsed: argparse.Namespace, mode: str) -> Config:
    """Two-term sums for a model that knows some of them."""
    return make_config(
        {
            "model": {"path": str(parsed.model), "max_length": 256},
            "data": {
                "train": {"name": "reasoning_gym", "task": "chain_sum", "size": parsed.prompts, "seed": 1},
                "suffix": " Answer with just the number.",
            },
            "sampling": {"max_tokens": parsed.max_tokens},
            "budget": {"mode": mode},
            "generators": {"count": parsed.generators, "num_cpus": 0.5},
            "rewards": {"verifier": "last_integer", "num_cpus": 0.1},
            "value": {"num_cpus": 0.1},
        }
    )


async def makespan(config: Config, num_prompts: int, prior: float) -> tuple[float, int]:
    """(seconds, rollouts) of one batch, after a small one to warm the engines up."""
    prompts = load_prompts(
        config.data.train, config.data, load_tokenizer(config), max_prompt_tokens=128, seed=0, limit=num_prompts
    )
    sampling = config.sampling.draws()
    async with start_inference(config) as (scheduler, _):
        for chosen in (prompts[:4], prompts):
            priors = {prompt.prompt_id: Prior(prompt.prompt_id, prior, 0) for prompt in chosen}
            start = time.perf_counter()
            batch = BatchRequest(1, 0, tuple(chosen), priors, sampling)
            drawn = sum([len(group.scored) async for group in scheduler.run(batch)])
            seconds = time.perf_counter() - start
    return seconds, drawn


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--generators", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--prior", type=float, default=-0.3)
    parsed = parser.parse_args()
    ratios = []
    for repeat in range(parsed.repeats):
        measured = {}
        for mode in ("async", "rounds") if repeat % 2 == 0 else ("rounds", "async"):
            config = config_of(parsed, mode)
            with cluster(config, Path(tempfile.mkdtemp(prefix="v05r-")) / "logs"):
                measured[mode] = asyncio.run(makespan(config, parsed.prompts, parsed.prior))
        ratio = measured["async"][0] / measured["rounds"][0]
        ratios.append(ratio)
        figures = ", ".join(f"{mode} {seconds:.1f} s ({drawn} rollouts)" for mode, (seconds, drawn) in measured.items())
        print(f"{figures}; ratio {ratio:.2f}", flush=True)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"async / rounds: median {statistics.median(ratios):.2f} of {len(ratios)}: {spread}")


if __name__ == "__main__":
    main()
