import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.unit.value.fakes import HashEncoder
from v05ray.errors import ConfigError
from v05ray.value.embedding import EmbeddingCache


def make_cache(encoder: HashEncoder, path: Path | None, model_id: str = "hash") -> EmbeddingCache:
    return EmbeddingCache(lambda: encoder, path, model_id=model_id, width=encoder.width)


def test_a_text_is_computed_once_and_duplicates_share_it():
    encoder = HashEncoder()
    cache = make_cache(encoder, None)
    first = cache.encode(["a", "b", "a"]).vectors_NH
    second = cache.encode(["b", "c"]).vectors_NH
    assert encoder.asked == ["a", "b", "c"]
    assert np.array_equal(first[0], first[2])
    assert np.array_equal(first[1], second[0])
    assert cache.num_computed == 3


def test_the_file_serves_another_process_without_loading_the_backbone(tmp_path: Path):
    path = tmp_path / "deep" / "embeddings.sqlite"
    one = make_cache(HashEncoder(), path)
    expected = one.encode(["a", "b"]).vectors_NH
    one.close()

    def refuse() -> HashEncoder:
        raise AssertionError("the backbone was loaded for cached texts")

    other = EmbeddingCache(refuse, path, model_id="hash", width=16)
    assert np.array_equal(other.encode(["b", "a"]).vectors_NH, expected[::-1])


def test_a_fresh_vector_equals_the_cached_one_bit_for_bit(tmp_path: Path):
    cache = make_cache(HashEncoder(), tmp_path / "c.sqlite")
    fresh = cache.encode(["x"]).vectors_NH
    assert np.array_equal(fresh, cache.encode(["x"]).vectors_NH)
    assert np.abs(fresh - HashEncoder().encode(["x"]).vectors_NH).max() < 1e-3


def test_models_do_not_share_vectors(tmp_path: Path):
    path = tmp_path / "c.sqlite"
    make_cache(HashEncoder(), path, "one").encode(["x"])
    encoder = HashEncoder()
    make_cache(encoder, path, "two").encode(["x"])
    assert encoder.asked == ["x"]


def test_more_texts_than_sqlite_takes_variables():
    texts = [f"text {i}" for i in range(1203)]
    encoder = HashEncoder(4)
    cache = make_cache(encoder, None)
    vectors = cache.encode(texts).vectors_NH
    assert np.array_equal(cache.encode(texts).vectors_NH, vectors)
    assert len(encoder.asked) == 1203


def test_nothing_asked_is_nothing_answered():
    assert make_cache(HashEncoder(), None).encode([]).vectors_NH.shape == (0, 16)


def test_truncated_texts_are_counted_once():
    cache = make_cache(HashEncoder(), None)
    assert cache.encode(["short", "long" * 50]).num_truncated == 1
    assert cache.encode(["long" * 50]).num_truncated == 0
    assert cache.num_truncated == 1


def test_nan_is_refused_and_not_remembered(tmp_path: Path):
    path = tmp_path / "c.sqlite"
    cache = make_cache(HashEncoder(nan_for="bad"), path)
    with pytest.raises(ValueError, match="NaN or infinity, the first for text 1"):
        cache.encode(["good", "bad"])
    assert sqlite3.connect(path).execute("SELECT count(*) FROM embeddings").fetchone() == (0,)


def test_a_torn_row_is_computed_again(tmp_path: Path):
    path = tmp_path / "c.sqlite"
    cache = make_cache(HashEncoder(), path)
    expected = cache.encode(["a"]).vectors_NH
    cache.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE embeddings SET vector = x'00'")
    assert np.array_equal(make_cache(HashEncoder(), path).encode(["a"]).vectors_NH, expected)


def test_a_file_that_is_no_database_is_named(tmp_path: Path):
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"not a database at all, but long enough to be read as one" * 100)
    with pytest.raises(ConfigError, match=r"c\.sqlite cannot be used .*delete it"):
        make_cache(HashEncoder(), path)


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """The system refuses every write beyond that, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_the_cache_and_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    encoder = HashEncoder()
    cache = make_cache(encoder, tmp_path / "c.sqlite")
    cache.encode(["a"])
    with files_of_at_most(4096):
        refused = cache.encode(["a", "b"]).vectors_NH
    assert "1 embeddings are not cached" in caplog.text
    assert np.array_equal(refused, cache.encode(["a", "b"]).vectors_NH)
    assert encoder.asked == ["a", "b", "b"]  # once more, and kept this time
    cache.encode(["b"])
    assert encoder.asked == ["a", "b", "b"]
