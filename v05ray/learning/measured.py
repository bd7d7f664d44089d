"""From what the updates of a step added up, on each rank, to the step's metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor

from v05ray.learning.engine import Update

SUMS = ("loss", "entropy", "clipped", "capped", "ppo_kl", "kl_sampled", "kl", "kl_loss", "tokens")
"""What is added up per computed token, over micro-batches and ranks."""


@dataclass(frozen=True, slots=True)
class Done:
    """One optimiser update."""

    sums: Tensor
    """float64, one number for each of `SUMS`; this rank's."""
    divisor: float
    """What the update's loss is divided by."""
    update: Update


def means(done: Sequence[Done], world_size: int, *, penalises: bool) -> dict[str, float]:
    """Collective. Metrics of one step of one or more updates.

    Of tokens (entropy, fractions, KLs), the mean over the computed tokens of all updates; samples of zero advantage are
    not computed, unless something else moves them. Of updates (loss, gradient norm), the mean over updates; of those
    that were applied, if any was. `actor/update_skipped` counts the others. `actor/lr` is that of all.
    - `actor/ppo_kl`: mean of -log ratio, how far the policy has moved since it was what the ratio is taken against
    - `actor/kl_sampled`: mean of log sampled - log old, the engine against the learner before the first update
    - `actor/kl`, `actor/kl_loss` where `penalises`: the penalty's estimate in nats a token, and its share of the loss
    """
    sums_US = torch.stack([one.sums for one in done])
    if world_size > 1:
        torch.distributed.all_reduce(sums_US)
    by_update: list[dict[str, float]] = [dict(zip(SUMS, row, strict=True)) for row in sums_US.tolist()]
    totals = {name: sum(sums[name] for sums in by_update) for name in SUMS}
    num_computed = max(1.0, totals["tokens"])
    applied = [one for one in done if one.update.applied] or done
    metrics = {
        "actor/loss": _mean_loss("loss", by_update, done),
        "actor/entropy": totals["entropy"] / num_computed,
        "actor/grad_norm": sum(one.update.grad_norm for one in applied) / len(applied),
        "actor/lr": done[-1].update.learning_rate,
        "actor/clip_fraction": totals["clipped"] / num_computed,
        "actor/ppo_kl": totals["ppo_kl"] / num_computed,
        "actor/kl_sampled": totals["kl_sampled"] / num_computed,
        "actor/importance_capped_fraction": totals["capped"] / num_computed,
        "actor/num_tokens_computed": totals["tokens"],
        "actor/num_updates": float(len(done)),
        "actor/update_skipped": float(sum(not one.update.applied for one in done)),
    }
    if penalises:
        metrics["actor/kl"] = totals["kl"] / num_computed
        metrics["actor/kl_loss"] = _mean_loss("kl_loss", by_update, done)
    return metrics


def _mean_loss(name: str, by_update: Sequence[dict[str, float]], done: Sequence[Done]) -> float:
    return sum(sums[name] / one.divisor for sums, one in zip(by_update, done, strict=True)) / len(done)
