"""V0 as published: a Hugging Face embedding model, the token adapter, and TabPFN 2.5 as the in-context head.

Everything is loaded strictly and without arbitrary pickles. The weights are gated, and each has its own licence: V0's
checkpoint and Qwen3-Embedding-0.6B on their model cards, TabPFN 2.5's non-commercial.
Legend: B prompts, T tokens, H hidden width, S support rows, Q query rows, D columns, E ensemble members.
"""

import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from v05ray.errors import ConfigError
from v05ray.lean_imports import lean_transformers
from v05ray.seeding import derive_seed
from v05ray.value.adapter import AdapterConfig, TokenAdapter
from v05ray.value.bundle import strict_load
from v05ray.value.embedding import (
    EmbeddingCache,
    Embeddings,
    batches_by_length,
    refuse_nonfinite,
    token_counts,
    torch_threads,
)
from v05ray.value.tabpfn import tabpfn_v2_5

MAX_TOKENS = 2048
SOFTMAX_TEMPERATURE = 0.9
"""TabPFN's classifier divides its logits by this before averaging its members; V0 was trained so."""


def _read_torch(path: Path) -> Any:
    """A torch file of tensors and plain values; anything else in it is refused, never executed."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ConfigError(f"{path} is not a torch file of plain tensors, so it is not read: {error}") from error


class PublishedEmbedding(nn.Module):
    """Backbone and adapter under the names of the published checkpoint."""

    def __init__(self, backbone: nn.Module, adapter: TokenAdapter) -> None:
        super().__init__()
        self.backbone = backbone
        self.adapter_layer = adapter


def load_embedding(checkpoint: Path, backbone: nn.Module, adapter: TokenAdapter) -> PublishedEmbedding:
    """Fills both from V0's `{"model_state_dict": ...}`; every key must match.

    A `module.` prefix (from distributed training) is removed. Raises `ConfigError` naming missing, extra or misshapen
    keys: a load that is not strict would leave the trained adapter out.
    """
    content = _read_torch(checkpoint)
    if not isinstance(content, Mapping) or not isinstance(content.get("model_state_dict"), Mapping):
        found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ConfigError(f"{checkpoint} is no V0 checkpoint: expected {{'model_state_dict': ...}}, got {found}")
    state = {str(name).removeprefix("module."): value for name, value in content["model_state_dict"].items()}
    strays = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strays:
        raise ConfigError(f"{checkpoint} holds entries that are no tensors: {', '.join(sorted(strays))}")
    model = PublishedEmbedding(backbone, adapter)
    strict_load(model, state, checkpoint)
    return model.eval()


def load_head(path: Path) -> tabpfn_v2_5.TabPFNV2p5:
    """TabPFN 2.5 from `.ckpt` or `.safetensors` in TabPFN's own format, strictly.

    The loss's own state (`criterion.*`) is left out, as TabPFN's loader does. Raises `ConfigError` for another
    architecture, a regressor, or keys that do not match.
    """
    if not path.is_file():
        raise ConfigError(f"TabPFN checkpoint {path} does not exist")
    if path.suffix == ".safetensors":
        try:
            with safe_open(str(path), framework="pt", device="cpu") as file:
                content: dict[str, Any] = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
                content["state_dict"] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValueError) as error:
            raise ConfigError(f"{path} is not a TabPFN safetensors file: {error}") from error
    else:
        content = _read_torch(path)
    if not isinstance(content, Mapping) or not {"state_dict", "config"} <= set(content):
        raise ConfigError(f"{path} is no TabPFN checkpoint: it has no state_dict and config")
    name = content.get("architecture_name", "tabpfn_v2")
    if name not in ("base", "tabpfn_v2_5"):  # "base" is how 2.5 was first released
        raise ConfigError(f"{path} holds the architecture {name!r}; V0's head is TabPFN 2.5 ('tabpfn_v2_5')")
    config, _ = tabpfn_v2_5.parse_config(dict(content["config"]))
    if config.max_num_classes < 2:
        raise ConfigError(f"{path} is not a classifier: it has {config.max_num_classes} classes")
    head = tabpfn_v2_5.get_architecture(config)
    state = {key: value for key, value in content["state_dict"].items() if not key.startswith("criterion.")}
    if any(key.startswith(("transformer_encoder.", "decoder_dict.", "y_encoder.")) for key in state):
        state = tabpfn_v2_5._replace_keys_from_base_architecture(state)
    strict_load(head, state, path)
    return head.eval()


class PublishedEncoder:
    """Texts to the adapter's columns; left padding, at most 2048 tokens, a longer text loses its end (and is counted).

    The columns depend on the weights and the text alone, so they are cached like any embedding.
    """

    def __init__(
        self,
        model: PublishedEmbedding,
        tokenizer: Any,
        *,
        model_id: str,
        batch_size: int = 8,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._tokenizer.padding_side = "left"
        self._tokenizer.truncation_side = "right"
        self._model_id = model_id
        self._batch_size = batch_size
        self._max_tokens = max_tokens

    @property
    def model_id(self) -> str:
        """Names the columns in the cache; changes with the weights."""
        return self._model_id

    @property
    def width(self) -> int:
        """D, the columns that the adapter gives."""
        return self._model.adapter_layer.config.num_columns

    def encode(self, texts: Sequence[str]) -> Embeddings:
        """Columns [B, D]; raises `ValueError` where the backbone gives NaN."""
        columns = np.zeros((len(texts), self.width), np.float32)
        lengths = token_counts(self._tokenizer, texts)
        device = next(self._model.parameters()).device
        with torch.inference_mode():
            for rows, batch in batches_by_length(self._tokenizer, texts, lengths, self._batch_size, self._max_tokens):
                batch = batch.to(device)
                states_BTH = self._model.backbone(**batch).last_hidden_state.float()
                columns[rows] = self._model.adapter_layer(states_BTH, batch["attention_mask"]).cpu().numpy()
        refuse_nonfinite(columns, self._model_id)
        return Embeddings(columns, sum(length > self._max_tokens for length in lengths))


@dataclass(frozen=True, slots=True)
class Member:
    """One view of an ensemble: the order of the columns, and whether the two classes are swapped."""

    order_D: Tensor
    swapped: bool


def ensemble(num_columns: int, num_estimators: int, seed: int) -> list[Member]:
    """The first member sees everything as it is; the others permuted columns, every second one swapped classes."""
    generator = torch.Generator().manual_seed(derive_seed("value ensemble", seed))
    members = [Member(torch.arange(num_columns), False)]
    for index in range(1, num_estimators):
        members.append(Member(torch.randperm(num_columns, generator=generator), index % 2 == 1))
    return members


class PublishedHead:
    """TabPFN called directly on thresholded labels: no column dropped, logits averaged over the members.

    margin = mean over members of (logit_1 - logit_0) / temperature.
    """

    def __init__(self, model: tabpfn_v2_5.TabPFNV2p5, num_columns: int, num_estimators: int, seed: int = 0) -> None:
        self._model = model
        self._members = ensemble(num_columns, num_estimators, seed)

    def condition(self, support_SD: Tensor, labels_S: Tensor) -> list[Any]:
        """A key/value cache per member; labels in [0, 1] are thresholded at .5, as V0 does."""
        hard_S = (labels_S >= 0.5).to(support_SD.dtype)
        caches = []
        for member in self._members:
            labels = 1 - hard_S if member.swapped else hard_S
            _, cache = self._model(support_SD[:, None, member.order_D], labels[:, None], return_kv_cache=True)
            caches.append(cache)
        return caches

    def cached_margins(self, caches: Sequence[Any], queries_QD: Tensor) -> Tensor:
        """[Q] log-odds of success of the queries, given the cached supports."""
        margins = []
        for member, cache in zip(self._members, caches, strict=True):
            logits = self._model(queries_QD[:, None, member.order_D], None, kv_cache=cache, x_is_test_only=True)[:, 0]
            margin_Q = logits[:, 1] - logits[:, 0]
            margins.append(-margin_Q if member.swapped else margin_Q)
        return torch.stack(margins).mean(0) / SOFTMAX_TEMPERATURE


def fingerprint(path: Path) -> str:
    """A short hash of a file's content."""
    digest = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


class PublishedBackend:
    """The `Backend` of the published weights."""

    name = "published"
    description = ""

    def __init__(self, encoder: EmbeddingCache, head: PublishedHead, num_threads: int | None) -> None:
        self.encoder = encoder
        self.head = head
        self._num_threads = num_threads
        self._key: object = None
        self._caches: Any = None
        self.num_cache_hits = 0

    @classmethod
    def from_files(
        cls,
        checkpoint: Path,
        backbone: Path,
        head: Path,
        *,
        num_estimators: int,
        cache: Path | None,
        num_threads: int | None,
    ) -> "PublishedBackend":
        """Loads all three strictly; raises `ConfigError` naming the file that is missing or does not fit."""
        for path in (checkpoint, backbone / "config.json", head):
            if not path.exists():
                raise ConfigError(f"published V0: {path} does not exist; the weights are gated, see value.published")
        lean_transformers()
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        local: Any = {"local_files_only": True, "trust_remote_code": False}
        model_config = AutoConfig.from_pretrained(str(backbone), **local)
        adapter = TokenAdapter(AdapterConfig(int(model_config.hidden_size)))
        # The checkpoint holds the backbone's weights too: build it empty, and let the strict load fill it.
        model = load_embedding(
            checkpoint, AutoModel.from_config(model_config, trust_remote_code=False).float(), adapter
        )
        tokenizer = AutoTokenizer.from_pretrained(str(backbone), **local)
        model_id = f"v0-published:{fingerprint(checkpoint)}"
        encoder = PublishedEncoder(model, tokenizer, model_id=model_id)
        cached = EmbeddingCache(lambda: encoder, cache, model_id=model_id, width=encoder.width)
        return cls(cached, PublishedHead(load_head(head), encoder.width, num_estimators), num_threads)

    def probabilities(
        self, queries: Sequence[str], support: Sequence[str], labels: Sequence[float], key: object
    ) -> list[float]:
        """sigmoid(margin)."""
        with torch_threads(self._num_threads), torch.inference_mode():
            if self._caches is None or self._key != key:
                columns_SD = torch.from_numpy(self.encoder.encode(support).vectors_NH)
                self._caches = self.head.condition(columns_SD, torch.tensor(labels, dtype=torch.float32))
                self._key = key
            else:
                self.num_cache_hits += 1
            queries_QD = torch.from_numpy(self.encoder.encode(queries).vectors_NH)
            return torch.sigmoid(self.head.cached_margins(self._caches, queries_QD)).tolist()

    def counters(self) -> dict[str, int]:
        """As `EmbeddedBackend.counters`."""
        return {
            "truncated": self.encoder.num_truncated,
            "embedded": self.encoder.num_computed,
            "support_cache_hits": self.num_cache_hits,
        }
