"""The gain on a prompt's policy gradient: E sum_i (r_i - B_i) (r_i - E r) / (E K Var r); 1 is unbiased.

    python -m benchmarks.gradient_gain [--groups 20000]

For a fixed K and under the adaptive budget of osla, where K itself depends on the rewards, so that even leave-one-out
is not exactly unbiased. Rollouts weigh the same whatever their group's size, as in all aggregations of the losses.
"""

import argparse
import random

from benchmarks.baseline_error import estimators
from v05ray.budget import BatchMachine, FixedRule, OslaRule, Rule

TAU2 = 0.2


def draw_group(rule: Rule, p: float, prior: float, rng: random.Random) -> list[float]:
    """One prompt's rewards, as many as the rule wants."""
    machine = BatchMachine({"p": prior}, rule, halt_fraction=0)
    machine.start()
    rewards = []
    while not machine.done:
        rewards.append(1.0 if rng.random() < p else -1.0)
        machine.observe("p", rewards[-1])
    return rewards


def gains(rule: Rule, p: float, error: float, *, num_groups: int, seed: int = 0) -> tuple[float, dict[str, float]]:
    """(mean K, gain by estimator) at success probability p and a prior off by `error` (clipped to +-.95)."""
    rng = random.Random(seed)
    truth = 2 * p - 1
    prior = min(0.95, max(-0.95, truth + error))
    baselines = estimators(TAU2)
    totals = dict.fromkeys(baselines, 0.0)
    num_rollouts = 0
    for _ in range(num_groups):
        rewards = draw_group(rule, p, prior, rng)
        num_rollouts += len(rewards)
        for name, baseline in baselines.items():
            totals[name] += sum((r - b) * (r - truth) for r, b in zip(rewards, baseline(prior, rewards), strict=True))
    scale = num_rollouts * (1 - truth * truth)
    return num_rollouts / num_groups, {name: total / scale for name, total in totals.items()}


def main() -> None:
    """Print one row per rule, success probability and error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=20_000)
    args = parser.parse_args()
    print("rule     p  error     K" + "".join(f"{name:>12}" for name in estimators(TAU2)))
    for rule in (FixedRule(4), OslaRule()):
        for p in (0.5, 0.2):
            for error in (0.0, 0.4, 0.8):
                mean_k, row = gains(rule, p, error, num_groups=args.groups)
                print(f"{rule.name:<6}{p:>4}{error:>7}{mean_k:>6.2f}" + "".join(f"{g:>12.3f}" for g in row.values()))


if __name__ == "__main__":
    main()
