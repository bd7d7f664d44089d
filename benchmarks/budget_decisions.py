"""Decisions per second of the pure budget machine on one core, and its memory.

    python benchmarks/budget_decisions.py [--prompts 100000] [--mode async|rounds] [--rule osla]

Rewards are drawn beforehand, and every prompt's outstanding rollouts are scored in order of dispatch, so what is timed
is the machine alone: its making, `start`, one `observe` per rollout, every Decision. Seconds are of CPU time
on one core, the best of the repeats, so a busy machine distorts them little.
"""

import argparse
import random
import resource
import time
import tracemalloc
from collections import deque

from v05ray import budget
from v05ray.budget import BatchMachine
from v05ray.types import Draw


def world(num_prompts: int, longest: int, rng: random.Random) -> tuple[dict[str, float | None], dict[str, list[float]]]:
    """Priors off by .4 rms, and more rewards than any prompt can draw."""
    priors: dict[str, float | None] = {}
    rewards: dict[str, list[float]] = {}
    for i in range(num_prompts):
        p = rng.betavariate(0.35, 0.35)
        priors[f"prompt-{i}"] = min(1.0, max(-1.0, 2 * p - 1 + rng.gauss(0, 0.4)))
        rewards[f"prompt-{i}"] = [1.0 if rng.random() < p else -1.0 for _ in range(longest)]
    return priors, rewards


def play(machine: BatchMachine, rewards: dict[str, list[float]]) -> int:
    """Runs the batch to its end; returns the number of decisions."""
    waiting: deque[tuple[str, int]] = deque()
    position = dict.fromkeys(rewards, 0)
    decisions = machine.start()
    num_decisions = 0
    while True:
        num_decisions += len(decisions)
        for decision in decisions:
            action = decision.action
            if isinstance(action, Draw):
                waiting.append((action.prompt_id, action.num_rollouts))
        if not waiting:
            return num_decisions
        prompt_id, count = waiting.popleft()
        start = position[prompt_id]
        position[prompt_id] = start + count
        observe = machine.observe
        for reward in rewards[prompt_id][start : start + count]:
            decisions = observe(prompt_id, reward, num_tokens=100)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100_000)
    parser.add_argument("--mode", choices=["async", "rounds"], default="async")
    parser.add_argument("--rule", default="osla")
    parser.add_argument("--repeats", type=int, default=3, choices=range(1, 100), metavar="N")
    args = parser.parse_args()
    rule = budget.build(args.rule, {"n": 16} if args.rule == "fixed" else {})
    priors, rewards = world(args.prompts, rule.n_max, random.Random(0))

    seconds, num_decisions, machine = float("inf"), 0, BatchMachine(priors, rule, mode=args.mode)
    for _ in range(args.repeats):
        began = time.process_time()
        machine = BatchMachine(priors, rule, mode=args.mode)
        num_decisions = play(machine, rewards)
        seconds = min(seconds, time.process_time() - began)
    print(f"{args.prompts:,} prompts, rule {args.rule}, mode {args.mode}")
    print(f"seconds      {seconds:8.3f}")
    print(f"decisions    {num_decisions:8,}  {num_decisions / seconds:12,.0f} per second")
    print(f"rollouts     {machine.num_scored:8,}  {machine.num_scored / seconds:12,.0f} per second")
    print(f"per prompt   {machine.num_scored / args.prompts:8.2f} rollouts")

    tracemalloc.start()
    held = BatchMachine(priors, rule, mode=args.mode)
    held.start()
    current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"machine      {current / args.prompts:8,.0f} bytes per prompt, {current / 2**20:,.0f} MiB after the start")
    print(f"             {peak / 2**20:8,.0f} MiB at the peak of the start, its decisions included")
    print(f"process      {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:8,.0f} MiB at most")


if __name__ == "__main__":
    main()
