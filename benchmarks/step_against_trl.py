"""Seconds per training step, v05ray against TRL's GRPOTrainer: the same work, alternately on one machine.

    make bench-env           # once: TRL in an environment of its own, .venv-trl
    python -m benchmarks.step_against_trl [--rewards distinct] [--dtype bfloat16] [--isa avx2] [--out FILE]

Both sides train the same model on the same prompts in the same order, with the same reward function, group size,
response length, learning rate, loss (GRPO without a KL penalty) and precision, each on all cores as it comes. v05ray
runs `v05ray train` with the machine settings of `--job`; TRL generates with transformers. Each round starts both sides
from the same weights, one after the other and in alternating order, so that neither works while the other is measured.
A step is timed from the end of the one before it to its own end; start-up and each side's first step are left out.

`--rewards task` scores the answer (most groups of a small model are uniform: v05ray leaves them out of its update, TRL
computes them); `--rewards distinct` gives each response a number of its own, so every group counts on both sides.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
SUFFIX = " Answer with just the number."
LEARNING_RATE = 1e-6
"""Both sides' default."""
ISA = {"avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}}
"""Makes torch, oneDNN and MKL keep to an instruction set; vLLM's own kernels look at the CPU itself."""
ISA_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16", "sve")


@dataclass(frozen=True, slots=True)
class Step:
    """One measured step of one side."""

    seconds: float
    tokens: int
    """Generated."""
    mixed: float
    """Share of groups whose rewards differ."""


def make_prompts(count: int, seed: int) -> str:
    """`count` sums of two terms of one or two digits, as JSON lines."""
    import reasoning_gym

    sums = reasoning_gym.create_dataset(
        "chain_sum", size=4 * count, seed=seed, min_terms=2, max_terms=2, min_digits=1, max_digits=2
    )
    return different(sums, count)


def different(entries: Iterable[Mapping[str, Any]], count: int) -> str:
    """The first `count` different questions as JSON lines: v05ray takes a question once, TRL each time."""
    answers = {entry["question"]: entry["answer"] for entry in entries}
    if len(answers) < count:
        sys.exit(f"{count} different prompts are needed, and there are {len(answers)}; lower --steps or --prompts")
    rows = [json.dumps({"question": question, "answer": answer}) for question, answer in answers.items()]
    return "\n".join(rows[:count]) + "\n"


def our_job(options: argparse.Namespace, data: Path, output: Path) -> dict[str, Any]:
    """The workload as a job: machine settings of `--job`, everything else as TRL's side has it."""
    given = yaml.safe_load(options.job.read_text())
    ours = {key: given[key] for key in ("generators", "learner", "rewards", "cluster") if key in given}
    job = {
        "recipe": "grpo",
        "run": {
            "name": "step",
            "output_dir": str(output),
            "seed": options.seed,
            "num_steps": options.steps + 1,
            "prompts_per_step": options.prompts,
            "checkpoint_every": 0,
        },
        "model": {"path": str(options.model.resolve()), "dtype": options.dtype, "max_length": 256},
        "data": {"train": {"name": "jsonl", "path": str(data)}, "suffix": SUFFIX, "shuffle": False},
        "sampling": {"temperature": 1.0, "max_tokens": options.tokens},
        "budget": {"rule": {"name": "fixed", "n": options.group}},
        **ours,
    }
    verifier = {"name": "python", "path": f"benchmarks.step_against_trl_rewards:{options.rewards}"}
    job["rewards"] = {**ours.get("rewards", {}), "verifier": verifier}
    job["learner"] = {
        **ours.get("learner", {}),
        "learning_rate": LEARNING_RATE,
        "warmup_steps": 0,
        "kl_coefficient": 0.0,
    }
    return job


def run_side(command: list[str], environment: Mapping[str, str], log: Path) -> None:
    """Runs one side to its end; a side that fails ends the benchmark with the last lines of its log."""
    with log.open("w") as sink:
        process = subprocess.run(command, env=environment, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT)
    if process.returncode:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        sys.exit(f"{command[0]} ended with {process.returncode}; the end of {log}:\n{tail}")


def environment_of(options: argparse.Namespace) -> dict[str, str]:
    """The same for both sides. Thread counts set outside would bind one side more than the other."""
    kept = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return {**kept, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", **ISA.get(options.isa, {})}


def measure_ours(options: argparse.Namespace, data: Path, folder: Path) -> tuple[list[Step], dict[str, float]]:
    """The measured steps of one `v05ray train`, and the mean seconds of its stages."""
    from mlflow import MlflowClient

    job, output = folder / "job.yaml", folder / "runs"
    job.write_text(yaml.safe_dump(our_job(options, data, output)))
    command = [sys.executable, "-m", "v05ray.cli", "train", str(job), *options.override]
    run_side(command, environment_of(options), folder / "v05ray.log")
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    [experiment] = [one for one in client.search_experiments() if one.name == "v05ray"]
    [run] = client.search_runs([experiment.experiment_id])

    def history(key: str) -> list[tuple[int, float]]:
        found = sorted(client.get_metric_history(run.info.run_id, key), key=lambda one: one.step)
        return [(one.timestamp, one.value) for one in found]

    tokens, mixed = history("perf/total_num_tokens"), history("v05/mixed_fraction")
    steps = [
        Step((after[0] - before[0]) / 1000, int(after[1]), share[1])
        for before, after, share in zip(tokens[:-1], tokens[1:], mixed[1:], strict=True)
    ]
    stages = [key for key in run.data.metrics if key.startswith("timing_s/") and key != "timing_s/testing"]
    return steps, {key: statistics.fmean(value for _, value in history(key)[1:]) for key in sorted(stages)}


def measure_peer(options: argparse.Namespace, data: Path, folder: Path) -> list[Step]:
    """The measured steps of one run of TRL."""
    work = {
        "model": str(options.model.resolve()),
        "data": str(data),
        "suffix": SUFFIX,
        "rewards": options.rewards,
        "steps": options.steps + 1,
        "prompts": options.prompts,
        "group": options.group,
        "tokens": options.tokens,
        "micro_batch": options.peer_micro_batch,
        "dtype": options.dtype,
        "learning_rate": LEARNING_RATE,
        "seed": options.seed,
        "output": str(folder / "trl"),
    }
    log = folder / "trl.log"
    command = [str(options.peer_python), "-m", "benchmarks.step_against_trl_peer", json.dumps(work)]
    run_side(command, environment_of(options), log)
    records = [json.loads(line) for line in log.read_text().splitlines() if line.startswith('{"step"')]
    return [
        Step(after["end"] - before["end"], after["tokens"], after["mixed"])
        for before, after in itertools.pairwise(records)
    ]


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    flags = fields.get("flags", fields.get("Features", "")).split()
    return {
        "cpu": fields.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [flag for flag in ISA_FLAGS if flag in flags],
        "load": os.getloadavg()[0],
    }


def figures(steps: list[Step]) -> str:
    """Median and range of the seconds, with the work done in them."""
    seconds = [step.seconds for step in steps]
    spread = f"{statistics.median(seconds):7.2f} s ({min(seconds):.2f} to {max(seconds):.2f}, {len(seconds)} steps)"
    tokens = statistics.fmean(step.tokens for step in steps)
    return f"{spread}, {tokens:.0f} tokens a step, {statistics.fmean(step.mixed for step in steps):.0%} of groups mixed"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, checked before anything starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "smollm2-135m")
    parser.add_argument(
        "--job", type=Path, default=ROOT / "jobs" / "smollm2_cpu.yaml", help="v05ray's machine settings"
    )
    parser.add_argument(
        "--override", action="append", default=[], metavar="KEY=VALUE", help="of v05ray's job; repeatable"
    )
    parser.add_argument("--rewards", choices=["task", "distinct"], default="task")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--prompts", type=int, default=16, help="a step")
    parser.add_argument("--group", type=int, default=4, help="rollouts a prompt")
    parser.add_argument("--tokens", type=int, default=32, help="longest response")
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each side in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--isa", choices=["native", *ISA], default="native")
    parser.add_argument("--peer-python", type=Path, default=ROOT / ".venv-trl" / "bin" / "python")
    parser.add_argument("--peer-micro-batch", type=int, default=16, help="rollouts in one backward pass of TRL")
    parser.add_argument("--out", type=Path, help="JSON file for every figure")
    options = parser.parse_args(arguments)
    for name in ("prompts", "tokens", "steps", "rounds", "peer_micro_batch"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if options.group < 2:
        parser.error(f"--group must be at least 2, got {options.group}: one rollout has no group to compare with")
    if options.prompts * options.group % options.peer_micro_batch:
        parser.error(
            f"--peer-micro-batch {options.peer_micro_batch} must divide {options.prompts * options.group} rollouts"
        )
    if not (options.model / "config.json").is_file():
        parser.error(f"no model in {options.model}; `make models/smollm2-135m/config.json`, or give --model")
    if not options.peer_python.is_file():
        parser.error(
            f"no TRL environment ({options.peer_python} is missing); run `make bench-env`, or give --peer-python"
        )
    return options


def measure_round(
    options: argparse.Namespace, data: Path, folder: Path, turn: int
) -> tuple[dict[str, list[Step]], dict[str, float]]:
    """The measured steps of each side, and the mean seconds of v05ray's stages; the sides change places each round."""
    folder.mkdir()
    steps: dict[str, list[Step]] = {}
    stages: dict[str, float] = {}
    for side in ("v05ray", "trl") if turn % 2 == 0 else ("trl", "v05ray"):
        if side == "trl":
            steps[side] = measure_peer(options, data, folder)
        else:
            steps[side], stages = measure_ours(options, data, folder)
        print(f"round {turn + 1} {side:6s} {figures(steps[side])}", flush=True)
    return steps, stages


def ratio_of(steps: Mapping[str, list[Step]]) -> float:
    """Median seconds of TRL's step over the median of v05ray's."""
    ours, peer = (statistics.median(step.seconds for step in steps[side]) for side in ("v05ray", "trl"))
    return peer / ours


def ratio_per_token(steps: Mapping[str, list[Step]]) -> float:
    """The same of seconds per generated token: near the ratio where both sides drew as much, as they should."""
    ours, peer = (statistics.median(step.seconds / step.tokens for step in steps[side]) for side in ("v05ray", "trl"))
    return peer / ours


def main() -> None:
    """Runs and prints."""
    options = parse()
    about = machine()
    flags = " ".join(about["instructions"])
    print(f"machine: {about['cpu']}, {about['cores']} cores, {flags}, load {about['load']:.1f}")
    print(
        f"work: {options.prompts} prompts x {options.group} rollouts x at most {options.tokens} tokens, "
        f"{options.dtype}, rewards {options.rewards}, instructions {options.isa}",
        flush=True,
    )
    rounds = []
    with tempfile.TemporaryDirectory(prefix="v05b-") as temporary:
        data = Path(temporary) / "prompts.jsonl"
        data.write_text(make_prompts(options.prompts * (options.steps + 1), options.seed))
        for turn in range(options.rounds):
            rounds.append(measure_round(options, data, Path(temporary) / f"round-{turn}", turn))
    together = {side: [step for steps, _ in rounds for step in steps[side]] for side in ("v05ray", "trl")}
    for side, steps in together.items():
        print(f"all     {side:6s} {figures(steps)}")
    means = {key: statistics.fmean(stages[key] for _, stages in rounds) for key in rounds[0][1]}
    print("v05ray's stages:", ", ".join(f"{key.removeprefix('timing_s/')} {mean:.2f}" for key, mean in means.items()))
    ratio, by_round = ratio_of(together), [ratio_of(steps) for steps, _ in rounds]
    per_token = ratio_per_token(together)
    print(f"trl / v05ray: {ratio:.2f}, by round {min(by_round):.2f} to {max(by_round):.2f}; per token {per_token:.2f}")
    if options.out:
        asked = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
        ratios = {"ratio": ratio, "ratios_by_round": by_round, "ratio_per_token": per_token}
        record = {"machine": about, "options": asked, **ratios, "stages_s": means}
        record["steps"] = {side: [asdict(step) for step in steps] for side, steps in together.items()}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
