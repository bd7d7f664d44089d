"""How many verdicts a second does the reward pool give?

    python -m benchmarks.verdict_rate [--verdicts 2000] [--workers 1] [--verifier math] [--json]

Responses of some 400 characters that end in one of a few answers: numbers, fractions, roots, pairs and expressions, a
quarter of them wrong; every reference and answer is seen often, as in training. Requests are all waiting when the clock
starts; worker processes are already there.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter

from v05ray.config import RewardsConfig
from v05ray.rewards.pool import VerifierPool
from v05ray.types import Prompt, Rollout, Turn

TASKS = (
    ("34", "The answer is $34$."),
    ("34", r"so \boxed{33}"),
    (r"\frac{1}{2}", r"\boxed{0.5}"),
    ("x^2+1", r"\boxed{1+x^2}"),
    (r"2\sqrt{3}", r"\boxed{\sqrt{12}}"),
    ("1234", r"We find \boxed{1{,}234}."),
    ("(1,2)", r"\boxed{(1,3)}"),
    (r"\frac{3}{7}", r"\boxed{\frac{6}{14}}"),
)
INTEGERS = (("34", "The answer is 34."), ("34", "12 + 22 = 33"))


def pairs(count: int, verifier: str) -> list[tuple[Prompt, Rollout]]:
    """Prompts with a rollout each."""
    tasks = INTEGERS if verifier == "last_integer" else TASKS
    made = []
    for i in range(count):
        answer, response = tasks[i % len(tasks)]
        text = f"Some reasoning, part {i}. " * 16 + response
        made.append(
            (
                Prompt(f"p{i}", "a question", (), answer, "benchmark"),
                Rollout(f"p{i}", 0, (Turn(text, (1,), (0.0,), "stop", 0, "g0", 0.1),)),
            )
        )
    return made


async def measure(count: int, workers: int, verifier: str) -> dict[str, object]:
    """Verdicts per second of a pool that is warm."""
    pool = VerifierPool(RewardsConfig.model_validate({"verifier": verifier, "num_workers": workers}))
    try:
        await pool.start()
        for prompt, rollout in pairs(64, verifier):
            await pool.score(prompt, rollout)
        tasks = pairs(count, verifier)
        start = time.perf_counter()
        scored = await asyncio.gather(*(pool.score(prompt, rollout) for prompt, rollout in tasks))
        seconds = time.perf_counter() - start
    finally:
        pool.close()
    verdicts = Counter(one.verdict for one in scored)
    return {
        "verifier": verifier,
        "workers": workers,
        "verdicts_per_second": count / seconds,
        "verdicts": dict(verdicts),
    }


def main() -> int:
    """Measures once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdicts", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--verifier", default="math", choices=("math", "last_integer"))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    found = asyncio.run(measure(arguments.verdicts, arguments.workers, arguments.verifier))
    if arguments.json:
        print(json.dumps(found))
    else:
        print(
            f"{found['verifier']}, {found['workers']} workers: {found['verdicts_per_second']:,.0f} verdicts/s "
            f"({found['verdicts']})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
