"""Trains the embedded V0 on recorded scores: which prompts did which policy solve?

A task draws support and queries from one policy; the loss is soft-label cross-entropy, (1 - w) CE + w pairwise, where
the pairwise term is V0's -log sigmoid of the margin difference of a better and a worse prompt. Adapter and head are
trained together, the backbone is frozen. Prompts are split by their text: `test` is never looked at before the end,
`validation` stops the training early and fits the calibration. A bundle is written only if it beats the base rate on
`test`.
"""

import copy
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from v05ray.ports import Tracker
from v05ray.priors.trust import fit_platt
from v05ray.value.bundle import BUILT_IN, load_bundle, save_bundle
from v05ray.value.difficulty import fit_direction, inputs_of_texts
from v05ray.value.encoded import EncodedRecords
from v05ray.value.features import FeatureMap
from v05ray.value.head import ValueHead
from v05ray.value.predicting import predict_by_policy, probabilities
from v05ray.value.pretrain import Report, stderr_line
from v05ray.value.scores import all_metrics
from v05ray.value.trainer import RowSplit, Trainer, TrainOptions, split_rows

CALIBRATION_RIDGE = 400.0
"""In scores. A few hundred of them say little about a head that is calibrated to begin with, and what they say is too
cautious: the direction of difficulty is fitted again afterwards, on more prompts."""


class NotBetterThanBaseRate(RuntimeError):
    """What was trained does not beat the base rate on held-out prompts, so no bundle was written."""


@dataclass
class TrainedValue:
    """The outcome of a training."""

    features: FeatureMap
    head: ValueHead
    calibration: tuple[float, float]
    steps: int
    """Steps of the weights that were kept."""
    validation_loss: float
    base_validation_loss: float


def refit_difficulty(features: FeatureMap, data: EncodedRecords, rows: np.ndarray, strength: float) -> None:
    """Fits the direction again, on more rows, with the strength that is known to suit."""
    x_NC = inputs_of_texts(features, data)[data.text_N[rows]]
    direction_C, _ = fit_direction(x_NC, data.rate_N[rows], data.policy_N[rows], strength)
    with torch.no_grad():
        features.difficulty.weight.copy_(torch.from_numpy(direction_C)[None])


def fit(
    start: tuple[FeatureMap, ValueHead],
    data: EncodedRecords,
    split: RowSplit,
    options: TrainOptions,
    *,
    report: Report = stderr_line,
    tracker: Tracker | None = None,
    resume: Path | None = None,
) -> TrainedValue:
    """Trains a copy of `start` until the validation loss stops falling, then fits the calibration.

    With `resume`, the state is written there at every evaluation, and a training that finds it resumes from it.
    """
    features, head = copy.deepcopy(start[0]), copy.deepcopy(start[1])
    if options.refit_projection:
        texts = torch.from_numpy(np.unique(data.text_N[split.train]))
        features.fit(data.embeddings_UH[texts], data.statistics_US[texts])
    trainer = Trainer(features, head, data, split, options)
    if resume is not None and resume.exists():
        trainer.load_state_dict(torch.load(resume, weights_only=True))
        report(f"resuming from step {trainer.step}")
    loss, base = trainer.validate()
    report(f"step {trainer.step}  validation {loss:.4f}  base rate {base:.4f}")
    started, first = time.monotonic(), trainer.step
    running: list[float] = []
    while trainer.step < options.max_steps and trainer.patience_left:
        running.append(trainer.train_step())
        if trainer.step % options.evaluate_every and trainer.step < options.max_steps:
            continue
        loss, base = trainer.validate()
        mean = sum(running) / len(running)
        left = (time.monotonic() - started) / (trainer.step - first) * (options.max_steps - trainer.step)
        report(
            f"step {trainer.step}/{options.max_steps}  train {mean:.4f}  validation {loss:.4f}  base rate {base:.4f}"
            f"  best {trainer.best_loss:.4f} at {trainer.best_step}  at most {left:.0f} s left"
        )
        if tracker is not None:
            tracker.log_metrics(
                {"value/train_loss": mean, "value/validation_loss": loss, "value/base_rate_loss": base}, trainer.step
            )
        running.clear()
        if resume is not None:
            partial = resume.with_name(resume.name + ".partial")
            torch.save(trainer.state_dict(), partial)
            partial.replace(resume)
    trainer.restore_best()
    rows = split.validation
    margins, _ = predict_by_policy(
        features, head, data, split.train, rows, support_size=options.support_size, seed=options.seed
    )
    pairs = list(zip(probabilities(margins).tolist(), data.rate_N[rows].tolist(), strict=True))
    calibration = fit_platt(pairs, ridge=CALIBRATION_RIDGE)
    # The validation prompts have done their work: the direction may learn from them too. It is a convex fit with a
    # ridge chosen on folds, so nothing is left to stop early.
    refit_difficulty(features, data, np.concatenate([split.train, split.validation]), trainer.strength)
    return TrainedValue(features, head, calibration, trainer.best_step, trainer.best_loss, base)


def test_metrics(trained: TrainedValue, data: EncodedRecords, split: RowSplit, options: TrainOptions) -> dict[str, Any]:
    """V0 and the base rate on the test prompts, support from all others."""
    support = np.concatenate([split.train, split.validation])
    margins, bases = predict_by_policy(
        trained.features,
        trained.head,
        data,
        support,
        split.test,
        support_size=options.support_size,
        seed=options.seed,
    )
    observed, group = data.rate_N[split.test], data.policy_N[split.test]
    return {
        "v0": all_metrics(probabilities(margins, trained.calibration), observed, group),
        "base_rate": all_metrics(bases, observed, group),
    }


def train(
    data: EncodedRecords,
    out: Path,
    *,
    options: TrainOptions,
    command: str,
    start: Path = BUILT_IN,
    report: Report = stderr_line,
    tracker: Tracker | None = None,
    resume: bool = True,
) -> dict[str, Any]:
    """Trains from the bundle `start` and writes `out`; returns the test metrics of V0 and of the base rate.

    Interrupted, the same call resumes from `out.resume`. Raises `NotBetterThanBaseRate` where the log-loss or the MSE
    on the test prompts is not below the base rate's: no bundle is written then.
    """
    features, head, info = load_bundle(start)
    split = split_rows(data, options)
    state = out.with_name(out.name + ".resume") if resume else None
    out.parent.mkdir(parents=True, exist_ok=True)
    trained = fit((features, head), data, split, options, report=report, tracker=tracker, resume=state)
    metrics = test_metrics(trained, data, split, options)
    v0, base = metrics["v0"], metrics["base_rate"]
    if tracker is not None:
        tracker.log_metrics(
            {f"value/test_{who}_{name}": value for who, m in metrics.items() for name, value in m.items()},
            trained.steps,
        )
    if not (v0["log_loss"] < base["log_loss"] and v0["mse_v"] < base["mse_v"]):
        raise NotBetterThanBaseRate(
            f"on {len(split.test)} held-out scores V0 has log-loss {v0['log_loss']:.4f} and MSE {v0['mse_v']:.4f}, the "
            f"base rate {base['log_loss']:.4f} and {base['mse_v']:.4f}: no bundle was written; train on more prompts, "
            "or use value.backend=base_rate"
        )
    notes = {
        "trained_from": info.command,
        "steps": trained.steps,
        "records": len(data.rate_N),
        "policies": [str(policy) for policy in data.policies],
        "test": {who: {name: round(value, 5) for name, value in m.items()} for who, m in metrics.items()},
    }
    save_bundle(
        out,
        trained.features,
        trained.head,
        replace(info, calibration=trained.calibration, seed=options.seed, command=command, notes=notes),
    )
    if state is not None:
        state.unlink(missing_ok=True)
    return metrics
