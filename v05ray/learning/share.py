"""What one rank runs forward and backward of some samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from v05ray.config import LearnerConfig
from v05ray.learning.batching import Row, plan
from v05ray.losses.aggregation import BatchSize
from v05ray.types import TrainSample


@dataclass
class Share:
    """One rank's part of a batch or mini-batch."""

    passes: list[list[Row]]
    """As many on every rank: ZeRO's collectives need that, so a rank with less to do has empty ones, run as dummies."""
    size: BatchSize
    """Of all ranks' samples."""
    num_input_tokens: int
    """Of all ranks."""
    num_separate_tokens: int
    """What `num_input_tokens` would be if nothing were shared."""
    old: list[Tensor] = field(default_factory=list)
    """[N] of each pass: log-probabilities before the batch's first update; empty where that is the update to make."""


def share_of(
    samples: Sequence[TrainSample], rank: int, world_size: int, config: LearnerConfig, *, compute_all: bool
) -> Share:
    """The part of rank `rank`; the same plan is made on every rank. `compute_all` as in `batching.plan`."""
    shares = plan(
        samples, world_size, config.micro_batch_tokens, share_prefix=config.share_prefix, compute_all=compute_all
    )
    mine, rows = shares[rank], [row for share in shares for batch in share for row in batch]
    return Share(
        passes=[mine[i] if i < len(mine) else [] for i in range(max(len(share) for share in shares))],
        size=size_of(samples),
        num_input_tokens=sum(row.num_tokens for row in rows),
        num_separate_tokens=sum(len(s.prompt_ids) + len(s.response_ids) - 1 for r in rows for s in r.samples),
    )


def size_of(samples: Sequence[TrainSample]) -> BatchSize:
    """What the samples add to a batch."""
    return BatchSize(sum(sample.num_sampled for sample in samples), len(samples))
