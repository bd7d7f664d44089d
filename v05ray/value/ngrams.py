"""What a prompt is literally made of: its character n-grams, hashed into a fixed number of columns.

    g = q / |q|      q_b = sum over distinct n-grams x in bucket b of sign(x) (1 + log count(x))

A sentence embedding keeps the topic and blurs the wording; competition maths gives its difficulty away in both ("find
the remainder", "如图", a name, a layout). There is nothing to fit: bucket and sign come from a fixed 64-bit hash, the
same on every machine and in every process. All digits count as one, for a number's shape says more than its value.
"""

import math
import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

NUM_BUCKETS = 1024
LENGTHS = (3, 4, 5)
"""Characters of an n-gram."""

_SPACE = re.compile(r"\s+")
_DIGIT = re.compile(r"\d")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIXER = np.uint64(0xBF58476D1CE4E5B9)


def text_ngrams(text: str) -> np.ndarray:
    """g, float32 [G] of unit length; zero for a text shorter than an n-gram. Case and runs of spaces do not count."""
    shape = _DIGIT.sub("0", f" {_SPACE.sub(' ', text.lower()).strip()} ")
    characters = np.frombuffer(shape.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    hashes = []
    for length in LENGTHS:
        num_ngrams = max(0, len(characters) - length + 1)
        hash_N = np.full(num_ngrams, length, np.uint64)
        for place in range(length):
            hash_N = hash_N * _MULTIPLIER + characters[place : place + num_ngrams]  # modulo 2^64
        hashes.append(hash_N)
    hash_N, count_N = np.unique(np.concatenate(hashes), return_counts=True)
    hash_N = (hash_N ^ (hash_N >> np.uint64(31))) * _MIXER
    hash_N ^= hash_N >> np.uint64(29)
    sign_N = np.where((hash_N >> np.uint64(40)) & np.uint64(1), 1.0, -1.0)
    bucket_N = (hash_N % np.uint64(NUM_BUCKETS)).astype(np.intp)
    q_G = np.bincount(bucket_N, sign_N * (1 + np.log(count_N)), NUM_BUCKETS)
    return (q_G / (math.sqrt(float(q_G @ q_G)) or 1.0)).astype(np.float32)


def ngram_tensor(texts: Sequence[str]) -> Tensor:
    """float32 [N, G]."""
    return torch.from_numpy(np.stack([text_ngrams(text) for text in texts])) if texts else torch.zeros(0, NUM_BUCKETS)
