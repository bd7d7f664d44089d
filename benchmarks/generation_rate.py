"""Response tokens per second of the engine on CPU: one thread, all cores, and as many engines as cores, alternately.

    python -m benchmarks.generation_rate models/smollm2-135m --dtype float32

Every setting draws the same number of sequences together (split evenly over its engines), each of at most `--tokens`
tokens, at temperature 1 with a seed per request, as training does. Engines are processes of their own; a setting's
engines draw at the same time. The first draw of each is a warm-up. Prints the machine, then a line per setting: median
(lowest to highest) over all draws.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from v05ray.config import GeneratorsConfig, ModelConfig
from v05ray.machine.fit import describe
from v05ray.machine.probe import measure, usable_cpus

DRAWS = 3


def draw_here(model: Path, dtype: str, threads: int, num_sequences: int, num_tokens: int) -> None:
    """A child: prints READY, waits for a line, draws, prints tokens per second as JSON."""
    generators = GeneratorsConfig(num_threads=threads, max_num_seqs=num_sequences)
    from v05ray.generation.environment import environment

    os.environ.update(environment(generators))
    from v05ray.generation.core import VllmCore
    from v05ray.models.huggingface import load_tokenizer
    from v05ray.types import Sampling

    config = ModelConfig.model_validate({"path": model, "dtype": dtype, "max_length": 256})
    core = VllmCore(model, generators, config)
    tokenizer = load_tokenizer(model, trust_remote_code=False)
    prompts = [
        tokenizer.encode(f"What is {i % 90} + {i % 37}? Answer with just the number.") for i in range(num_sequences)
    ]

    def draw(number: int) -> float:
        for i, prompt in enumerate(prompts):
            core.add(f"{number}-{i}", prompt, 1000 * number + i, Sampling(1.0, 1.0, num_tokens))
        start, drawn, left = time.perf_counter(), 0, len(prompts)
        while left:
            ended = core.step()
            drawn += sum(len(output.token_ids) for output in ended)
            left -= len(ended)
        return drawn / (time.perf_counter() - start)

    draw(0)
    print("READY", flush=True)
    sys.stdin.readline()
    print(json.dumps([draw(number) for number in range(1, DRAWS + 1)]), flush=True)
    core.close()


def rates(arguments: list[str], num_engines: int) -> list[float]:
    """Tokens per second of `num_engines` children together, per draw."""
    command = [sys.executable, "-m", "benchmarks.generation_rate", "--child", *arguments]
    pipe = subprocess.PIPE
    children = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        for _ in range(num_engines)
    ]
    answers = []
    for child in children:
        assert child.stdout is not None
        if child.stdout.readline().strip() != "READY":
            raise SystemExit(f"an engine did not start: {' '.join(command)}")
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        assert child.stdout is not None
        answers.append(json.loads(child.stdout.readline()))
        child.wait()
    return [sum(of_draw) for of_draw in zip(*answers, strict=True)]


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        draw_here(options.model, options.dtype, options.threads, options.sequences, options.tokens)
        return
    num_cpus = usable_cpus()
    print(describe(measure()))
    settings = {"1 engine, 1 thread": (1, 1), f"1 engine, {num_cpus} threads": (1, num_cpus)}
    settings[f"{num_cpus} engines, 1 thread"] = (num_cpus, 1)
    found: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(options.rounds):
        for name, (engines, threads) in settings.items():
            shared = ["--dtype", options.dtype, "--tokens", str(options.tokens), "--threads", str(threads)]
            share = str(options.sequences // engines)
            found[name] += rates([str(options.model), "--sequences", share, *shared], engines)
    base = statistics.median(next(iter(found.values())))
    for name, values in found.items():
        middle = statistics.median(values)
        print(
            f"{options.dtype} {name:22s} {middle:6.0f} tokens/s ({min(values):.0f} to {max(values):.0f}), "
            f"{middle / base:.2f} of one thread"
        )


if __name__ == "__main__":
    main()
