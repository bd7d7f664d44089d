"""How the learning rate changes over a run: linear warm-up, then constant, a half cosine or a line down.

A step of the run is one unit, however many optimiser updates it makes: the number of steps is known before the run, the
number of updates is not (a group filter leaves groups out). All updates of a step have the same rate.
"""

import math

from v05ray.config import LearnerConfig


def rate_factor(config: LearnerConfig, step: int, num_steps: int) -> float:
    """What `learning_rate` is multiplied by in step 0, 1, ... of `num_steps`; in (0, 1], or 0 past a schedule to 0.

    With w = `warmup_steps` and m = `min_rate_fraction`: (step + 1) / w while step < w, so that the first step already
    learns. Then, with t = min(1, (step - w) / (num_steps - w)): 1 for `constant`, m + (1 - m)(1 + cos(pi t)) / 2 for
    `cosine`, m + (1 - m)(1 - t) for `linear`. The last step is one before t = 1, so that it learns too.

    >>> decay = LearnerConfig(schedule="linear", warmup_steps=2)
    >>> [rate_factor(decay, step, 6) for step in range(8)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    passed = min(1.0, (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps))
    left = (1 + math.cos(math.pi * passed)) / 2 if config.schedule == "cosine" else 1 - passed
    return config.min_rate_fraction + (1 - config.min_rate_fraction) * left
