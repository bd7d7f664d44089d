"""Seconds of one learner step, with and without shared prefixes, alternately in one process.

    python benchmarks/learner_step.py models/smollm2-135m --threads 2

Synthetic groups: prompts of about 45 tokens with 4 to 8 responses of 4 to 24 random tokens each (so responses have only
the prompt in common; real ones share beginnings too). Prints one line per round and the medians.
"""

import argparse
import os
import random
import socket
import statistics
import time
from pathlib import Path

from v05ray.config import LearnerConfig, ModelConfig
from v05ray.learning.environment import environment
from v05ray.types import TrainSample


def make_samples(num_prompts: int, vocabulary: int, rng: random.Random) -> list[TrainSample]:
    """Groups as described above; every advantage is non-zero, so every sample is computed."""
    samples = []
    for p in range(num_prompts):
        prompt = tuple(rng.randrange(5, vocabulary) for _ in range(rng.randint(40, 50)))
        for _ in range(rng.randint(4, 8)):
            size = rng.randint(4, 24)
            response = tuple(rng.randrange(5, vocabulary) for _ in range(size))
            advantages = (rng.choice([-1.0, 1.0]),) * size
            samples.append(TrainSample(f"p{p}", prompt, response, (-9.0,) * size, advantages, (True,) * size, 0))
    return samples


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    parser.add_argument("--only", choices=["shared", "separate"])
    options = parser.parse_args()

    model = ModelConfig.model_validate({"path": options.model, "dtype": options.dtype})
    base = LearnerConfig(num_threads=options.threads, micro_batch_tokens=options.micro_batch_tokens)
    os.environ.update(environment(base))
    from v05ray.learning.learner import Learner

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    learners = {}
    for name in ("shared", "separate"):
        if options.only in (None, name):
            config = base.model_copy(update={"share_prefix": name == "shared"})
            learners[name] = Learner(0, 1, model, config, seed=0)
            learners[name].setup("127.0.0.1", port)
    samples = make_samples(options.prompts, 49_000, random.Random(0))
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for turn in range(options.rounds + 1):
        for name, learner in learners.items():
            wall, cpu = time.perf_counter(), time.process_time()
            learner.accumulate(samples)
            forward_backward = time.perf_counter() - wall
            metrics = learner.step()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            label = f"round {turn}" if turn else "warm-up"
            print(
                f"{label} {name:8s} {wall:6.2f} s ({forward_backward:.2f} s before the update; {cpu:.2f} CPU s), "
                f"{metrics['actor/num_input_tokens']:.0f} input tokens, {metrics['actor/num_tokens']:.0f} response "
                f"tokens, {metrics['perf/cpu_memory_used_gb']:.1f} GiB"
            )
            if turn:
                seconds[name].append(wall)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print("medians:", ", ".join(f"{name} {value:.2f} s" for name, value in medians.items()))
    if len(medians) == 2:
        print(f"separate / shared = {medians['separate'] / medians['shared']:.2f}")


if __name__ == "__main__":
    main()
