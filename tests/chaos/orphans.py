"""`python -m tests.chaos.orphans --model models/tiny --runs 100`: many short runs, ended in all ways; what is left?

Runs of the tiny model follow one another: one that ends by itself, one that is refused by an actor, one that gets
SIGTERM, and one whose driver is killed. A process that is still there some seconds after the end of its run fails the
command. `--start N` continues the sequence at its N-th run, to do it in parts.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos.tiny_run import TinyRun

WAYS = ("done", "refused", "SIGTERM", "killed")
SETTINGS = ("run.num_steps=2", "run.checkpoint_every=0", "data.eval=null")
CODES = {"done": {0}, "refused": {2}, "SIGTERM": {0, 75, 130}, "killed": {-signal.SIGKILL}}
"""SIGTERM may come after the last step, or before the first."""


def one_run(way: str, model: Path, output: Path, rng: random.Random) -> list[str]:
    """Command lines of the processes that outlive it; fails where it does not end as it should."""
    extra = ("learner.micro_batch_tokens=64",) if way == "refused" else ()
    with TinyRun(model, output, *SETTINGS, *extra) as run:
        run.wait_for("starting the actors")
        if way in ("SIGTERM", "killed"):
            moment = time.monotonic() + rng.uniform(0, 15)
            while time.monotonic() < moment and run.process.poll() is None:
                run.children()
                time.sleep(0.2)
            run.process.send_signal(signal.SIGTERM if way == "SIGTERM" else signal.SIGKILL)
        while run.process.poll() is None:
            run.children()  # the family is known while it lives
            time.sleep(0.2)
        code = run.end()
        assert code in CODES[way] | ({0} if way == "killed" else set()), f"{way}: exit code {code}\n{run.printed}"
        try:
            run.assert_gone()
        except AssertionError as error:
            return [str(error)]
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--start", type=int, default=0)
    parsed = parser.parse_args()
    ended: Counter[str] = Counter()
    left: list[str] = []
    for number in range(parsed.start, parsed.start + parsed.runs):
        way = WAYS[number % len(WAYS)]
        with tempfile.TemporaryDirectory(prefix="v05o-") as output:
            found = one_run(way, parsed.model, Path(output), random.Random(number))
        left += found
        ended[way] += 1
        print(f"run {number}: {way}, {len(found)} left", flush=True)
    print(f"{ended.total()} runs ({', '.join(f'{count} {way}' for way, count in ended.items())}): {len(left)} left")
    print(*left, sep="\n", end="")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
