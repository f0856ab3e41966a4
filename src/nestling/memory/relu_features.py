"""Random rectified features: keys that are straight lines far from the data, so that what reads them extrapolates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nestling.errors import ShapeError

BANDWIDTHS = (0.5, 1.0, 2.0, 4.0)
SCALE_FLOOR = 2.0


class ReluFeatures(nn.Module):
    """Keys of one fixed random layer over centred inputs.

    z = (x - mean) / (|s| (std + 2 max std)),   |s| so that E|z - z'|^2 = 1
    phi(x) = [1, z, sqrt(2 / m) relu(z W_g / b_g + c) for each bandwidth b_g],   W ~ N(0, 1),   c ~ U(-1, 1)

    The scale is nearly one for all components: a component that hardly varied here may vary later. Several bandwidths
    side by side leave the choice between smooth and sharp to the least squares that reads the keys.

    Source: Cho & Saul 2009 (arc-cosine kernels); random features, Rahimi & Recht 2007.

    Args:
        num_inputs: D.
        num_features: m.
        seed: of W and c.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, *, num_inputs: int, num_features: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        repeats = math.ceil(num_features / len(BANDWIDTHS))
        bandwidth = torch.tensor(BANDWIDTHS).repeat(repeats)[:num_features]
        self.register_buffer("weight", torch.randn(num_inputs, num_features, generator=generator) / bandwidth)
        self.register_buffer("bias", 2 * torch.rand(num_features, generator=generator) - 1)
        self.register_buffer("mean", torch.zeros(num_inputs))
        self.register_buffer("scale", torch.ones(num_inputs))
        self.num_inputs, self.num_features = num_inputs, num_features

    @property
    def width(self) -> int:
        """Number of components of a key."""
        return 1 + self.num_inputs + self.num_features

    @torch.no_grad()
    def fit(self, inputs: Tensor) -> None:
        """Take mean and scale from inputs [N, D]; inputs that are all equal leave the scale at 1."""
        deviation = inputs.double().std(dim=0, unbiased=False)
        self.mean.copy_(inputs.double().mean(dim=0))
        if bool(deviation.any()):
            scale = deviation + SCALE_FLOOR * deviation.max()
            self.scale.copy_(scale * (2 * (deviation / scale).square().sum()).sqrt())

    def forward(self, inputs: Tensor) -> Tensor:
        """Keys [N, width] float32 of inputs [N, D]."""
        if inputs.dim() != 2 or inputs.shape[1] != self.num_inputs:
            raise ShapeError(f"inputs: expected [N, {self.num_inputs}], got {list(inputs.shape)}")
        z = (inputs.float() - self.mean) / self.scale
        rectified = torch.addmm(self.bias, z, self.weight).relu() * math.sqrt(2 / self.num_features)
        return torch.cat([torch.ones_like(z[:, :1]), z, rectified], dim=1)
