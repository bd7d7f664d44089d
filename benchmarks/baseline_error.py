"""Mean squared error of every baseline against the quality of the prior: the table in favour of `v05_eb`.

    python benchmarks/baseline_error.py                      # U-shaped pass rates, Beta(.35, .35)
    python benchmarks/baseline_error.py --scores FILE.jsonl  # recorded ones: a `score` in [-1, 1] on each line

A prior is the truth plus Gaussian noise, clipped to [-1, 1]. The expectation over the K rewards of a prompt is exact (a
sum over the number of successes); only pass rates and priors are sampled, so few prompts are enough.
`v05_eb` learns its tau2 from sampled groups first, as in training.
"""

import argparse
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from v05ray.simulate.worlds import add_error, recorded, u_shaped
from v05ray.stats.prior_error import PriorError
from v05ray.stats.shrinkage import fuse, fuse_eb, fuse_eb_loo, fuse_loo

Baselines = Callable[[float, list[float]], list[float]]
"""Prior and rewards[K] to the baseline of each reward [K]."""

RMS_ERRORS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)


def learn_tau2(rates: Sequence[float], priors: Sequence[float], num_rewards: int, rng: random.Random) -> float:
    """tau2 after 512 groups of `num_rewards`, drawn from these prompts."""
    error = PriorError(window=512)
    for _ in range(512):
        i = rng.randrange(len(rates))
        error.add(priors[i], [1.0 if rng.random() < rates[i] else -1.0 for _ in range(num_rewards)])
    return error.tau2


def mean_squared_error(
    baselines: Baselines, rates: Sequence[float], priors: Sequence[float], num_rewards: int
) -> float:
    """Mean over prompts and rollouts of (B - E r)^2, exact over the rewards."""
    total = 0.0
    for p, prior in zip(rates, priors, strict=True):
        truth = 2 * p - 1
        for good in range(num_rewards + 1):
            chance = math.comb(num_rewards, good) * p**good * (1 - p) ** (num_rewards - good)
            if chance:
                rewards = [1.0] * good + [-1.0] * (num_rewards - good)
                errors = [(b - truth) ** 2 for b in baselines(prior, rewards)]
                total += chance * sum(errors) / num_rewards
    return total / len(rates)


def estimators(tau2: float) -> dict[str, Baselines]:
    """The baselines of the table, by the name of their estimator."""
    return {
        "v05": lambda prior, r: [fuse(prior, r).baseline] * len(r),
        "v05_loo": lambda prior, r: [f.baseline for f in fuse_loo(prior, r)],
        "v05_eb": lambda prior, r: [fuse_eb(prior, r, tau2).baseline] * len(r),
        "v05_eb_loo": lambda prior, r: [f.baseline for f in fuse_eb_loo(prior, r, tau2)],
        "grpo": lambda prior, r: [sum(r) / len(r)] * len(r),
        "rloo": lambda prior, r: [(sum(r) - own) / (len(r) - 1) for own in r],
    }


def table(rates: Sequence[float], *, num_rewards: int = 4, seed: int = 0) -> dict[float, dict[str, float]]:
    """Mean squared error by the prior's rms error and the estimator's name."""
    rng = random.Random(seed)
    rows = {}
    for rms in RMS_ERRORS:
        priors = add_error(rates, rms, rng)
        tau2 = learn_tau2(rates, priors, num_rewards, rng)
        rows[rms] = {
            name: mean_squared_error(baselines, rates, priors, num_rewards)
            for name, baselines in estimators(tau2).items()
        }
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=Path, help="JSON lines with a score in [-1, 1]; default: Beta(.35, .35)")
    parser.add_argument("--rewards", type=int, default=4, help="rollouts per prompt")
    parser.add_argument("--prompts", type=int, default=3000, help="prompts, where they are sampled")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rates = recorded(args.scores) if args.scores else u_shaped(args.prompts, random.Random(args.seed))
    rows = table(rates, num_rewards=args.rewards, seed=args.seed)
    names = list(next(iter(rows.values())))
    print(f"{len(rates)} prompts, {args.rewards} rollouts each")
    print("rms error  " + "".join(f"{name:>12}" for name in names))
    for rms, row in rows.items():
        print(f"{rms:<11}" + "".join(f"{row[name]:>12.3f}" for name in names))
    sixteen = mean_squared_error(estimators(0)["grpo"], rates, [0.0] * len(rates), 16)
    print(f"mean of 16: {sixteen:.3f}")


if __name__ == "__main__":
    main()
