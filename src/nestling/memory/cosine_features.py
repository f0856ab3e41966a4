"""Random cosine features: keys whose inner products are a sum of Gaussian kernels at several bandwidths."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nestling.errors import InputError, ShapeError


class CosineFeatures(nn.Module):
    """Keys phi(x) of one fixed random map; the only thing learned is one length, from the first data seen.

    phi(x) = [1, x / s, sqrt(2 / m) cos(W_g x / (b_g s) + c_g) for each bandwidth b_g],   W ~ N(0, 1), c ~ U(0, 2 pi)

    Rows of W are drawn orthogonal to each other, as many at a time as there are inputs, which brings the kernel nearer
    than independent rows would.

    s^2 is the mean squared distance between two inputs of the first data seen: one number for all components, because
    a component that is constant now may vary in a later experience. Several bandwidths side by side leave the choice of
    smoothness to the least squares that reads the keys. The linear part is left out where it would outnumber the
    cosines.

    Source: Rahimi & Recht 2007, random features for kernel machines; Yu et al. 2016, orthogonal random features;
        NL 4.3 and 59-60 for the memory that reads them.

    Args:
        num_inputs: D.   num_features: cosines in all, shared out evenly among the bandwidths.
        bandwidths: in units of s.   seed: of W and c.
    """

    weight: Tensor
    phase: Tensor
    length: Tensor

    def __init__(self, *, num_inputs: int, num_features: int, bandwidths: Sequence[float], seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        share = torch.tensor(bandwidths).repeat(math.ceil(num_features / len(bandwidths)))[:num_features]
        self.register_buffer("weight", orthogonal_directions(num_inputs, num_features, generator) / share)
        self.register_buffer("phase", 2 * math.pi * torch.rand(num_features, generator=generator))
        self.register_buffer("length", torch.zeros(()))
        self.num_inputs, self.num_features = num_inputs, num_features
        self.linear = num_inputs <= num_features

    @property
    def width(self) -> int:
        """Number of components of a key."""
        return 1 + self.num_features + (self.num_inputs if self.linear else 0)

    @property
    def is_fitted(self) -> bool:
        """Whether the length is known."""
        return bool(self.length > 0)

    @torch.no_grad()
    def fit(self, inputs: Tensor) -> None:
        """Take the length s from inputs [N, D]; only the first call counts, keys written before must stay valid.

        Raises: InputError when all inputs are the same.
        """
        if self.is_fitted:
            return
        variance = inputs.double().var(dim=0, unbiased=False).sum()
        if not bool(torch.isfinite(variance)):
            raise InputError("inputs hold NaN or infinity: expected finite numbers; clean the data")
        if not variance > 0:
            raise InputError(f"all {len(inputs)} inputs of the first experience are equal: expected inputs that differ")
        self.length.copy_((2 * variance).sqrt())

    def forward(self, inputs: Tensor) -> Tensor:
        """Keys [N, width] float32 of inputs [N, D]."""
        if inputs.dim() != 2 or inputs.shape[1] != self.num_inputs:
            raise ShapeError(f"inputs: expected [N, {self.num_inputs}], got {list(inputs.shape)}")
        scaled = inputs.float() / self.length
        cosines = torch.cos(torch.addmm(self.phase, scaled, self.weight)) * math.sqrt(2 / self.num_features)
        parts = (
            [torch.ones_like(scaled[:, :1]), scaled, cosines]
            if self.linear
            else [torch.ones_like(scaled[:, :1]), cosines]
        )
        return torch.cat(parts, dim=1)


def orthogonal_directions(num_inputs: int, count: int, generator: torch.Generator) -> Tensor:
    """Columns [D, count], each distributed as N(0, I), orthogonal to each other within every D of them."""
    blocks: list[Tensor] = []
    for start in range(0, count, num_inputs):
        width = min(num_inputs, count - start)
        gaussian = torch.randn(num_inputs, width, generator=generator)
        basis, triangle = torch.linalg.qr(gaussian)
        norms = torch.randn(num_inputs, width, generator=generator).norm(dim=0)
        blocks.append(basis * triangle.diagonal().sign() * norms)
    return torch.cat(blocks, dim=1)
