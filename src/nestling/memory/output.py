"""From what the heads of a memory answer to the width of the model: plain, normalised, or gated by the token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestling.errors import UnknownNameError

__all__ = ["OUTPUTS", "NormedOutput", "answer", "make_output"]

OUTPUTS = ("linear", "normed", "gated")
EPS = 1e-6


class NormedOutput(nn.Linear):
    """W_out [g * rms(y)], per head; gated: W_out [g * rms(y) * silu(W_gate x)].

    Answers keep their direction only, so that how large a memory has become moves nothing behind it; the gate lets a
    token multiply what was recalled.

    Source: RetNet (arXiv 2307.08621) 2.3; DeltaNet (arXiv 2406.06484) for the norm alone; Gated DeltaNet and Titans 4.4
        for norm and gate.

    Args:
        dim: width D of the tokens.
        num_heads: H.
        head_dim: K.
        gated: whether there is a gate.
    """

    def __init__(self, *, dim: int, num_heads: int, head_dim: int, gated: bool) -> None:
        super().__init__(num_heads * head_dim, dim, bias=False)
        self.head_dim = head_dim
        self.norm_weight = nn.Parameter(torch.ones(head_dim))
        self.gate = nn.Linear(dim, num_heads * head_dim, bias=False) if gated else None

    def forward(self, y: Tensor, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Answers [..., H K] of tokens [..., D] to [..., D] in the type of x."""
        heads = y.unflatten(-1, (-1, self.head_dim))
        y = F.rms_norm(heads, (self.head_dim,), self.norm_weight.to(y.dtype), EPS).flatten(-2).to(x.dtype)
        if self.gate is not None:
            y = y * F.silu(self.gate(x))
        return super().forward(y)


def make_output(kind: str, *, dim: int, num_heads: int, head_dim: int) -> nn.Linear:
    """An output by name.

    Args:
        kind: of OUTPUTS: "linear" is W_out y.
        dim, num_heads, head_dim: D, H, K.

    Raises:
        UnknownNameError: for the kind.
    """
    if kind not in OUTPUTS:
        raise UnknownNameError("output of a memory", kind, OUTPUTS)
    if kind == "linear":
        return nn.Linear(num_heads * head_dim, dim, bias=False)
    return NormedOutput(dim=dim, num_heads=num_heads, head_dim=head_dim, gated=kind == "gated")


def answer(output: nn.Linear, y: Tensor, x: Tensor) -> Tensor:
    """What an output of `make_output` says to answers y [..., H K] of tokens x [..., D], in the type of x."""
    return output(y, x) if isinstance(output, NormedOutput) else output(y.to(x.dtype))
