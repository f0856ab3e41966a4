"""Activation functions together with their derivatives, for gradients written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from nestling.errors import UnknownNameError


@dataclass(frozen=True, kw_only=True)
class Activation:
    """sigma and sigma', both elementwise."""

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]


def _silu_derivative(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1 + x * (1 - gate))


def _gelu_derivative(x: Tensor) -> Tensor:
    probability = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    density = torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)
    return probability + x * density


def _relu_derivative(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def _tanh_derivative(x: Tensor) -> Tensor:
    return 1 - torch.tanh(x).square()


ACTIVATIONS: dict[str, Activation] = {
    "silu": Activation(function=functional.silu, derivative=_silu_derivative),
    "gelu": Activation(function=functional.gelu, derivative=_gelu_derivative),
    "relu": Activation(function=functional.relu, derivative=_relu_derivative),
    "tanh": Activation(function=torch.tanh, derivative=_tanh_derivative),
}


def activation_named(name: str) -> Activation:
    """The activation of this name: silu, gelu (exact, with erf), relu (derivative 0 at 0) or tanh.

    Raises:
        UnknownNameError: with the nearest known name.
    """
    if name not in ACTIVATIONS:
        raise UnknownNameError("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]
