"""Attention whose queries also see learned tokens that never leave."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["PersistentAttention"]


class PersistentAttention(nn.Module):
    """Softmax attention over given pairs and over persistent memory tokens; the caller says which pairs are visible.

    Source: Titans (arXiv 2501.00663) 3.3, eq. 19: learned tokens, independent of the input, before the sequence.

    Args:
        dim: width D.
        num_heads: H.
        head_dim: K.
        num_persistent: learned tokens, >= 0.
    """

    def __init__(self, *, dim: int, num_heads: int, head_dim: int, num_persistent: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.pairs = nn.Linear(dim, 3 * num_heads * head_dim, bias=False)
        self.output = nn.Linear(num_heads * head_dim, dim, bias=False)
        generator = torch.Generator().manual_seed(0)
        self.persistent = nn.Parameter(torch.randn(num_persistent, dim, generator=generator))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value [B, H, T, K] of x [B, T, D]."""
        query, key, value = self.pairs(x).unflatten(-1, (3, self.num_heads, -1)).transpose(1, 3).unbind(2)
        return query, key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
        """y = sum_i softmax_i(k_i.q / sqrt(K)) v_i over the visible pairs and the persistent ones.

        Args:
            query: [B, H, T, K].
            key: [B, H, P, K].
            value: [B, H, P, K].
            visible: [B, T, P] bool.

        Returns:
            [B, T, D].
        """
        _, own_key, own_value = self.project(self.persistent.unsqueeze(0))
        batch, count = len(query), len(self.persistent)
        key = torch.cat([own_key.expand(batch, -1, -1, -1), key.to(query.dtype)], dim=2)
        value = torch.cat([own_value.expand(batch, -1, -1, -1), value.to(query.dtype)], dim=2)
        mask = F.pad(visible, (count, 0), value=True).unsqueeze(1)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(y.transpose(1, 2).flatten(2))
