"""What adapter and head answer about rows of recorded scores, policy by policy."""

import numpy as np
import torch
from torch import Tensor

from v05ray.seeding import derive_seed
from v05ray.stats.rates import laplace_rate
from v05ray.value.encoded import EncodedRecords
from v05ray.value.features import FeatureMap
from v05ray.value.head import ValueHead


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
        bases[places] = laplace_rate(data.rate_N[chosen].sum(), len(chosen))
    return margins, bases


def sample_rows(rows: np.ndarray, size: int, seed: int, policy: int) -> np.ndarray:
    """Up to `size` rows without replacement."""
    if len(rows) <= size:
        return rows
    return np.random.default_rng(derive_seed("value support", seed, policy)).choice(rows, size, replace=False)


def probabilities(margins: np.ndarray, calibration: tuple[float, float] = (1.0, 0.0)) -> np.ndarray:
    """sigmoid(a margin + b)."""
    return 1 / (1 + np.exp(-np.clip(calibration[0] * margins + calibration[1], -30, 30)))
