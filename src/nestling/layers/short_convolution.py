"""Causal convolution over a few tokens, each channel by itself, with a streaming state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nestling.errors import InputError

__all__ = ["ShortConvolution", "convolve"]


def convolve(tokens: Tensor, tail: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
    """y_t = sum_j taps_j x_{t-W+1+j}, per channel.

    Args:
        tokens: [..., T, D].
        tail: [..., W - 1, D], the tokens before.
        taps: [..., W, D], oldest first; leading axes must broadcast.

    Returns:
        y [..., T, D] and the tail after the last token. W = 1 with an empty tail is a gain per channel.
    """
    width, length = taps.shape[-2], tokens.shape[-2]
    seen = torch.cat([tail, tokens], dim=-2) if width > 1 else tokens
    y = seen[..., :length, :] * taps[..., :1, :]
    for j in range(1, width):
        y = torch.addcmul(y, seen[..., j : j + length, :], taps[..., j : j + 1, :])
    return y, seen[..., length:, :]


class ShortConvolution(nn.Module):
    """Causal depthwise convolution; a new one passes its input on.

    y_t = sum_j w_j x_{t-W+1+j}

    Source: NL 8.2 (width 4 on queries, keys and values); H3 and Mamba for the idea.

    Args:
        dim: channels D.
        width: tokens W that one output sees, >= 1.
    """

    def __init__(self, *, dim: int, width: int = 4) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"width: expected a number of tokens >= 1, got {width}")
        self.dim, self.width = dim, width
        self.taps = nn.Parameter(torch.zeros(width, dim))
        with torch.no_grad():
            self.taps[-1] = 1

    def initial_state(self, batch: int) -> Tensor:
        """Zeros [B, W - 1, D]: nothing before the first token."""
        dtype = torch.float64 if self.taps.dtype == torch.float64 else torch.float32
        return self.taps.new_zeros(batch, self.width - 1, self.dim, dtype=dtype)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve T tokens.

        Args:
            x: [B, T, D].
            state: as returned by the last call; None starts a new context.

        Returns:
            y [B, T, D] in the type of x, and the new state, float32 or float64.
        """
        state = self.initial_state(len(x)) if state is None else state
        y, tail = convolve(x.to(state.dtype), state, self.taps.to(state.dtype))
        return y.to(x.dtype), tail
