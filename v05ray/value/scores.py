"""How good are predicted success rates? Metrics on arrays, with confidence intervals from resampled prompts.

p [N] predicted and y [N] observed rates in [0, 1]; a prompt counts as solved where y >= .5 (V0's rule for AUC).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from v05ray.stats.rates import NUM_BINS, expected_calibration_error

_EDGE = 1e-6


def auc(p: np.ndarray, y: np.ndarray) -> float:
    """Probability that a solved prompt is ranked above an unsolved one, ties counting half; NaN for one class alone."""
    solved = y >= 0.5
    num_solved = int(solved.sum())
    num_unsolved = len(y) - num_solved
    if num_solved == 0 or num_unsolved == 0:
        return float("nan")
    _, inverse, counts = np.unique(p, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]
    return float((ranks[solved].sum() - num_solved * (num_solved + 1) / 2) / (num_solved * num_unsolved))


def grouped_auc(p: np.ndarray, y: np.ndarray, group: np.ndarray) -> float:
    """Size-weighted mean of the AUC within each group (V0's gAUC over (model, step)); one-class groups are skipped."""
    total = weight = 0.0
    for one in np.unique(group):
        rows = group == one
        value = auc(p[rows], y[rows])
        if not np.isnan(value):
            total += value * rows.sum()
            weight += rows.sum()
    return total / weight if weight else float("nan")


def log_losses(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cross-entropy -y log p - (1 - y) log(1 - p) of each row, in nats."""
    p = np.clip(p, _EDGE, 1 - _EDGE)
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Predictions between `low` and `high`: what was said and what came."""

    low: float
    high: float
    count: int
    mean_predicted: float
    mean_observed: float


def reliability(p: np.ndarray, y: np.ndarray, num_bins: int = NUM_BINS) -> list[ReliabilityBin]:
    """Equal-width bins of p that hold anything."""
    index = np.minimum((p * num_bins).astype(int), num_bins - 1)
    return [
        ReliabilityBin(
            b / num_bins,
            (b + 1) / num_bins,
            int((index == b).sum()),
            float(p[index == b].mean()),
            float(y[index == b].mean()),
        )
        for b in range(num_bins)
        if (index == b).any()
    ]


def calibration_error(p: np.ndarray, y: np.ndarray) -> float:
    """ECE: the bins' |mean p - mean y|, weighted by their counts."""
    return expected_calibration_error(list(zip(p.tolist(), y.tolist(), strict=True)))


METRICS = ("auc", "gauc", "log_loss", "brier", "mse_v", "ece")
"""`brier` is mean (p - y)^2; `mse_v` the same for V = 2p - 1 on [-1, 1], four times as large."""
HIGHER_IS_BETTER = frozenset({"auc", "gauc"})


def all_metrics(p: np.ndarray, y: np.ndarray, group: np.ndarray) -> dict[str, float]:
    """Every metric of `METRICS`."""
    brier = float(np.mean((p - y) ** 2))
    return {
        "auc": auc(p, y),
        "gauc": grouped_auc(p, y, group),
        "log_loss": float(log_losses(p, y).mean()),
        "brier": brier,
        "mse_v": 4 * brier,
        "ece": calibration_error(p, y),
    }


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Split:
    """One split's test rows with every method's predictions."""

    text: np.ndarray
    """[N] index of each row's prompt; prompts are what is resampled."""
    group: np.ndarray
    y: np.ndarray
    predictions: Mapping[str, np.ndarray]


def bootstrap(splits: Sequence[Split], *, num_resamples: int, seed: int) -> dict[str, dict[str, Interval]]:
    """`[method][metric]`: mean over the splits, with a 95 % percentile interval.

    Prompts are drawn with replacement, all rows of a prompt together and in every split at once: rows of one prompt
    under several policies are not independent, nor are splits that share prompts. Includes `METHOD - v0`, the paired
    difference, for every other method where there is a `v0`.
    """
    rng = np.random.default_rng(seed)
    texts = np.unique(np.concatenate([split.text for split in splits]))
    places = [[np.flatnonzero(split.text == text) for text in texts] for split in splits]

    def measure(rows: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
        values: dict[str, dict[str, float]] = {}
        for name in splits[0].predictions:
            per_split = [
                all_metrics(split.predictions[name][r], split.y[r], split.group[r])
                for split, r in zip(splits, rows, strict=True)
            ]
            values[name] = {metric: float(np.mean([one[metric] for one in per_split])) for metric in METRICS}
        if "v0" in values:
            for name in list(values):
                if name != "v0":
                    values[f"{name} - v0"] = {m: values[name][m] - values["v0"][m] for m in METRICS}
        return values

    point = measure([np.arange(len(split.y)) for split in splits])
    draws = []
    for _ in range(num_resamples):
        chosen = rng.integers(0, len(texts), len(texts))
        draws.append(measure([np.concatenate([place[i] for i in chosen]) for place in places]))
    return {
        name: {
            metric: Interval(value, *np.nanpercentile([draw[name][metric] for draw in draws], [2.5, 97.5]).tolist())
            for metric, value in metrics.items()
        }
        for name, metrics in point.items()
    }
