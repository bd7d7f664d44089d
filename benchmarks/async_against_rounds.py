"""Is async ever slower than rounds? Random worlds, clusters and lengths, the same rollouts in both modes.

    python -m benchmarks.async_against_rounds [--worlds 1500]

Half of the settings are unlike real ones on purpose (2 prompts, one slot, lengths all equal): to find where it loses.
"""

import argparse
import random
from collections import Counter

from v05ray.simulate.cluster import Cluster
from v05ray.simulate.scaling import both
from v05ray.simulate.worlds import Lengths, World, u_shaped


def one(seed: int) -> tuple[float, int, float, Cluster]:
    """(makespan async / rounds, prompts, sigma of the lengths, cluster) of one random setting."""
    rng = random.Random(seed)
    num_prompts = rng.choice((2, 4, 8, 16, 64))
    rates = u_shaped(num_prompts, rng)
    lengths = Lengths(sigma=rng.choice((0, 0.2, 0.7)), failure_factor=rng.choice((1, 2)))
    cluster = Cluster(
        num_generators=rng.choice((1, 2, 4, 8, 64)),
        max_num_seqs=rng.choice((1, 4, 16, 128)),
        placement=rng.choice(("together", "split")),
    )
    world = World.of(rates, prior_rms=0.6, seed=seed, lengths=lengths)
    asynchronous, in_rounds = both(world, cluster, num_prompts, "osla", 0)
    return asynchronous.makespan_s / in_rounds.makespan_s, num_prompts, lengths.sigma, cluster


def main() -> None:
    """Print how often it was slower, by batch size and spread of lengths, and the worst cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1500)
    found = [one(seed) for seed in range(parser.parse_args().worlds)]
    total: Counter[tuple[bool, float]] = Counter()
    slower: Counter[tuple[bool, float]] = Counter()
    worst: dict[tuple[bool, float], float] = {}
    for ratio, num_prompts, sigma, _ in found:
        kind = (num_prompts >= 64, sigma)
        total[kind] += 1
        slower[kind] += ratio > 1 + 1e-9
        worst[kind] = max(worst.get(kind, 0.0), ratio)
    print("prompts  sigma  worlds  slower  worst async/rounds")
    for kind in sorted(total):
        size = "64" if kind[0] else "<= 16"
        print(f"{size:<7}{kind[1]:>7}{total[kind]:>8}{slower[kind]:>8}{worst[kind]:>10.4f}")
    for ratio, num_prompts, sigma, cluster in sorted(found, key=lambda row: -row[0])[:3]:
        print(f"{ratio:.4f}: {num_prompts} prompts, sigma {sigma}, {cluster}")


if __name__ == "__main__":
    main()
