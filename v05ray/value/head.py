"""The in-context head: TabPFN's v2.5 architecture, built small and called directly.

Direct calls keep what the scikit-learn wrapper drops: gradients to the columns, soft labels, every column, and the
key/value cache of the support rows. Legend of shapes: B tasks, S support rows, Q query rows, D columns.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from v05ray.value.tabpfn import tabpfn_v2_5

COLUMN_LIMIT = 6.0
"""Standardised columns are clipped to this: one odd prompt must not drive the head outside what it was trained on."""


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Size of the head; 208k parameters at the defaults and 40 columns."""

    num_columns: int
    width: int = 64
    num_layers: int = 4
    num_heads: int = 2
    num_thinking_rows: int = 8


class ValueHead(tabpfn_v2_5.TabPFNV2p5):
    """TabPFN v2.5 on one group of D columns, standardised on the support rows; the first one is only centred.

    The first column is the difficulty, in log-odds: its scale says what a slope of 1 means, and dividing by the
    support's spread would make the head guess that slope from a few hundred coin flips.

    Differs from the parent in its input alone: no column is ever removed or rescaled because it is constant in one
    batch. The parent's handling shifts the columns behind it, and makes a prior depend on which others are asked.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(
            config=tabpfn_v2_5.TabPFNV2p5Config(
                max_num_classes=2,
                emsize=config.width,
                nlayers=config.num_layers,
                nhead=config.num_heads,
                features_per_group=config.num_columns,
                num_thinking_rows=config.num_thinking_rows,
            ),
            n_out=2,
            task_type="multiclass",
        )
        self.head_config = config
        # One group needs one column embedding. The parent draws it from the device's generator unless its table has the
        # right width; as a buffer it travels in the bundle, whatever table a later tabpfn ships.
        table = self.pre_generated_column_embeddings[:1, : config.width // 4].clone()
        del self.pre_generated_column_embeddings
        self.register_buffer("pre_generated_column_embeddings", table)

    def _preprocess_and_embed_features(  # type: ignore[override]
        self,
        x_RiBC: Tensor,
        num_train_labels: int,
        batch_size: int,
        *,
        scaler_cache: dict[str, Tensor] | None = None,
        feature_state: dict[str, Tensor] | None = None,
        return_state: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor] | None, dict[str, Tensor] | None]:
        """Embeds [R, B, D] as [B, R, 1, E] with the support's mean and deviation (fresh or cached)."""
        if x_RiBC.shape[-1] != self.features_per_group:
            raise ValueError(f"the head takes {self.features_per_group} columns, got {x_RiBC.shape[-1]}")
        if scaler_cache is None:
            support_SBD = x_RiBC[:num_train_labels]
            scale_BD = support_SBD.std(0, correction=0)
            # A column that is constant in the support says nothing there: it maps to 0 whatever a query holds.
            inverse_scale_BD = torch.where(scale_BD > 1e-4, 1 / scale_BD.clamp_min(1e-4), 0.0)
            absolute_B1 = (scale_BD[:, :1] > 1e-4).to(inverse_scale_BD.dtype)
            scaler_cache = {
                "mean": support_SBD.mean(0),
                "inverse_scale": torch.cat([absolute_B1, inverse_scale_BD[:, 1:]], dim=1),
            }
        z_RBD = (x_RiBC - scaler_cache["mean"]) * scaler_cache["inverse_scale"]
        z_RBD = z_RBD.clamp(-COLUMN_LIMIT, COLUMN_LIMIT)
        # The parent's second half marks NaN and infinity; there are none here, its weights stay for the format's sake.
        embedded_RBE = self.feature_group_embedder(torch.cat([z_RBD, torch.zeros_like(z_RBD)], dim=-1))
        embedded_BR1E = self._add_column_embeddings(embedded_RBE.transpose(0, 1).unsqueeze(2))
        if not return_state:
            return embedded_BR1E, None, None
        return embedded_BR1E, {name: value.detach() for name, value in scaler_cache.items()}, {}

    def margins(self, support_BSD: Tensor, labels_BS: Tensor, queries_BQD: Tensor) -> Tensor:
        """Log-odds of success [B, Q]; differentiable in every argument. Labels are soft, in [0, 1]."""
        rows_RBD = torch.cat([support_BSD, queries_BQD], dim=1).transpose(0, 1)
        logits_QBC = self(rows_RBD, labels_BS.transpose(0, 1))
        return (logits_QBC[..., 1] - logits_QBC[..., 0]).transpose(0, 1)

    def condition(self, support_SD: Tensor, labels_S: Tensor) -> tabpfn_v2_5.TabPFNV2p5Cache:
        """Runs the support alone and keeps what queries attend to; for inference (no gradient passes)."""
        _, cache = self(support_SD[:, None], labels_S[:, None], return_kv_cache=True)
        return cache

    def cached_margins(self, cache: tabpfn_v2_5.TabPFNV2p5Cache, queries_QD: Tensor) -> Tensor:
        """Log-odds [Q] given `condition`'s answer; equal to `margins` on the same rows."""
        logits_Q1C = self(queries_QD[:, None], None, kv_cache=cache, x_is_test_only=True)
        return logits_Q1C[:, 0, 1] - logits_Q1C[:, 0, 0]


def head_config_from(values: Mapping[str, Any]) -> HeadConfig:
    """From a bundle's header; raises `ValueError` for unknown or missing names."""
    known = {field.name for field in dataclasses.fields(HeadConfig)}
    if set(values) != known:
        raise ValueError(f"head config has {sorted(values)}, expected {sorted(known)}")
    return HeadConfig(**{name: int(value) for name, value in values.items()})
