"""The shipped value model with its real backbone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from v05ray.config import ValueConfig
from v05ray.types import Prompt, SupportExample
from v05ray.value.bundle import BUILT_IN, load_bundle
from v05ray.value.embedding import MeanPooledEncoder
from v05ray.value.model import ValueModel


@pytest.fixture(scope="module")
def encoder() -> MeanPooledEncoder:
    return MeanPooledEncoder.minilm(num_threads=1)


def test_the_shipped_bundle_is_small_and_says_what_made_it():
    _, _, info = load_bundle(BUILT_IN)
    assert BUILT_IN.stat().st_size < 3_000_000
    assert info.command.startswith("v05ray value pretrain --seed")


def test_every_column_of_the_shipped_head_changes_its_answer():
    _, head, _ = load_bundle(BUILT_IN)
    generator = torch.Generator().manual_seed(0)
    num_columns = head.head_config.num_columns
    support = torch.randn(128, num_columns, generator=generator)
    labels = (support.sum(1) > 0).float()
    queries = torch.randn(8, num_columns, generator=generator)
    with torch.inference_mode():
        cache = head.condition(support, labels)
        plain = head.cached_margins(cache, queries)
        for column in range(num_columns):
            changed = queries.clone()
            changed[:, column] += 1
            assert float((head.cached_margins(cache, changed) - plain).abs().max()) > 1e-3, column


def test_embeddings_are_unit_vectors_that_know_what_is_alike(encoder: MeanPooledEncoder):
    vectors = encoder.encode(["What is 3 + 4?", "Compute 5 plus 9.", "Name the capital of France."]).vectors_NH
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_a_text_embeds_alike_alone_and_in_a_padded_batch(encoder: MeanPooledEncoder):
    alone = encoder.encode(["What is 3 + 4?"]).vectors_NH[0]
    batched = encoder.encode(["a much longer question " * 20, "What is 3 + 4?"]).vectors_NH[1]
    assert np.allclose(alone, batched, atol=1e-5)


def test_a_long_text_loses_its_end_and_is_counted(encoder: MeanPooledEncoder):
    start = "word " * 300
    embeddings = encoder.encode([start + "the end", start + "another end", "short"])
    assert embeddings.num_truncated == 2
    assert np.array_equal(embeddings.vectors_NH[0], embeddings.vectors_NH[1])


def test_it_learns_in_context_which_sums_are_hard(tmp_path: Path):
    """A policy that solves sums of short numbers and fails at long ones, seen on 96 prompts; asked about others."""
    model = ValueModel.load(ValueConfig(), cache=tmp_path / "e.sqlite")
    rng = np.random.default_rng(0)

    def question(digits: int) -> str:
        low = 10 ** (digits - 1)
        a, b = rng.integers(low, 10 * low, 2)
        return f"What is {a} + {b}? Answer with just the number."

    def score(digits: int) -> float:
        rate = {1: 0.9, 2: 0.7, 3: 0.3, 4: 0.1}[digits]
        return float(2 * rng.binomial(4, rate) / 4 - 1)

    digits = [1 + i % 4 for i in range(96)]
    support = [SupportExample(f"s{i}", question(d), score(d), 0) for i, d in enumerate(digits)]
    prompts = [Prompt(f"q{i}", question(1 + i % 4), (), "", "sum") for i in range(40)]
    values = np.array([p.value for p in model.predict(prompts, support, policy_version=0, seed=0)])
    means = [float(values[i::4].mean()) for i in range(4)]
    truth = [0.8, 0.4, -0.4, -0.8]
    assert means == sorted(means, reverse=True)
    assert max(abs(one - other) for one, other in zip(means, truth, strict=True)) < 0.45
