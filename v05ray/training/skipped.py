"""Updates that were skipped because their gradient was not finite: reported, and an end to the run if they last.

A skipped update leaves weights and optimiser as they were. One may be an accident of a batch; many in a row mean that
the weights themselves, or the numbers that come in, are broken, and more steps only spend tokens.
"""

from collections.abc import Mapping
from pathlib import Path

from v05ray.errors import RunError


def skipped_in_a_row(before: int, metrics: Mapping[str, float]) -> int:
    """Skipped updates since the last one that was applied, after a step with these `actor/...` metrics.

    `before` is that number before the step. An applied update counts as the last one of its step, wherever it was.

    >>> skipped_in_a_row(2, {"actor/num_updates": 4.0, "actor/update_skipped": 4.0})
    6
    >>> skipped_in_a_row(2, {"actor/num_updates": 4.0, "actor/update_skipped": 3.0})
    0
    """
    skipped = int(metrics.get("actor/update_skipped", 0))
    return before + skipped if 0 < skipped == int(metrics.get("actor/num_updates", 1)) else 0


def skipped_shown(step: int, metrics: Mapping[str, float], ledger: Path) -> str | None:
    """One line about a step's skipped updates; None where all were applied."""
    skipped = int(metrics.get("actor/update_skipped", 0))
    if not skipped:
        return None
    return (
        f"step {step}: {skipped} of {int(metrics.get('actor/num_updates', 1))} updates skipped, the gradient was not "
        f"finite; its rollouts are step {step} of {ledger}"
    )


def check_skipped(in_a_row: int, most: int, step: int, ledger: Path) -> None:
    """Raises `RunError` where `most` updates or more were skipped in a row (`learner.max_skipped_updates`)."""
    if in_a_row >= most:
        raise RunError(
            f"step {step}: the gradient was not finite in the last {in_a_row} updates, learner.max_skipped_updates is "
            f"{most}; the weights are those before them. Look at the rollouts of these steps in {ledger}; a lower "
            "learner.learning_rate in a run of another name, from an exported model, may avoid it"
        )
