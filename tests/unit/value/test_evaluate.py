import json
from collections.abc import Sequence

import numpy as np
import pytest

from tests.unit.value.worlds import world
from v05ray.errors import ConfigError
from v05ray.value.baselines import BaseRate, NearestNeighbours, PooledLogistic, Predictor, all_baselines
from v05ray.value.encoded import EncodedRecords
from v05ray.value.evaluate import evaluate_pool, evaluate_splits, evaluate_unseen_policies
from v05ray.value.model import BaseRateBackend
from v05ray.value.plot import reliability_svg


def quiet(text: str) -> None:
    """Takes progress lines and drops them."""


class Oracle:
    """Knows every rate; remembers what it was shown, so that tests can look for leaks."""

    name = "v0"

    def __init__(self) -> None:
        self.trained_on: list[np.ndarray] = []
        self.asked: list[tuple[np.ndarray, np.ndarray]] = []

    def fit(self, data: EncodedRecords, train_rows: np.ndarray, seed: int) -> None:
        self.trained_on.append(train_rows)

    def predict(self, data: EncodedRecords, support_rows: np.ndarray, query_rows: np.ndarray) -> np.ndarray:
        self.asked.append((support_rows, query_rows))
        return data.rate_N[query_rows]


def test_a_perfect_predictor_scores_perfectly_and_no_prompt_leaks():
    data, oracle = world(60), Oracle()

    def predictors() -> Sequence[Predictor]:
        return [oracle, BaseRate()]

    report = evaluate_splits(data, predictors, num_splits=2, num_resamples=20, report=quiet)
    assert report.methods["v0"]["auc"].value == 1.0
    assert report.methods["v0"]["mse_v"].value == 0.0
    assert report.methods["base_rate"]["gauc"].value == 0.5
    assert report.methods["base_rate - v0"]["mse_v"].value > 0
    assert report.num_queries == 24
    for index, trained in enumerate(oracle.trained_on):
        for support, queries in oracle.asked[2 * index : 2 * index + 2]:
            assert set(data.text_N[queries]).isdisjoint(data.text_N[trained])
            assert set(support) <= set(trained)
            assert len(set(data.policy_N[[*support, *queries]])) == 1


def test_an_unseen_policy_is_left_out_of_training_but_has_a_support():
    data, oracle = world(60, levels=(-1.0, 0.0, 1.0)), Oracle()
    report = evaluate_unseen_policies(data, lambda: [oracle], num_splits=1, num_resamples=5, report=quiet)
    assert report.num_policies == 3
    for policy, (trained, (support, queries)) in enumerate(zip(oracle.trained_on, oracle.asked, strict=True)):
        assert policy not in data.policy_N[trained]
        assert set(data.policy_N[[*support, *queries]]) == {policy}
        assert set(data.text_N[queries]).isdisjoint(data.text_N[[*support, *trained]])


def test_a_pool_leaves_out_what_the_context_knows():
    data = world(60)
    rows = np.arange(120)
    context, queries = rows[data.text_N < 50], rows[data.text_N >= 45]
    report = evaluate_pool(data, context, queries, BaseRateBackend(), baselines=lambda: [BaseRate()], num_resamples=5)
    assert report.num_leaking == 10
    assert report.num_queries == 20
    for metric in ("auc", "mse_v", "log_loss"):
        assert report.methods["v0"][metric].value == pytest.approx(report.methods["base_rate"][metric].value)
    with pytest.raises(ConfigError, match="is in the context"):
        evaluate_pool(data, rows, queries, BaseRateBackend(), baselines=lambda: [BaseRate()], num_resamples=5)


def test_a_policy_without_context_is_named():
    data = world(60)
    rows = np.arange(120)
    context = rows[(data.policy_N == 0) & (data.text_N < 50)]
    with pytest.raises(ConfigError, match="no context for world/m@1"):
        evaluate_pool(
            data, context, rows[data.text_N >= 50], BaseRateBackend(), baselines=lambda: [BaseRate()], num_resamples=5
        )


def test_the_baselines_answer_rates_and_the_regression_finds_the_difficulty():
    data = world(80, levels=(-1.0, 1.0))
    train_rows, query_rows = np.flatnonzero(data.text_N < 60), np.flatnonzero(data.text_N >= 60)
    for baseline in all_baselines():
        baseline.fit(data, train_rows, 0)
        p = baseline.predict(data, data.rows_of(0, train_rows), data.rows_of(0, query_rows))
        assert p.shape == (20,)
        assert p.min() >= 0
        assert p.max() <= 1
        if baseline.name.startswith("logistic"):
            assert np.corrcoef(p, data.rate_N[data.rows_of(0, query_rows)])[0, 1] > 0.8


def test_the_shifted_regression_meets_the_support_of_a_policy_it_never_saw():
    data = world(60, levels=(-2.0, 2.0), slope=0.5)
    train_rows = np.flatnonzero((data.text_N < 45) & (data.policy_N == 0))
    support, queries = data.rows_of(1, np.flatnonzero(data.text_N < 45)), data.rows_of(1, np.arange(120))
    plain = PooledLogistic()
    shifted = PooledLogistic(shifted=plain)
    for model in (plain, shifted):
        model.fit(data, train_rows, 0)
    assert plain.predict(data, support, queries).mean() < 0.6
    assert shifted.predict(data, support, queries).mean() == pytest.approx(data.rate_N[queries].mean(), abs=0.05)


def test_neighbours_shrink_to_the_base_rate():
    data = world(40)
    rows = data.rows_of(0, np.arange(80))
    model = NearestNeighbours(k=4, shrinkage=1e9)
    model.fit(data, rows, 0)
    base = (data.rate_N[rows].sum() + 1) / (len(rows) + 2)
    assert np.allclose(model.predict(data, rows, rows), base)


def test_a_report_prints_and_serialises():
    data = world(60)
    report = evaluate_splits(
        data, lambda: [Oracle(), BaseRate(), NearestNeighbours()], num_splits=1, num_resamples=3, report=quiet
    )
    text = report.to_text()
    assert all(name in text for name in ("v0", "base_rate", "knn", "knn - v0"))
    assert json.loads(json.dumps(report.to_json()))["methods"]["v0"]["auc"]["value"] == 1.0
    svg = reliability_svg(report.reliability)
    assert svg.startswith("<svg")
    assert svg.count("<polyline") == 4
