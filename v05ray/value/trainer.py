"""One training of adapter and head: its options, its split of the rows, its steps, and all that a resume needs.

Legend: T tasks of one step, S support rows, Q query rows, D columns.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from v05ray.errors import ConfigError
from v05ray.seeding import derive_seed
from v05ray.value.budgets import DEFAULT_TRAIN_STEPS
from v05ray.value.difficulty import cross_fit, inputs_of_texts
from v05ray.value.encoded import EncodedRecords
from v05ray.value.features import FeatureMap
from v05ray.value.head import ValueHead
from v05ray.value.predicting import predict_by_policy, probabilities
from v05ray.value.scores import log_losses


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
