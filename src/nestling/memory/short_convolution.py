"""Causal convolution over a few tokens, each channel by itself, with a streaming state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nestling.errors import InputError

__all__ = ["ShortConvolution", "convolve", "convolve_backward", "convolve_forward", "random_taps"]


def convolve(tokens: Tensor, tail: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
    """y_t = sum_j taps_j x_{t-W+1+j}, per channel.

    Args:
        tokens: [..., T, D].
        tail: [..., W - 1, D], the tokens before.
        taps: [..., W, D], oldest first; leading axes must broadcast.

    Returns:
        y [..., T, D] and the tail after the last token. W = 1 with an empty tail is a gain per channel.
    """
    length = tokens.shape[-2]
    seen = torch.cat([tail, tokens], dim=-2) if taps.shape[-2] > 1 else tokens
    return _Convolve.apply(seen, taps), seen[..., length:, :]


class _Convolve(torch.autograd.Function):
    """y from all tokens seen [..., W - 1 + T, D]; by hand, for every slice would make a gradient of full length."""

    @staticmethod
    def forward(ctx: Any, seen: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(seen, taps)
        return convolve_forward(seen, taps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,), (seen, taps) = grads, ctx.saved_tensors
        return convolve_backward(grad, seen, taps)


def convolve_forward(seen: Tensor, taps: Tensor) -> Tensor:
    """y [..., T, D] from all tokens seen [..., W - 1 + T, D]."""
    length = seen.shape[-2] - taps.shape[-2] + 1
    y = seen[..., :length, :] * taps[..., :1, :]
    for j in range(1, taps.shape[-2]):
        y.addcmul_(seen[..., j : j + length, :], taps[..., j : j + 1, :])
    return y


def convolve_backward(grad: Tensor, seen: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the tokens seen [..., W - 1 + T, D] and of the taps, from that of y [..., T, D]."""
    length, grad_seen = grad.shape[-2], torch.zeros_like(seen)
    shares = []
    for j in range(taps.shape[-2]):
        grad_seen[..., j : j + length, :].addcmul_(grad, taps[..., j : j + 1, :])
        shares.append((grad * seen[..., j : j + length, :]).sum(-2))
    return grad_seen, torch.stack(shares, dim=-2).sum_to_size(taps.shape)


def random_taps(width: int, *channels: int) -> Tensor:
    """[W, *channels] uniform in +-1 / sqrt(W), as torch.nn.Conv1d begins."""
    return torch.empty(width, *channels).uniform_(-(width**-0.5), width**-0.5)


class ShortConvolution(nn.Module):
    """Causal depthwise convolution, weights begin at random.

    y_t = sum_j w_j x_{t-W+1+j}

    Weights that pass the input on would have to learn to look back; language models then learn far more slowly
    (docs/results/language_models.md).

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
        self.taps = nn.Parameter(random_taps(width, dim))

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
