"""Cutting a sequence into chunks, and putting it together again."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def split_chunks(tokens: Tensor, chunk_size: int) -> Tensor:
    """[B, T, H, D] -> [N, B*H, C, D], padded at the end with zeros; chunks first so that each is contiguous."""
    batch, length, heads, width = tokens.shape
    missing = -length % chunk_size
    if missing:
        tokens = F.pad(tokens, (0, 0, 0, 0, 0, missing))
    chunks = tokens.reshape(batch, -1, chunk_size, heads, width).permute(1, 0, 3, 2, 4)
    return chunks.reshape(-1, batch * heads, chunk_size, width)


def join_chunks(chunks: Tensor, batch: int, length: int) -> Tensor:
    """[N, B*H, C, D] -> [B, T, H, D], the padding removed."""
    count, rows, chunk_size, width = chunks.shape
    tokens = chunks.view(count, batch, rows // batch, chunk_size, width).permute(1, 0, 3, 2, 4)
    return tokens.reshape(batch, count * chunk_size, rows // batch, width)[:, :length]
