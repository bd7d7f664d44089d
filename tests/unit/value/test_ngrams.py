import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from v05ray.value.ngrams import NUM_BUCKETS, ngram_tensor, text_ngrams


def test_a_text_with_two_ngrams_worked_by_hand():
    """ " ab " has the 3-grams " ab" and "ab ", and itself as a 4-gram: three entries of +-1 / sqrt(3)."""
    g = text_ngrams("ab")
    assert sorted(np.abs(g[g != 0])) == [np.float32(1 / math.sqrt(3))] * 3


def test_a_repeated_ngram_counts_by_its_logarithm():
    """ " aaaaaa " has "aaa" 4 times, "aaaa" 3 times, "aaaaa" twice, and two of each length at the ends, once each."""
    q = sorted([1.0] * 6 + [1 + math.log(4), 1 + math.log(3), 1 + math.log(2)])
    g = text_ngrams("aaaaaa")
    found = sorted(np.abs(g[g != 0]))
    assert np.allclose(found, np.array(q) / np.linalg.norm(q), atol=1e-6)


def test_the_hash_is_the_same_in_every_process_and_release():
    """A bundle's weights belong to these very buckets."""
    assert np.flatnonzero(text_ngrams("Find x.")).tolist() == [
        19, 150, 164, 202, 222, 318, 345, 347, 420, 436, 581, 734, 766, 893, 916, 925, 964, 971,
    ]  # fmt: skip


def test_case_spaces_and_the_value_of_digits_do_not_count_but_words_do():
    assert np.array_equal(text_ngrams("What is  12 + 7?\n"), text_ngrams("what is 98 + 3?"))
    assert not np.array_equal(text_ngrams("what is 98 + 3?"), text_ngrams("what is 98 - 3?"))
    assert not np.array_equal(text_ngrams("what is 98?"), text_ngrams("what is 981?"))


def test_an_empty_text_is_zero_and_no_text_is_an_empty_table():
    assert not text_ngrams("").any()
    assert ngram_tensor([]).shape == (0, NUM_BUCKETS)


@given(st.text())
def test_any_text_has_unit_length_or_none(text: str):
    length = float(torch.linalg.vector_norm(ngram_tensor([text])))
    assert math.isclose(length, 1.0, abs_tol=1e-5) or length == 0.0
