"""Deep memories: a residual MLP per row and head, written by one gradient step on any inner loss.

M(x) = x + W_L sigma( ... sigma(W_1 x)). Two layers are NL eq. 89: their W2 is our W_1 (applied first) and
their W1 our W_2. The state is the tuple of weights in the order in which they are applied. Erasing forms are in
`deep_dgd`.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from nestling.errors import ShapeError
from nestling.ops.activations import activation_named
from nestling.rules.losses import L2, Loss
from nestling.rules.matrix import apply, outer, spread
from nestling.shapes import check_shape

__all__ = [
    "Accumulated",
    "Factors",
    "Weights",
    "check_deep",
    "factors",
    "gradient",
    "initial",
    "objective",
    "read",
    "step",
    "step_momentum",
]

Weights = tuple[Tensor, ...]

DEFAULT_ACTIVATION = "silu"


class Factors(NamedTuple):
    """The gradient of every linear map in two factors: grad W_l = surprise_l input_l^T.

    inputs:    per layer [B, H, in], what this map saw (k for the first, sigma(...) for the others).
    surprises: per layer [B, H, out], dL/d(W_l input_l).
    """

    inputs: tuple[Tensor, ...]
    surprises: tuple[Tensor, ...]


class Accumulated(NamedTuple):
    """A deep memory and its surprise accumulator, both one tensor per layer."""

    memory: Weights
    surprise: Weights


def read(state: Weights, query: Tensor, *, activation: str = DEFAULT_ACTIVATION) -> Tensor:
    """Ask a deep memory.

    y = q + W_L sigma( ... sigma(W_1 q))

    Source: NL eq. 89, 91.

    Args:
        state: L >= 1 weights, [B, H, F, K], ..., [B, H, K, F].
        query: [B, H, K].
        activation: silu, gelu, relu or tanh.

    Returns:
        the answer [B, H, K].

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    check_deep(state, query=query)
    return _forward(state, query, activation)[0]


def objective(
    state: Weights, key: Tensor, value: Tensor, *, loss: Loss = L2, activation: str = DEFAULT_ACTIVATION
) -> Tensor:
    """Inner objective of a deep memory.

    L(W) = loss(M(k), v)

    Source: NL eq. 88-91; Titans (arXiv 2501.00663) eq. 12.

    Args:
        state: L weights, [B, H, F, K], ..., [B, H, K, F].
        key: [B, H, K].
        value: [B, H, K].
        loss: of `nestling.rules.losses`: L2, DOT_PRODUCT, lp_loss(p) or huber_loss(threshold).
        activation: silu, gelu, relu or tanh.

    Returns:
        one number per row and head, [B, H].

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    check_deep(state, key=key, value=value)
    return loss.loss(_forward(state, key, activation)[0], value)


def factors(
    state: Weights, key: Tensor, value: Tensor, *, loss: Loss = L2, activation: str = DEFAULT_ACTIVATION
) -> Factors:
    """Input and local surprise of every linear map: backpropagation by hand.

    surprise_L = dL/dy,   surprise_l = sigma'(z_l) * W_{l+1}^T surprise_{l+1},   z_l = W_l input_l

    Source: NL eq. 8, 29-31 (backpropagation as a memory of local surprises).

    Args:
        state: L weights, [B, H, F, K], ..., [B, H, K, F].
        key: [B, H, K].
        value: [B, H, K].
        loss: of `nestling.rules.losses`.
        activation: silu, gelu, relu or tanh.

    Returns:
        the factors of every layer's gradient.
    """
    output, inputs, sums = _forward(state, key, activation)
    derivative = activation_named(activation).derivative
    surprises = [loss.surprise(output, value)]
    for weight, below in zip(reversed(state[1:]), reversed(sums[:-1])):
        surprises.append(derivative(below) * apply(weight.mT, surprises[-1]))
    return Factors(inputs=inputs, surprises=tuple(reversed(surprises)))


def gradient(
    state: Weights, key: Tensor, value: Tensor, *, loss: Loss = L2, activation: str = DEFAULT_ACTIVATION
) -> Weights:
    """Gradient of `objective` by every weight, in the shapes of the state.

    grad W_l = surprise_l input_l^T

    Source: NL eq. 30.
    """
    parts = factors(state, key, value, loss=loss, activation=activation)
    return tuple(outer(surprise, seen) for surprise, seen in zip(parts.surprises, parts.inputs))


def step(
    state: Weights,
    key: Tensor,
    value: Tensor,
    *,
    eta: Tensor,
    alpha: Tensor,
    loss: Loss = L2,
    activation: str = DEFAULT_ACTIVATION,
) -> Weights:
    """Write one key-value pair with a gradient step on every layer.

    objective  L(W) = loss(M(k), v)
    update     W_l <- alpha W_l - eta grad_l L(W)

    Source: Titans eq. 8, 13 without momentum; TTT (arXiv 2407.04620) eq. 1 with an MLP.

    Args:
        state: L weights, [B, H, F, K], ..., [B, H, K, F], before the write.
        key: [B, H, K].
        value: [B, H, K].
        eta: [B, H] >= 0, inner learning rate.
        alpha: [B, H] in [0, 1], retention.
        loss: of `nestling.rules.losses`.
        activation: silu, gelu, relu or tanh.

    Returns:
        the new weights; the input is unchanged.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    check_deep(state, key=key, value=value, eta=eta, alpha=alpha)
    gradients = gradient(state, key, value, loss=loss, activation=activation)
    return tuple(spread(alpha) * weight - spread(eta) * slope for weight, slope in zip(state, gradients))


def step_momentum(
    state: Accumulated,
    key: Tensor,
    value: Tensor,
    *,
    eta: Tensor,
    alpha: Tensor,
    momentum: Tensor,
    loss: Loss = L2,
    activation: str = DEFAULT_ACTIVATION,
) -> Accumulated:
    """Write one key-value pair with momentum on every layer: the memory of Titans.

    objective  L(W) = loss(M(k), v)
    update     S_l <- momentum S_l - eta grad_l L(W)
               W_l <- alpha W_l + S_l

    Source: Titans eq. 13-14. Symbols: their theta is eta, their eta is momentum, their alpha is 1 - alpha.

    Args:
        state: memory and surprise, each L weights, before the write.
        key: [B, H, K].
        value: [B, H, K].
        eta: [B, H] >= 0, inner learning rate.
        alpha: [B, H] in [0, 1], retention.
        momentum: [B, H] in [0, 1). 0 is `step`.
        loss: of `nestling.rules.losses`.
        activation: silu, gelu, relu or tanh.

    Returns:
        the new memory and surprise; the input is unchanged.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    check_deep(state.memory, key=key, value=value, eta=eta, alpha=alpha, momentum=momentum)
    gradients = gradient(state.memory, key, value, loss=loss, activation=activation)
    surprise = tuple(spread(momentum) * past - spread(eta) * slope for past, slope in zip(state.surprise, gradients))
    memory = tuple(spread(alpha) * weight + push for weight, push in zip(state.memory, surprise))
    return Accumulated(memory=memory, surprise=surprise)


def initial(
    batch: int,
    heads: int,
    width: int,
    *,
    hidden: int,
    depth: int = 2,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Weights:
    """A memory that answers its input: the last layer is 0, the others normal with variance 1 / inputs.

    Args:
        batch: rows.
        heads: heads.
        width: key and value width.
        hidden: width of the hidden layers.
        depth: number of linear maps, >= 2.
        generator: source of all randomness.
        dtype: of the weights; all types draw the same numbers.

    Returns:
        depth weights; every row and head starts alike.
    """
    widths = [width, *[hidden] * (depth - 1), width]
    weights = []
    for inputs, outputs in itertools.pairwise(widths):
        weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64) / inputs**0.5
        weights.append(weight.to(dtype).expand(batch, heads, outputs, inputs).clone())
    weights[-1] = torch.zeros_like(weights[-1])
    return tuple(weights)


def _forward(state: Weights, key: Tensor, activation: str) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Output, and per layer its input and its pre-activation."""
    function = activation_named(activation).function
    inputs, sums = [key], [apply(state[0], key)]
    for weight in state[1:]:
        inputs.append(function(sums[-1]))
        sums.append(apply(weight, inputs[-1]))
    return key + sums[-1], tuple(inputs), tuple(sums)


def check_deep(state: Weights, **arguments: Tensor) -> None:
    """Check a deep state [B, H, out, in] per layer and arguments [B, H, K] (key, value, query) or [B, H] (rates)."""
    if not state:
        raise ShapeError("state: expected at least one weight, got an empty tuple")
    if state[0].ndim != 4:
        raise ShapeError(f"state[0]: expected 4 axes [B, H, out, in], got shape {list(state[0].shape)}")
    batch, heads, _, width = state[0].shape
    fan_in = width
    for layer, weight in enumerate(state):
        fan_out = width if layer == len(state) - 1 else weight.shape[-2]
        if tuple(weight.shape) != (batch, heads, fan_out, fan_in):
            raise ShapeError(
                f"state[{layer}]: expected [B, H, out, in] = {[batch, heads, fan_out, fan_in]}, "
                f"got {list(weight.shape)}: every layer takes what the one before gives, the last gives the key width"
            )
        fan_in = fan_out
    sizes = {"B": batch, "H": heads, "K": width}
    for name, tensor in arguments.items():
        check_shape(name, tensor, "BHK" if name in ("key", "value", "query") else "BH", sizes)
