import numpy as np
import pytest

from tests.unit.value.worlds import world
from v05ray.value.difficulty import cross_fit, fit_direction, inputs_of_texts
from v05ray.value.features import STATISTICS, FeatureMap
from v05ray.value.ngrams import NUM_BUCKETS
from v05ray.value.scores import auc


def test_the_fit_solves_its_own_optimality_condition():
    rng = np.random.default_rng(0)
    x, rate, policy = rng.standard_normal((60, 4)), rng.uniform(size=60), rng.integers(0, 3, 60)
    u, b = fit_direction(x, rate, policy, strength=0.5)
    p = 1 / (1 + np.exp(-(x @ u + b[policy])))
    assert np.allclose(x.T @ (p - rate) + u / 0.5, 0, atol=1e-5)
    for index in range(3):
        assert float((p - rate)[policy == index].sum()) == pytest.approx(-1e-3 * b[index], abs=1e-5)


def test_the_direction_finds_what_is_hard_for_prompts_it_never_saw():
    data = world(160)
    features = FeatureMap(16, 4)
    features.fit(data.embeddings_UH, data.statistics_US)
    x = inputs_of_texts(features, data)
    train_rows = np.flatnonzero(data.text_N < 120)
    u, margins, _ = cross_fit(x, data, train_rows, np.random.default_rng(0))
    unseen = data.text_N >= 120
    assert auc(margins[data.text_N[unseen]], data.rate_N[unseen]) > 0.85
    assert u.shape == (16 + len(STATISTICS) + NUM_BUCKETS,)
    assert np.allclose(margins[120:], x[120:] @ u)


def test_out_of_fold_margins_do_not_know_their_own_prompt():
    """Rates that are pure noise: in-sample margins fit them, out-of-fold margins must not."""
    data = world(100, levels=(0.0,), slope=0.0)
    noise = np.random.default_rng(1).integers(0, 2, len(data.rate_N)).astype(float)
    data.rate_N[:] = noise
    features = FeatureMap(16, 4)
    features.fit(data.embeddings_UH, data.statistics_US)
    x = inputs_of_texts(features, data)
    u, margins, _ = cross_fit(x, data, np.arange(len(noise)), np.random.default_rng(0))
    assert auc(x[data.text_N] @ u, noise) > 0.6
    assert auc(margins[data.text_N], noise) < 0.6
