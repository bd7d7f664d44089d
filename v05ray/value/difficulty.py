"""A direction of difficulty that all policies share: what V0's adapter can learn from a few thousand scores at once.

    margin = u . c(prompt) + b_policy          minimising  sum CE(rate, sigmoid(margin)) + |u|^2 / (2 lambda)

c: `FeatureMap.inputs`, b: a free intercept per policy. The head gets u . c as a column and finds out in
context how much it says about the policy at hand. Legend: N records, C inputs, P policies.
"""

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from v05ray.value.encoded import EncodedRecords
from v05ray.value.features import FeatureMap
from v05ray.value.scores import log_losses

STRENGTHS = (0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
"""lambda, the prior variance of an entry of u, chosen on folds; larger fits closer."""
NUM_FOLDS = 5
_INTERCEPT_RIDGE = 1e-3
"""The intercepts are free, but a policy without rows must stay finite."""


def inputs_of_texts(features: FeatureMap, data: EncodedRecords) -> np.ndarray:
    """c of every text [U, C], float64."""
    with torch.no_grad():
        return features.inputs(data.embeddings_UH, data.statistics_US, data.ngrams_UG).double().numpy()


def fit_direction(
    x_NC: np.ndarray, rate_N: np.ndarray, policy_N: np.ndarray, strength: float, *, tolerance: float = 1e-6
) -> tuple[np.ndarray, np.ndarray]:
    """(u [C], b [P]) by L-BFGS on the strictly convex objective above, until no gradient exceeds `tolerance`."""
    num_policies = int(policy_N.max()) + 1
    inputs_NC, target_N = torch.from_numpy(x_NC), torch.from_numpy(rate_N)
    place_N = torch.from_numpy(policy_N.astype(np.int64))
    u_C = torch.zeros(x_NC.shape[1], dtype=torch.float64, requires_grad=True)
    b_P = torch.zeros(num_policies, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [u_C, b_P],
        max_iter=500,
        tolerance_grad=tolerance,
        tolerance_change=0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        margin_N = inputs_NC @ u_C + b_P[place_N]
        loss = binary_cross_entropy_with_logits(margin_N, target_N, reduction="sum")
        loss = loss + u_C.square().sum() / (2 * strength) + _INTERCEPT_RIDGE / 2 * b_P.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return u_C.detach().numpy(), b_P.detach().numpy()


def cross_fit(
    x_UC: np.ndarray, data: EncodedRecords, rows: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """(u [C], out-of-fold margins [U], lambda): the direction of all `rows`, each text's margin from folds without it.

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
            u_C, b_P = fit_direction(
                x_UC[text_N[outside]], rate_N[outside], policy_N[outside], strength, tolerance=1e-3
            )
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
    return u_C, margins_U, best[1]
