"""Stand-ins for the text backbone."""

import hashlib
from collections.abc import Sequence

import numpy as np

from v05ray.value.embedding import Embeddings


class HashEncoder:
    """A unit vector per text that depends on the text alone; counts what it was asked for."""

    def __init__(self, width: int = 16, *, nan_for: str | None = None) -> None:
        self.width = width
        self.model_id = "hash"
        self.asked: list[str] = []
        self._nan_for = nan_for

    def encode(self, texts: Sequence[str]) -> Embeddings:
        self.asked.extend(texts)
        rows = []
        for text in texts:
            seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
            vector = np.random.default_rng(seed).standard_normal(self.width)
            rows.append(vector * np.nan if text == self._nan_for else vector / np.linalg.norm(vector))
        return Embeddings(np.array(rows, np.float32), sum(len(text) > 100 for text in texts))
