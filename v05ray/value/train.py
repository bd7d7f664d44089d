"""Trains the embedded V0 on recorded scores: which prompts did which policy solve?

A task draws support and queries from one policy; the loss is soft-label cross-entropy, (1 - w) CE + w pairwise, where
the pairwise term is V0's -log sigmoid of the margin difference of a better and a worse prompt. Adapter and head are
trained together, the backbone is frozen. Prompts are split by their text: `test` is never looked at before the end,
`validation` stops the training early and fits the calibration. A bundle is written only if it beats the base rate on
`test`. Legend: T tasks of one step, S support rows, Q query rows, D columns.
"""

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from v05ray.ports import Tracker
from v05ray.registry import ConfigError
from v05ray.seeding import derive_seed
from v05ray.value.budgets import DEFAULT_TRAIN_STEPS
from v05ray.value.bundle import BUILT_IN, load_bundle, save_bundle
from v05ray.value.difficulty import cross_fit, fit_direction, inputs_of_texts
from v05ray.value.encoded import EncodedRecords
from v05ray.value.features import FeatureMap
from v05ray.value.head import ValueHead
from v05ray.value.pretrain import Report, stderr_line
from v05ray.value.scores import all_metrics, log_losses
from v05ray.value.trust import fit_platt

CALIBRATION_RIDGE = 400.0
"""In scores. A few hundred of them say little about a head that is calibrated to begin with, and what they say is too
cautious: the direction of difficulty is fitted anew afterwards, on more prompts."""


class NotBetterThanBaseRate(RuntimeError):
    """What was trained does not beat the base rate on held-out prompts, so no bundle was written."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train; the defaults suit a few thousand records."""

    seed: int = 0
    max_steps: int = DEFAULT_TRAIN_STEPS
    adapter_learning_rate: float = 1e-4
    """Of the projection and the residual: at 1e-3 they learn 2,000 prompts by heart within 50 steps."""
    head_learning_rate: float = 2e-4
    weight_decay: float = 0.01
    pairwise_weight: float = 0.0
    """w; V0 publishes .25."""
    num_tasks: int = 4
    support_size: int = 256
    num_queries: int = 64
    test_share: float = 0.2
    """Prompts that decide whether the bundle is written."""
    validation_share: float = 0.15
    """Prompts (of the rest) that stop the training and fit the calibration."""
    averaging: float = 0.97
    """Decay per step of the running mean of the weights, which is what is validated and kept; 0 keeps the last ones."""
    evaluate_every: int = 20
    patience: int = 5
    """Evaluations without a better validation loss before the training stops."""
    noise: float = 1.0
    """Gaussian noise added to embeddings while training, as a multiple of their spread 1 / sqrt(H)."""
    refit_projection: bool = True
    """Start from the principal components of these prompts instead of the bundle's own."""


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


@dataclass(frozen=True, slots=True)
class RowSplit:
    """Rows by the text they belong to."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_rows(data: EncodedRecords, options: TrainOptions) -> RowSplit:
    """By text, seeded; raises `ConfigError` where a part would be empty."""
    order = np.random.default_rng(derive_seed("value split", options.seed)).permutation(len(data.texts))
    num_test = round(options.test_share * len(order))
    num_validation = round(options.validation_share * (len(order) - num_test))
    parts = np.split(order, [num_test, num_test + num_validation])
    test, validation, train = (np.flatnonzero(np.isin(data.text_N, part)) for part in parts)
    if min(len(test), len(validation), len(train)) == 0:
        raise ConfigError(f"{len(data.texts)} prompts are too few to train, validate and test on")
    return RowSplit(train, validation, test)


def predict_rows(
    features: FeatureMap,
    head: ValueHead,
    data: EncodedRecords,
    support_rows: np.ndarray,
    query_rows: np.ndarray,
    *,
    hard_labels: bool = False,
) -> np.ndarray:
    """Margins (log-odds before calibration) of the queries given one policy's support."""
    with torch.inference_mode():
        labels_S = torch.from_numpy(data.rate_N[support_rows]).float()
        if hard_labels:
            labels_S = (labels_S >= 0.5).float()
        cache = head.condition(_columns(features, data, support_rows), labels_S)
        return head.cached_margins(cache, _columns(features, data, query_rows)).double().numpy()


def _columns(features: FeatureMap, data: EncodedRecords, rows: np.ndarray) -> Tensor:
    texts = torch.from_numpy(data.text_N[rows])
    return features(data.embeddings_UH[texts], data.statistics_US[texts], data.ngrams_UG[texts])


def predict_by_policy(
    features: FeatureMap,
    head: ValueHead,
    data: EncodedRecords,
    support_rows: np.ndarray,
    query_rows: np.ndarray,
    *,
    support_size: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Margins of `query_rows` and the base rates beside them, each policy with a seeded sample of its own support."""
    margins = np.zeros(len(query_rows))
    bases = np.zeros(len(query_rows))
    for policy in np.unique(data.policy_N[query_rows]):
        chosen = sample_rows(data.rows_of(policy, support_rows), support_size, seed, int(policy))
        places = np.flatnonzero(data.policy_N[query_rows] == policy)
        margins[places] = predict_rows(features, head, data, chosen, query_rows[places])
        bases[places] = (data.rate_N[chosen].sum() + 1) / (len(chosen) + 2)
    return margins, bases


def sample_rows(rows: np.ndarray, size: int, seed: int, policy: int) -> np.ndarray:
    """Up to `size` rows without replacement."""
    if len(rows) <= size:
        return rows
    return np.random.default_rng(derive_seed("value support", seed, policy)).choice(rows, size, replace=False)


def probabilities(margins: np.ndarray, calibration: tuple[float, float] = (1.0, 0.0)) -> np.ndarray:
    """sigmoid(a margin + b)."""
    return 1 / (1 + np.exp(-np.clip(calibration[0] * margins + calibration[1], -30, 30)))


def task_loss(margins_TQ: Tensor, rates_TQ: Tensor, pairwise_weight: float) -> Tensor:
    """(1 - w) CE + w mean over pairs with rate_i > rate_j of -log sigmoid(margin_i - margin_j)."""
    loss = (1 - pairwise_weight) * binary_cross_entropy_with_logits(margins_TQ, rates_TQ)
    if pairwise_weight:
        better_TQQ = rates_TQ[:, :, None] > rates_TQ[:, None, :]
        difference_TQQ = margins_TQ[:, :, None] - margins_TQ[:, None, :]
        pairs = -logsigmoid(difference_TQQ[better_TQQ])
        if pairs.numel():
            loss = loss + pairwise_weight * pairs.mean()
    return loss


def set_difficulty(features: FeatureMap, data: EncodedRecords, rows: np.ndarray, seed: int) -> tuple[Tensor, float]:
    """Fits the direction of difficulty on `rows`.

    Returns each text's value [U] as a direction without it gives it, and the strength that the folds chose.
    """
    folds = np.random.default_rng(derive_seed("value folds", seed))
    direction_C, margins_U, strength = cross_fit(inputs_of_texts(features, data), data, rows, folds)
    with torch.no_grad():
        features.difficulty.weight.copy_(torch.from_numpy(direction_C)[None])
    return torch.from_numpy(margins_U).float(), strength


def refit_difficulty(features: FeatureMap, data: EncodedRecords, rows: np.ndarray, strength: float) -> None:
    """Fits the direction anew, on more rows, with the strength that is known to suit."""
    x_NC = inputs_of_texts(features, data)[data.text_N[rows]]
    direction_C, _ = fit_direction(x_NC, data.rate_N[rows], data.policy_N[rows], strength)
    with torch.no_grad():
        features.difficulty.weight.copy_(torch.from_numpy(direction_C)[None])


class Trainer:
    """One training; `state_dict` holds all that a resumed one needs."""

    def __init__(
        self, features: FeatureMap, head: ValueHead, data: EncodedRecords, split: RowSplit, options: TrainOptions
    ) -> None:
        self.features, self.head, self.data, self.split, self.options = features, head, data, split, options
        usable = [p for p in range(len(data.policies)) if len(data.rows_of(p, split.train)) >= 32]
        if not usable:
            raise ConfigError("no policy has 32 prompts to train on; give more records per (dataset, model, step)")
        self._policies = usable
        features.difficulty.requires_grad_(False)  # a closed-form fit on folds: gradients would only learn it by heart
        self._unseen_difficulty_U, self.strength = set_difficulty(features, data, split.train, options.seed)
        with torch.no_grad():
            inputs_UC = features.inputs(data.embeddings_UH, data.statistics_US, data.ngrams_UG)
            self._fitted_difficulty_U = features.difficulty(inputs_UC)[:, 0]
        adapter = [p for p in features.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": adapter, "lr": options.adapter_learning_rate, "peak": options.adapter_learning_rate},
                {"params": [*head.parameters()], "lr": options.head_learning_rate, "peak": options.head_learning_rate},
            ],
            weight_decay=options.weight_decay,
        )
        self.rng = np.random.default_rng(derive_seed("value training", options.seed))
        self.step = 0
        self.best_step = 0
        self.best_loss = math.inf
        self.best: dict[str, dict[str, Tensor]] = {}
        self.mean = {name: _copy(module) for name, module in self._modules.items()}

    def _draw(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Support and query rows of T tasks of one shape: as many rows as the smallest of their policies allows."""
        policies = self.rng.choice(self._policies, self.options.num_tasks)
        pools = [self.rng.permutation(self.data.rows_of(int(policy), self.split.train)) for policy in policies]
        smallest = min(len(pool) for pool in pools)
        num_queries = min(self.options.num_queries, smallest // 3)
        largest = min(self.options.support_size, smallest - num_queries)
        # Mostly the size that will be used; sometimes a smaller one, for a run's first steps have no more.
        num_support = largest if self.rng.random() < 0.7 else int(self.rng.integers(min(32, largest), largest + 1))
        supports = [pool[:num_support] for pool in pools]
        queries = [pool[num_support : num_support + num_queries] for pool in pools]
        return supports, queries

    def _noisy_columns(self, support: np.ndarray, queries: np.ndarray) -> Tensor:
        """Columns [S + Q, D] of one task, embeddings blurred, the queries' difficulty as an unseen prompt would get it.

        The support's difficulty is half of the time the fitted one too (as where a known prompt is in the support), and
        half of the time unseen (as in a new run).
        """
        texts = torch.from_numpy(self.data.text_N[np.concatenate([support, queries])])
        embeddings_NH = self.data.embeddings_UH[texts]
        spread = self.options.noise / math.sqrt(embeddings_NH.shape[1])
        noisy_NH = embeddings_NH + spread * torch.randn_like(embeddings_NH)
        columns_ND = self.features(noisy_NH, self.data.statistics_US[texts], self.data.ngrams_UG[texts])
        fitted = self._fitted_difficulty_U[texts]
        unseen = self._unseen_difficulty_U[texts]
        first_unseen = 0 if self.rng.random() < 0.5 else len(support)
        difficulty_N = torch.cat([fitted[:first_unseen], unseen[first_unseen:]])
        # A random sign per column and task: what a column means must be read off the support, not remembered. Only the
        # difficulty keeps its sign, which means the same for every policy.
        signs_D = torch.from_numpy(self.rng.choice([-1.0, 1.0], columns_ND.shape[1] - 1)).float()
        return torch.cat([difficulty_N[:, None], columns_ND[:, 1:] * signs_D], dim=1)

    def train_step(self) -> float:
        """One update; returns its loss."""
        options, data = self.options, self.data
        warmup = max(1, options.max_steps // 20)
        scale = min(1.0, (self.step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * self.step / options.max_steps))
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * scale
        # Dropout has torch's generator: seeded by the step, a resumed training draws what an unbroken one does.
        torch.manual_seed(derive_seed("value dropout", options.seed, self.step))
        self.features.train()
        self.head.train()
        supports, queries = self._draw()
        num_support = len(supports[0])
        columns_TND = torch.stack([self._noisy_columns(s, q) for s, q in zip(supports, queries, strict=True)])
        labels_TS = torch.from_numpy(data.rate_N[np.stack(supports)]).float()
        rates_TQ = torch.from_numpy(data.rate_N[np.stack(queries)]).float()
        margins_TQ = self.head.margins(columns_TND[:, :num_support], labels_TS, columns_TND[:, num_support:])
        loss = task_loss(margins_TQ, rates_TQ, options.pairwise_weight)
        if not bool(loss.isfinite()):
            raise RuntimeError(f"value training diverged at step {self.step}: the loss is {float(loss.detach())}")
        self.optimiser.zero_grad()
        loss.backward()
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimiser.step()
        self.step += 1
        # A decay that grows from 0: the mean must not drag the first weights along.
        decay = min(options.averaging, self.step / (self.step + 10))
        for name, module in self._modules.items():
            for key, tensor in module.state_dict().items():
                self.mean[name][key].lerp_(tensor, 1 - decay)
        return float(loss.detach())

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Evaluation mode with the mean weights; the trained ones come back afterwards."""
        trained = {name: _copy(module) for name, module in self._modules.items()}
        for name, module in self._modules.items():
            module.load_state_dict(self.mean[name])
            module.eval()
        yield
        for name, module in self._modules.items():
            module.load_state_dict(trained[name])

    def validate(self) -> tuple[float, float]:
        """Mean log-loss on the validation prompts, uncalibrated, and the base rate's; remembers the best weights."""
        with self._averaged():
            return self._validate()

    def _validate(self) -> tuple[float, float]:
        rows = self.split.validation
        margins, bases = predict_by_policy(
            self.features,
            self.head,
            self.data,
            self.split.train,
            rows,
            support_size=self.options.support_size,
            seed=self.options.seed,
        )
        observed = self.data.rate_N[rows]
        loss = float(log_losses(probabilities(margins), observed).mean())
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, self.step
            self.best = {name: _copy(module) for name, module in self._modules.items()}
        return loss, float(log_losses(bases, observed).mean())

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {"features": self.features, "head": self.head}

    @property
    def patience_left(self) -> bool:
        """False once the validation loss has not improved for long."""
        options = self.options
        return self.step - self.best_step < options.patience * options.evaluate_every

    def restore_best(self) -> None:
        """Puts the best weights back."""
        for name, module in self._modules.items():
            module.load_state_dict(self.best[name])
            module.eval()

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings only."""
        return {
            "options": asdict(self.options),
            "step": self.step,
            "best_step": self.best_step,
            "best_loss": self.best_loss,
            "best": self.best,
            "mean": self.mean,
            "modules": {name: _copy(module) for name, module in self._modules.items()},
            "optimiser": self.optimiser.state_dict(),
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` returned; raises `ConfigError` where it is another training's."""
        if state["options"] != asdict(self.options):
            raise ConfigError("the unfinished training has other options; use them again, or delete its .resume file")
        for name, module in self._modules.items():
            module.load_state_dict(state["modules"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.rng.bit_generator.state = state["rng"]
        self.step, self.best_step = state["step"], state["best_step"]
        self.best_loss, self.best = state["best_loss"], state["best"]
        self.mean = state["mean"]


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


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

    With `resume`, the state is written there at every evaluation, and a training that finds it goes on from it.
    """
    features, head = copy.deepcopy(start[0]), copy.deepcopy(start[1])
    if options.refit_projection:
        texts = torch.from_numpy(np.unique(data.text_N[split.train]))
        features.fit(data.embeddings_UH[texts], data.statistics_US[texts])
    trainer = Trainer(features, head, data, split, options)
    if resume is not None and resume.exists():
        trainer.load_state_dict(torch.load(resume, weights_only=True))
        report(f"going on from step {trainer.step}")
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

    Interrupted, the same call goes on from `out.resume`. Raises `NotBetterThanBaseRate` where the log-loss or the MSE
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
