"""Records as tensors: each distinct text embedded once. Legend: U texts, H embedding width, S statistics, G n-gram
buckets, N records.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from v05ray.value.embedding import TextEncoder
from v05ray.value.features import statistics_tensor
from v05ray.value.ngrams import ngram_tensor
from v05ray.value.records import Policy, ValueRecord


@dataclass(frozen=True, slots=True)
class EncodedRecords:
    """What training and evaluation work on; rows are indices into the records."""

    texts: tuple[str, ...]
    embeddings_UH: Tensor
    statistics_US: Tensor
    ngrams_UG: Tensor
    text_N: np.ndarray
    """Index of each record's text."""
    rate_N: np.ndarray
    """Success rate in [0, 1], float64."""
    policy_N: np.ndarray
    """Index into `policies`."""
    policies: tuple[Policy, ...]

    def rows_of(self, policy: int, among: np.ndarray) -> np.ndarray:
        """Those of the rows `among` that belong to one policy."""
        return among[self.policy_N[among] == policy]

    def rows_with(self, texts: frozenset[str]) -> np.ndarray:
        """Boolean [N]: the record's text is one of `texts`."""
        chosen_U = np.array([text in texts for text in self.texts])
        return chosen_U[self.text_N]


def encode_records(records: Sequence[ValueRecord], encoder: TextEncoder) -> EncodedRecords:
    """Embeds the distinct texts; policies are sorted by name."""
    texts = tuple(dict.fromkeys(record.text for record in records))
    place = {text: i for i, text in enumerate(texts)}
    policies = tuple(sorted({record.policy for record in records}))
    policy_place = {policy: i for i, policy in enumerate(policies)}
    return EncodedRecords(
        texts=texts,
        embeddings_UH=torch.from_numpy(encoder.encode(texts).vectors_NH),
        statistics_US=statistics_tensor(texts),
        ngrams_UG=ngram_tensor(texts),
        text_N=np.array([place[record.text] for record in records]),
        rate_N=np.array([record.rate for record in records]),
        policy_N=np.array([policy_place[record.policy] for record in records]),
        policies=policies,
    )
