"""V0 in one process: support pairs in, a prior per prompt out.

`ValueModel.load(config)` picks the backend; `predict` conditions it on a seeded sample of the support and answers. A
value actor is a shell around this class. Scale: support scores and priors live in [-1, 1]; p = (score + 1) / 2 and
V = 2p - 1 are converted here and nowhere else.
"""

import functools
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from v05ray.config import ValueConfig
from v05ray.errors import ConfigError
from v05ray.registry import Form, Registry
from v05ray.stats.rates import laplace_rate
from v05ray.stats.shrinkage import V_MAX
from v05ray.types import Prior, Prompt, SupportExample

if TYPE_CHECKING:
    from torch import Tensor

    from v05ray.value.bundle import BundleInfo
    from v05ray.value.embedding import EmbeddingCache
    from v05ray.value.features import FeatureMap
    from v05ray.value.head import ValueHead

log = logging.getLogger(__name__)

MAX_COLUMNS = 50_000
"""Texts whose feature columns a process keeps: some 20 MB."""


class Backend(Protocol):
    """Answers with success probabilities, given which prompts the policy solved."""

    name: str = ""
    description: str = ""
    """Which backend it is and why it was taken, in one line."""

    def probabilities(
        self, queries: Sequence[str], support: Sequence[str], labels: Sequence[float], key: object
    ) -> list[float]:
        """One p in [0, 1] per query. `labels` lie in [0, 1]; an equal `key` means an equal support."""
        ...

    def counters(self) -> dict[str, int]:
        """Numbers since the start, such as `truncated`."""
        return {}


BACKENDS: Registry[Backend] = Registry(
    "value backend",
    Form(
        methods={"probabilities": 4},
        inherited={"counters": 0},
        attributes={"name": None},
        fix="make it a subclass of v05ray.value.model.Backend with probabilities(self, queries, support, labels, key)",
    ),
)
"""Every value backend by name. A builder gets `config` (`ValueConfig`) and `cache` where its signature names them."""


def base_rate(scores: Sequence[float]) -> float:
    """Laplace's estimate (sum p + 1) / (n + 2) of the success probability, from scores in [-1, 1]; .5 for none."""
    return laplace_rate(sum((score + 1) / 2 for score in scores), len(scores))


class BaseRateBackend:
    """The same answer for every prompt: how often the recent policy succeeds."""

    name = "base_rate"

    def __init__(self, why: str = "as value.backend says") -> None:
        self.description = f"value model: base_rate{why if why.startswith(' ') else ', ' + why}"

    def probabilities(
        self, queries: Sequence[str], support: Sequence[str], labels: Sequence[float], key: object
    ) -> list[float]:
        """Laplace's base rate of the labels, once per query."""
        rate = laplace_rate(sum(labels), len(labels))
        return [rate] * len(queries)

    def counters(self) -> dict[str, int]:
        """Nothing to count."""
        return {}


class EmbeddedBackend:
    """MiniLM features and the small head, from a bundle; an unchanged support is run through the head only once."""

    name = "bundle"
    description = ""

    def __init__(
        self,
        features: "FeatureMap",
        head: "ValueHead",
        info: "BundleInfo",
        encoder: "EmbeddingCache",
        num_threads: int | None = None,
    ) -> None:
        self.features, self.head, self.info = features, head, info
        self.encoder = encoder
        self._num_threads = num_threads
        self._columns: dict[str, Tensor] = {}
        self._key: object = None
        self._support_cache: Any = None
        self.num_cache_hits = 0

    @classmethod
    def from_file(cls, bundle: Path, cache: Path | None, num_threads: int | None) -> "EmbeddedBackend":
        """Loads a bundle strictly; the backbone itself is loaded at the first text that `cache` lacks."""
        from v05ray.value.bundle import load_bundle
        from v05ray.value.embedding import MINILM_ID, EmbeddingCache, MeanPooledEncoder, minilm_folder

        features, head, info = load_bundle(bundle)
        if info.backbone != MINILM_ID:
            raise ConfigError(f"value bundle {bundle} needs the backbone {info.backbone!r}, v05ray has {MINILM_ID!r}")
        minilm_folder()  # say now, not at the first prompt, that the package is missing
        # One by one, for the same reason as in `columns`; each text is embedded once in a run.
        load = functools.partial(MeanPooledEncoder.minilm, batch_size=1)
        encoder = EmbeddingCache(load, cache, model_id=MINILM_ID, width=info.embedding_width)
        return cls(features, head, info, encoder, num_threads)

    def columns(self, texts: Sequence[str]) -> "Tensor":
        """Feature columns [N, D] of some texts; a text met before costs a look-up, for a run sees its prompts often."""
        import torch

        from v05ray.value.features import statistics_tensor
        from v05ray.value.ngrams import ngram_tensor

        fresh = list(dict.fromkeys(text for text in texts if text not in self._columns))
        if len(self._columns) + len(fresh) > MAX_COLUMNS:
            self._columns.clear()
            fresh = list(dict.fromkeys(texts))
        if fresh:
            parts = (
                torch.from_numpy(self.encoder.encode(fresh).vectors_NH),
                statistics_tensor(fresh),
                ngram_tensor(fresh),
            )
            # Row by row: a text's columns must not depend, by rounding, on which texts this process met together.
            rows = (self.features(*row)[0] for row in zip(*(part.split(1) for part in parts), strict=True))
            self._columns.update(zip(fresh, rows, strict=True))
        return torch.stack([self._columns[text] for text in texts])

    def probabilities(
        self, queries: Sequence[str], support: Sequence[str], labels: Sequence[float], key: object
    ) -> list[float]:
        """sigmoid(a * margin + b) with the bundle's calibration (a, b)."""
        import torch

        from v05ray.value.embedding import torch_threads

        with torch_threads(self._num_threads), torch.inference_mode():
            if self._support_cache is None or self._key != key:
                labels_S = torch.tensor(labels, dtype=torch.float32)
                if self.info.hard_labels:
                    labels_S = (labels_S >= 0.5).float()
                self._support_cache = self.head.condition(self.columns(support), labels_S)
                self._key = key
            else:
                self.num_cache_hits += 1
            margins_Q = self.head.cached_margins(self._support_cache, self.columns(queries))
            slope, intercept = self.info.calibration
            return torch.sigmoid(slope * margins_Q + intercept).tolist()

    def counters(self) -> dict[str, int]:
        """Texts truncated and embedded so far, and calls answered from the support cache."""
        return {
            "truncated": self.encoder.num_truncated,
            "embedded": self.encoder.num_computed,
            "support_cache_hits": self.num_cache_hits,
        }


@dataclass
class ValueModel:
    """The value model as the training loop sees it."""

    backend: Backend
    support_size: int
    min_support: int
    choice: str
    """Which backend was taken and why, in one line."""
    v_max: float = V_MAX
    counters: dict[str, int] = field(default_factory=lambda: {"nonfinite": 0, "clipped": 0, "duplicates": 0})

    @classmethod
    def load(cls, config: ValueConfig, *, cache: Path | None = None, announce: bool = True) -> "ValueModel":
        """Builds what `config.backend` names and logs the choice.

        `cache` is the embeddings' SQLite file, None for memory alone. Raises `ConfigError` where the named backend
        cannot be had; `auto` falls through to the next one and says why.
        """
        wanted = config.backend
        chosen = BACKENDS.choose(wanted.name, wanted.options, offered={"config": config, "cache": cache})
        backend = chosen.build()
        choice = getattr(backend, "description", "") or f"value model: {chosen.label}, as value.backend says"
        if announce:
            log.info(choice)
        return cls(backend, config.support_size, config.min_support, choice)

    def predict(
        self, prompts: Sequence[Prompt], support: Sequence[SupportExample], *, policy_version: int, seed: int
    ) -> list[Prior]:
        """One prior per prompt, in order, conditioned on up to `support_size` pairs drawn with `seed`.

        Under `min_support` pairs, and with the base-rate backend, every prior is the base rate of all pairs and says so
        in its origin. Raises `ValueError` for scores outside [-1, 1]; never answers NaN.
        """
        if not prompts:
            return []
        check_scores(support)
        if len(support) < self.min_support or self.backend.name == "base_rate":
            value = self._clip(2 * base_rate([pair.score for pair in support]) - 1)
            return [Prior(prompt.prompt_id, value, policy_version, "base_rate") for prompt in prompts]
        chosen = sample_support(support, self.support_size, seed)
        texts = [pair.text for pair in chosen]
        labels = [(pair.score + 1) / 2 for pair in chosen]
        # A prompt asked twice is computed once; the answer is the same.
        unique = list(dict.fromkeys(prompt.text for prompt in prompts))
        self.counters["duplicates"] += len(prompts) - len(unique)
        probabilities = self.backend.probabilities(unique, texts, labels, (tuple(texts), tuple(labels)))
        values = {
            text: self._clip(2 * probability - 1) for text, probability in zip(unique, probabilities, strict=True)
        }
        return [Prior(prompt.prompt_id, values[prompt.text], policy_version, "v0") for prompt in prompts]

    def _clip(self, value: float) -> float:
        if not math.isfinite(value):
            self.counters["nonfinite"] += 1
            raise ValueError(f"the value model ({self.choice}) gave {value}; its weights or features are broken")
        clipped = max(-self.v_max, min(self.v_max, value))
        self.counters["clipped"] += clipped != value
        return clipped

    def metrics(self) -> dict[str, float]:
        """Counters since the start under `v05/value_*`."""
        return {f"v05/value_{name}": float(n) for name, n in {**self.counters, **self.backend.counters()}.items()}


def check_scores(support: Sequence[SupportExample]) -> None:
    """Raises `ValueError` for the first score that is not a number in [-1, 1]."""
    for pair in support:
        if not -1 <= pair.score <= 1:
            raise ValueError(
                f"support pair {pair.prompt_id!r} has score {pair.score}, expected a mean reward in [-1, 1]"
            )


def sample_support(support: Sequence[SupportExample], size: int, seed: int) -> list[SupportExample]:
    """`size` pairs without replacement in their own order, or all of them; equal seeds give equal samples."""
    if len(support) <= size:
        return list(support)
    chosen = sorted(random.Random(seed).sample(range(len(support)), size))
    return [support[i] for i in chosen]


@BACKENDS.register("base_rate")
def _base_rate() -> Backend:
    return BaseRateBackend()


@BACKENDS.register("bundle")
def _bundle(config: ValueConfig, cache: Path | None) -> Backend:
    from v05ray.value.bundle import BUILT_IN

    bundle = config.bundle or BUILT_IN
    backend = EmbeddedBackend.from_file(bundle, cache, config.num_threads)
    why = "as value.bundle says" if config.bundle is not None else "as value.backend says"
    backend.description = f"value model: bundle {bundle.name}, {why}"
    return backend


@BACKENDS.register("auto")
def _auto(config: ValueConfig, cache: Path | None) -> Backend:
    if config.bundle is not None:
        return _bundle(config, cache)
    if config.published is not None:
        return _published_weights(config, cache, "as value.published names them")
    try:
        backend = _bundle(config, cache)
    except ConfigError as error:
        return BaseRateBackend(f" (auto), since {error}")
    from v05ray.value.bundle import BUILT_IN

    name = BUILT_IN.name
    backend.description = f"value model: bundle {name} (auto), the one in the package; no published weights are named"
    return backend


@BACKENDS.register("published")
def _published(config: ValueConfig, cache: Path | None) -> Backend:
    return _published_weights(config, cache, "as value.backend says")


def _published_weights(config: ValueConfig, cache: Path | None, why: str) -> Backend:
    from v05ray.value.published import PublishedBackend

    files = config.published
    if files is None:
        raise ConfigError(
            "value.backend=published needs value.published.checkpoint, .backbone and .head; the weights are gated "
            "(V0's and Qwen3-Embedding-0.6B's licences are on their model cards, TabPFN 2.5's is non-commercial)"
        )
    backend = PublishedBackend.from_files(
        files.checkpoint,
        files.backbone,
        files.head,
        num_estimators=files.num_estimators,
        cache=cache,
        num_threads=config.num_threads,
    )
    licence = "TabPFN 2.5's weights are for non-commercial use"
    backend.description = f"value model: published weights {files.checkpoint.name}, {why}; {licence}"
    return backend
