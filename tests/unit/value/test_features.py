import math

import pytest
import torch

from v05ray.value.features import STATISTICS, FeatureMap, statistics_tensor, text_statistics
from v05ray.value.ngrams import NUM_BUCKETS, ngram_tensor


def statistic(text: str) -> dict[str, float]:
    return dict(zip(STATISTICS, text_statistics(text), strict=True))


def test_statistics_of_a_sum_worked_by_hand():
    s = statistic("What is 12 + 345?")
    assert s["log_chars"] == pytest.approx(math.log(18))
    assert s["log_words"] == pytest.approx(math.log(6))
    assert s["log_digits"] == pytest.approx(math.log(6))
    assert s["log_numbers"] == pytest.approx(math.log(3))
    assert s["log_longest_number"] == pytest.approx(math.log(4))
    assert s["log_sum_of_number_lengths_squared"] == pytest.approx(math.log(1 + 4 + 9))
    assert s["log_operators"] == pytest.approx(math.log(2))
    assert s["log_questions"] == pytest.approx(math.log(2))
    assert s["log_symbols"] == pytest.approx(math.log(3))
    assert s["share_of_capitals"] == pytest.approx(1 / 17)
    assert s["mean_word_length"] == pytest.approx(math.log(1 + 13 / 5))
    assert s["log_latex_commands"] == s["log_lines"] == s["share_of_non_ascii"] == 0


def test_statistics_of_notation_and_other_scripts():
    s = statistic("求 $\\frac{1}{2}$\n")
    assert s["log_latex_commands"] == pytest.approx(math.log(2))
    assert s["log_math_marks"] == pytest.approx(math.log(7))
    assert s["log_lines"] == pytest.approx(math.log(2))
    assert s["share_of_non_ascii"] == pytest.approx(1 / 16)


def test_an_empty_prompt_has_finite_statistics():
    assert text_statistics("") == [0.0] * len(STATISTICS)


def fitted(num_rows: int = 40) -> tuple[FeatureMap, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    embeddings = torch.randn(num_rows, 12) * torch.linspace(2, 0.1, 12)
    texts = [f"{'9' * (i % 7)} word{i}" for i in range(num_rows)]
    statistics = statistics_tensor(texts)
    features = FeatureMap(12, 3, bottleneck=4)
    features.fit(embeddings, statistics)
    return features.eval(), embeddings, statistics, ngram_tensor(texts)


def test_projected_columns_are_the_principal_components():
    features, embeddings, statistics, ngrams = fitted()
    columns = features(embeddings, statistics, ngrams)[:, 1:4].double()
    _, singular, right = torch.linalg.svd((embeddings - embeddings.mean(0)).double())
    expected = (embeddings - embeddings.mean(0)).double() @ right[:3].T
    scale = float(features.scale)
    assert torch.allclose(columns.abs() * scale, expected.abs(), atol=1e-4)
    assert torch.allclose(columns.std(0, correction=0) * scale * math.sqrt(40), singular[:3], atol=1e-3)


def test_statistics_columns_are_standardised_and_constant_ones_stay_finite():
    features, embeddings, statistics, ngrams = fitted()
    columns = features(embeddings, statistics, ngrams)[:, 4:]
    assert torch.allclose(columns.mean(0), torch.zeros(len(STATISTICS)), atol=1e-5)
    assert bool(columns.isfinite().all())


def test_the_residual_starts_at_zero_and_reaches_every_projected_column_once_trained():
    features, embeddings, statistics, ngrams = fitted()
    before = features(embeddings, statistics, ngrams)
    with torch.no_grad():
        last = features.residual[-1]
        assert isinstance(last, torch.nn.Linear)
        last.bias.add_(1.0)
    after = features(embeddings, statistics, ngrams)
    assert torch.allclose(after[:, 1:4], before[:, 1:4] + 1.0)
    assert torch.equal(after[:, [0, *range(4, after.shape[1])]], before[:, [0, *range(4, before.shape[1])]])


def test_the_difficulty_is_nothing_until_trained_and_then_a_line_through_all_inputs():
    features, embeddings, statistics, ngrams = fitted()
    assert torch.equal(features(embeddings, statistics, ngrams)[:, 0], torch.zeros(40))
    with torch.no_grad():
        features.difficulty.weight[0, 5] = 2.0
        features.difficulty.weight[0, 12] = 3.0  # the first statistic, behind the 12 dimensions
        features.difficulty.weight[0, 12 + len(STATISTICS) + 7] = 5.0
    centred = embeddings - embeddings.mean(0)
    log_chars = (statistics[:, 0] - statistics[:, 0].mean()) / statistics[:, 0].std()
    expected = 2 * centred[:, 5] / centred.square().sum(1).mean().sqrt()
    expected = expected + 3 * log_chars / math.sqrt(len(STATISTICS)) + 5 * ngrams[:, 7]
    assert torch.allclose(features(embeddings, statistics, ngrams)[:, 0], expected, atol=1e-4)


def test_the_three_parts_of_the_inputs_weigh_alike():
    features, embeddings, statistics, ngrams = fitted()
    squared = features.inputs(embeddings, statistics, ngrams).square()
    parts = squared.split([12, len(STATISTICS), NUM_BUCKETS], dim=1)
    lengths = [float(part.sum(1).mean()) for part in parts]
    # Statistics that are constant in this corpus count nothing.
    share = float((statistics.std(0) > 1e-3).float().mean())
    assert lengths == pytest.approx([1.0, share * 39 / 40, 1.0], abs=1e-4)


def test_too_small_a_corpus_is_refused():
    with pytest.raises(ValueError, match="3 components need more rows"):
        fitted(3)
