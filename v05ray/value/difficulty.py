"""A direction of difficulty that all policies share: what V0's adapter can learn from a few thousand scores at once.

    margin = u . c(prompt) + b_policy          minimising  sum CE(rate, sigmoid(margin)) + C / (2 lambda) |u|^2

c: `FeatureMap.inputs`, C: its length, b: a free intercept per policy. The head gets u . c as a column and finds out in
context how much it says about the policy at hand. Legend: N records, C inputs, P policies.
"""

import numpy as np

from v05ray.value.encoded import EncodedRecords
from v05ray.value.features import FeatureMap
from v05ray.value.scores import log_losses

STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""lambda, chosen on folds; larger fits closer."""
NUM_FOLDS = 5


def inputs_of_texts(features: FeatureMap, data: EncodedRecords) -> np.ndarray:
    """c of every text [U, C], float64."""
    return features.inputs(data.embeddings_UH, data.statistics_US).double().numpy()


def fit_direction(
    x_NC: np.ndarray, rate_N: np.ndarray, policy_N: np.ndarray, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """(u [C], b [P]) by Newton's method on the strictly convex objective above."""
    num_inputs, num_policies = x_NC.shape[1], int(policy_N.max()) + 1
    design = np.hstack([x_NC, np.eye(num_policies)[policy_N]])
    ridge = np.full(design.shape[1], 1e-3)  # the intercepts are free, but a policy without rows must stay finite
    ridge[:num_inputs] = num_inputs / strength
    weights = np.zeros(design.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (p - rate_N) + ridge * weights
        hessian = (design * (p * (1 - p))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return weights[:num_inputs], weights[num_inputs:]


def cross_fit(
    x_UC: np.ndarray, data: EncodedRecords, rows: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(u [C], out-of-fold margins [U]): the direction of all `rows`, and each text's margin from folds without it.

    Folds are drawn by text, the strength is the one with the least out-of-fold loss. Texts outside `rows` get u . c.
    """
    fold_U = rng.integers(0, NUM_FOLDS, len(data.texts))
    text_N, rate_N, policy_N = data.text_N[rows], data.rate_N[rows], data.policy_N[rows]
    best: tuple[float, float, np.ndarray] | None = None
    for strength in STRENGTHS:
        margins_U = np.zeros(len(data.texts))
        loss = 0.0
        for fold in range(NUM_FOLDS):
            outside = fold_U[text_N] != fold
            if outside.all() or not outside.any():
                continue
            u_C, b_P = fit_direction(x_UC[text_N[outside]], rate_N[outside], policy_N[outside], strength)
            margins_U[fold_U == fold] = x_UC[fold_U == fold] @ u_C
            b_P = np.append(b_P, np.zeros(len(data.policies) - len(b_P)))
            p = 1 / (1 + np.exp(-(margins_U[text_N[~outside]] + b_P[policy_N[~outside]])))
            loss += float(log_losses(p, rate_N[~outside]).sum())
        if best is None or loss < best[0]:
            best = (loss, strength, margins_U)
    assert best is not None
    u_C, _ = fit_direction(x_UC[text_N], rate_N, policy_N, best[1])
    margins_U = best[2]
    known_U = np.zeros(len(data.texts), bool)
    known_U[text_N] = True
    margins_U[~known_U] = x_UC[~known_U] @ u_C
    return u_C, margins_U
