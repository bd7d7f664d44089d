"""V0's published adapter: all token states of a prompt to one row of columns for the tabular head.

    q  = static + generator(h_last)                      [B, K, W]   residual: generator's last layer starts at 0
    kv = proj_kv(h)                                      [B, T, W]
    x  = MHA(query=LN_q(q), key=LN_kv(kv), value=kv)     padding masked, values not normalised
    columns = flatten(x)                                 [B, K W]    published: K = 168, W = 6, so 1008

Source: "V0" (arXiv 2602.03584). Legend: B prompts, T tokens (left padded), H hidden width, K queries, W their width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The published sizes."""

    hidden_width: int
    num_queries: int = 168
    query_width: int = 6
    num_heads: int = 3
    bottleneck: int = 128
    dropout: float = 0.2

    @property
    def num_columns(self) -> int:
        """K W."""
        return self.num_queries * self.query_width


class TokenAdapter(nn.Module):
    """Residual query adapter; its parameter names are those of the published checkpoint."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        width, columns = config.query_width, config.num_columns
        self.static_queries = nn.Parameter(torch.randn(1, config.num_queries, width))
        last = nn.Linear(config.bottleneck, columns)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.generator = nn.Sequential(
            nn.Linear(config.hidden_width, config.bottleneck),
            nn.LayerNorm(config.bottleneck),
            nn.GELU(),
            nn.Dropout(config.dropout),
            last,
        )
        self.proj_kv = nn.Linear(config.hidden_width, width)
        self.mha = nn.MultiheadAttention(width, config.num_heads, batch_first=True)
        self.ln_q = nn.LayerNorm(width)
        self.ln_kv = nn.LayerNorm(width)

    def forward(self, states_BTH: Tensor, mask_BT: Tensor) -> Tensor:
        """Columns [B, K W]; `mask_BT` is 1 on tokens and 0 on padding, which is on the left.

        Raises `ValueError` for padding on the right, where the last state would be padding's.
        """
        if not bool(mask_BT[:, -1].all()):
            raise ValueError("the adapter needs left padding: the last position of a prompt is padding")
        num_prompts = len(states_BTH)
        residual_BKW = self.generator(states_BTH[:, -1]).view(num_prompts, *self.static_queries.shape[1:])
        queries_BKW = self.static_queries + residual_BKW
        kv_BTW = self.proj_kv(states_BTH)
        attended_BKW, _ = self.mha(
            self.ln_q(queries_BKW),
            self.ln_kv(kv_BTW),
            kv_BTW,
            key_padding_mask=~mask_BT.bool(),
            need_weights=False,
        )
        return attended_BKW.reshape(num_prompts, -1)
