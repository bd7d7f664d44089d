"""One batch of samples split into mini-batches of whole prompts, an optimiser update for each."""

from collections.abc import Sequence
from random import Random

from v05ray.types import TrainSample


def split(samples: Sequence[TrainSample], most_prompts: int | None, seed: int) -> list[list[TrainSample]]:
    """Mini-batches with every sample in exactly one of them, all samples of a prompt in the same one.

    As few as hold at most `most_prompts` prompts each (None: all in one), their sizes one prompt apart at most: 33
    prompts at 16 make 3 of 11 and not 16, 16 and 1, since an update takes the mean over its own mini-batch (by
    `learner.aggregation`), so that a prompt alone would weigh as much as 16. Which prompts come together is drawn from
    `seed`; within a mini-batch they keep their order.

    Raises ValueError for no samples, or `most_prompts` below 1.
    """
    by_prompt: dict[str, list[TrainSample]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt_id, []).append(sample)
    if not by_prompt or (most_prompts is not None and most_prompts < 1):
        raise ValueError(f"{len(samples)} samples cannot be split into mini-batches of {most_prompts} prompts")
    if most_prompts is None or len(by_prompt) <= most_prompts:
        return [list(samples)]
    count = -(-len(by_prompt) // most_prompts)
    size, larger = divmod(len(by_prompt), count)
    order = list(range(len(by_prompt)))
    Random(seed).shuffle(order)
    groups, start = list(by_prompt.values()), 0
    mini_batches = []
    for index in range(count):
        stop = start + size + (index < larger)
        mini_batches.append([sample for place in sorted(order[start:stop]) for sample in groups[place]])
        start = stop
    return mini_batches
