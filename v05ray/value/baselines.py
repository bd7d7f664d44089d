"""What V0 has to beat: simpler predictors of a prompt's success, on the same embeddings and statistics.

Each is fitted on the training rows (only `logistic` uses them) and then, per policy, gets the same support rows as V0.
Legend: N rows, H embedding width, S statistics, F = H + S columns, P policies.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from v05ray.stats.rates import laplace_rate
from v05ray.value.encoded import EncodedRecords

_STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Inverse regularisation tried for the logistic regressions, on inner folds split by prompt."""


class Predictor(Protocol):
    """A way to predict success rates."""

    name: str

    def fit(self, data: EncodedRecords, train_rows: np.ndarray, seed: int) -> None:
        """Learns what it can from all policies' training rows."""
        ...

    def predict(self, data: EncodedRecords, support_rows: np.ndarray, query_rows: np.ndarray) -> np.ndarray:
        """Success rates [Q] in [0, 1] of one policy's queries given its support."""
        ...


def _inputs(data: EncodedRecords, rows: np.ndarray) -> np.ndarray:
    """[N, F]: embeddings scaled to unit variance per dimension, beside standardised statistics."""
    texts = data.text_N[rows]
    embeddings_NH = data.embeddings_UH.numpy()[texts]
    statistics_US = data.statistics_US.numpy()
    scaled_NS = (statistics_US[texts] - statistics_US.mean(0)) / (statistics_US.std(0) + 1e-6)
    centre_H = data.embeddings_UH.numpy().mean(0)
    return np.hstack([(embeddings_NH - centre_H) * np.sqrt(embeddings_NH.shape[1]), scaled_NS]).astype(np.float64)


class BaseRate:
    """Laplace's base rate of the support."""

    name = "base_rate"

    def fit(self, data: EncodedRecords, train_rows: np.ndarray, seed: int) -> None:
        """Does nothing: all that it predicts from comes with the query."""

    def predict(self, data: EncodedRecords, support_rows: np.ndarray, query_rows: np.ndarray) -> np.ndarray:
        """The same rate for every query."""
        rates = data.rate_N[support_rows]
        return np.full(len(query_rows), laplace_rate(rates.sum(), len(rates)))


class NearestNeighbours:
    """Mean rate of the k nearest supports by cosine, shrunk to the base rate as if by `shrinkage` more pairs."""

    name = "knn"

    def __init__(self, k: int = 16, shrinkage: float = 8.0) -> None:
        self._k = k
        self._shrinkage = shrinkage

    def fit(self, data: EncodedRecords, train_rows: np.ndarray, seed: int) -> None:
        """Does nothing: all that it predicts from comes with the query."""

    def predict(self, data: EncodedRecords, support_rows: np.ndarray, query_rows: np.ndarray) -> np.ndarray:
        """Shrunken neighbourhood means."""
        embeddings_UH = data.embeddings_UH.numpy()
        support_SH = embeddings_UH[data.text_N[support_rows]]
        queries_QH = embeddings_UH[data.text_N[query_rows]]
        k = min(self._k, len(support_rows))
        nearest_Qk = np.argpartition(-(queries_QH @ support_SH.T), k - 1, axis=1)[:, :k]
        rates = data.rate_N[support_rows]
        base = laplace_rate(rates.sum(), len(rates))
        return (rates[nearest_Qk].sum(1) + self._shrinkage * base) / (k + self._shrinkage)


def _fit_logistic(x_NF: np.ndarray, rate_N: np.ndarray, strength: float):
    """Soft labels as two weighted copies of each row."""
    from sklearn.linear_model import LogisticRegression

    weights = np.concatenate([rate_N, 1 - rate_N])
    labels = np.concatenate([np.ones(len(rate_N)), np.zeros(len(rate_N))])
    # Per-row strength / F keeps the grid meaningful for any number of columns.
    model = LogisticRegression(C=strength / x_NF.shape[1], max_iter=500)
    return model.fit(np.vstack([x_NF, x_NF]), labels, sample_weight=weights)


class PooledLogistic:
    """Logistic regression over all policies: embedding, statistics, and an intercept per policy (one-hot).

    For a policy that it never saw, the plain one uses no policy intercept at all (a global regression); the shifted one
    fits the intercept on the support, which is the fairest rival of an in-context model.
    """

    def __init__(self, *, shifted: "PooledLogistic | None" = None) -> None:
        """`shifted`: another one, which is fitted before this one and whose regression this one shifts."""
        self.name = "logistic_shifted" if shifted else "logistic"
        self._other = shifted

    def _design(self, data: EncodedRecords, rows: np.ndarray) -> np.ndarray:
        one_hot_NP = np.eye(len(data.policies))[data.policy_N[rows]]
        one_hot_NP[:, ~self._seen] = 0
        # Large entries: the intercepts are hardly regularised.
        return np.hstack([_inputs(data, rows), 10 * one_hot_NP])

    def fit(self, data: EncodedRecords, train_rows: np.ndarray, seed: int) -> None:
        """Chooses the regularisation on three folds split by prompt, then fits all rows."""
        from v05ray.value.scores import log_losses

        if self._other is not None:
            self._seen, self._model = self._other._seen, self._other._model
            return
        self._seen = np.isin(np.arange(len(data.policies)), data.policy_N[train_rows])
        x_NF, rate_N = self._design(data, train_rows), data.rate_N[train_rows]
        fold_U = np.random.default_rng(seed).integers(0, 3, len(data.texts))
        fold_N = fold_U[data.text_N[train_rows]]
        losses = []
        for strength in _STRENGTHS:
            total = 0.0
            for fold in range(3):
                inside, outside = fold_N == fold, fold_N != fold
                if inside.any() and outside.any():
                    model = _fit_logistic(x_NF[outside], rate_N[outside], strength)
                    total += log_losses(model.predict_proba(x_NF[inside])[:, 1], rate_N[inside]).sum()
            losses.append(total)
        self._model = _fit_logistic(x_NF, rate_N, _STRENGTHS[int(np.argmin(losses))])

    def predict(self, data: EncodedRecords, support_rows: np.ndarray, query_rows: np.ndarray) -> np.ndarray:
        """The regression's rates, with the support's intercept where asked for."""
        margins_Q = self._model.decision_function(self._design(data, query_rows))
        if self._other is not None:
            margins_S = self._model.decision_function(self._design(data, support_rows))
            margins_Q = margins_Q + _best_shift(margins_S, data.rate_N[support_rows])
        return 1 / (1 + np.exp(-margins_Q))


def _best_shift(margins_S: np.ndarray, rates_S: np.ndarray) -> float:
    """The shift that makes the support's mean predicted rate its mean observed one, by bisection."""
    target = laplace_rate(rates_S.sum(), len(rates_S))
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        if float(np.mean(1 / (1 + np.exp(-(margins_S + middle))))) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


class DirectionAlone:
    """V0 without its head: the direction of difficulty, and an intercept that fits the support. What the head adds."""

    name = "v0_without_head"

    def fit(self, data: EncodedRecords, train_rows: np.ndarray, seed: int) -> None:
        """As `value train` fits it, from the same inputs."""
        from v05ray.value.difficulty import cross_fit, inputs_of_texts
        from v05ray.value.features import FeatureMap

        features = FeatureMap(data.embeddings_UH.shape[1], 1)
        texts = np.unique(data.text_N[train_rows])
        features.fit(data.embeddings_UH[texts], data.statistics_US[texts])
        inputs_UC = inputs_of_texts(features, data)
        direction_C, _, _ = cross_fit(inputs_UC, data, train_rows, np.random.default_rng(seed))
        self._margin_U = inputs_UC @ direction_C

    def predict(self, data: EncodedRecords, support_rows: np.ndarray, query_rows: np.ndarray) -> np.ndarray:
        """sigmoid(u . c + shift)."""
        shift = _best_shift(self._margin_U[data.text_N[support_rows]], data.rate_N[support_rows])
        return 1 / (1 + np.exp(-(self._margin_U[data.text_N[query_rows]] + shift)))


class GaussianProcess:
    """GP regression of the rate on the support: RBF + noise, hyper-parameters by marginal likelihood."""

    name = "gp"

    def fit(self, data: EncodedRecords, train_rows: np.ndarray, seed: int) -> None:
        """Nothing to learn before the support is known."""

    def predict(self, data: EncodedRecords, support_rows: np.ndarray, query_rows: np.ndarray) -> np.ndarray:
        """Posterior means, kept inside [.02, .98]."""
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

        x_SF, x_QF = _inputs(data, support_rows), _inputs(data, query_rows)
        scale = np.sqrt(x_SF.shape[1])
        kernel = ConstantKernel(0.2, (1e-3, 10)) * RBF(1.0, (0.1, 30)) + WhiteKernel(0.8, (1e-4, 2))
        model = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=0)
        model.fit(x_SF / scale, data.rate_N[support_rows])
        return np.clip(model.predict(x_QF / scale), 0.02, 0.98)


def all_baselines() -> Sequence[Predictor]:
    """A fresh one of each."""
    logistic = PooledLogistic()
    shifted = PooledLogistic(shifted=logistic)
    return BaseRate(), NearestNeighbours(), GaussianProcess(), logistic, shifted, DirectionAlone()
