"""Omega rule: regression on the last C pairs at once (Atlas)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nestling.rules import delta
from nestling.rules.matrix import initial, read, spread
from nestling.rules.rule import Rule
from nestling.shapes import Sizes, check_shape

__all__ = ["RULE", "Remembered", "Window", "empty_window", "gradient", "objective", "push", "read", "step"]


DEFAULT_LENGTH = 4


class Window(NamedTuple):
    """The last C pairs, oldest first: key [B, H, C, K] and value [B, H, C, V]; places not yet used are zero."""

    key: Tensor
    value: Tensor


def objective(state: Tensor, key: Tensor, value: Tensor, *, gamma: Tensor) -> Tensor:
    """Inner objective of the Omega rule.

    L(M) = sum_{i=t-C+1..t} gamma_i 1/2 |M k_i - v_i|^2

    Source: NL eq. 68; Atlas (arXiv 2505.23735).

    Args:
        state: [B, H, V, K].
        key: [B, H, C, K] the last C keys.
        value: [B, H, C, V] their values.
        gamma: [B, H, C] >= 0, weight of each pair.

    Returns:
        one number per row and head, [B, H].

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    _check(state, key, value, gamma)
    return (gamma * delta.loss(_answers(state, key), value)).sum(-1)


def gradient(state: Tensor, key: Tensor, value: Tensor, *, gamma: Tensor) -> Tensor:
    """Gradient of `objective` by the state, [B, H, V, K].

    grad L(M) = sum_i gamma_i (M k_i - v_i) k_i^T

    Source: NL eq. 68.
    """
    error = delta.surprise(_answers(state, key), value)
    return (gamma.unsqueeze(-1) * error).mT @ key


def step(state: Tensor, key: Tensor, value: Tensor, *, gamma: Tensor, eta: Tensor, alpha: Tensor) -> Tensor:
    """Write the newest pair while correcting the last C pairs together.

    objective  L(M) = sum_{i=t-C+1..t} gamma_i 1/2 |M k_i - v_i|^2
    update     M <- alpha M - eta sum_i gamma_i (M k_i - v_i) k_i^T

    Source: NL eq. 68 (Atlas). C = 1 with gamma 1 is the delta rule.

    Args:
        state: [B, H, V, K] the memory before the write.
        key: [B, H, C, K].
        value: [B, H, C, V]. A pair of zeros writes nothing.
        gamma: [B, H, C] >= 0, weight of each pair.
        eta: [B, H] >= 0, inner learning rate.
        alpha: [B, H] in [0, 1], retention.

    Returns:
        the new state; the input is unchanged.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    sizes = _check(state, key, value, gamma)
    check_shape("eta", eta, "BH", sizes)
    check_shape("alpha", alpha, "BH", sizes)
    return spread(alpha) * state - spread(eta) * gradient(state, key, value, gamma=gamma)


def empty_window(
    batch: int,
    heads: int,
    value_width: int,
    key_width: int,
    *,
    length: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Window:
    """A window of `length` >= 1 unused places."""
    return Window(
        key=torch.zeros(batch, heads, length, key_width, dtype=dtype, device=device),
        value=torch.zeros(batch, heads, length, value_width, dtype=dtype, device=device),
    )


def push(window: Window, key: Tensor, value: Tensor) -> Window:
    """The window with the oldest pair dropped and key [B, H, K], value [B, H, V] added as the newest."""
    sizes = check_shape("window.key", window.key, "BHCK")
    sizes = check_shape("window.value", window.value, "BHCV", sizes)
    check_shape("key", key, "BHK", sizes)
    check_shape("value", value, "BHV", sizes)
    return Window(
        key=torch.cat([window.key[:, :, 1:], key.unsqueeze(2)], dim=2),
        value=torch.cat([window.value[:, :, 1:], value.unsqueeze(2)], dim=2),
    )


def _answers(state: Tensor, key: Tensor) -> Tensor:
    return key @ state.mT


def _check(state: Tensor, key: Tensor, value: Tensor, gamma: Tensor) -> Sizes:
    sizes = check_shape("state", state, "BHVK")
    sizes = check_shape("key", key, "BHCK", sizes)
    check_shape("value", value, "BHCV", sizes)
    check_shape("gamma", gamma, "BHC", sizes)
    return sizes


class Remembered(NamedTuple):
    """A memory [B, H, V, K] together with its window."""

    memory: Tensor
    window: Window


def initial_remembered(
    batch: int,
    heads: int,
    value_width: int,
    key_width: int,
    *,
    length: int = DEFAULT_LENGTH,
    dtype: torch.dtype = torch.float32,
) -> Remembered:
    """An empty memory with an empty window of `length` pairs."""
    return Remembered(
        memory=initial(batch, heads, value_width, key_width, dtype=dtype),
        window=empty_window(batch, heads, value_width, key_width, length=length, dtype=dtype),
    )


def write(state: Remembered, key: Tensor, value: Tensor, *, eta: Tensor, alpha: Tensor) -> Remembered:
    """Push one pair [B, H, K], [B, H, V] into the window and take one `step` with gamma = 1 / C for every pair."""
    window = push(state.window, key, value)
    gamma = torch.full_like(window.key[..., 0], 1 / window.key.shape[2])
    memory = step(state.memory, window.key, window.value, gamma=gamma, eta=eta, alpha=alpha)
    return Remembered(memory=memory, window=window)


def read_remembered(state: Remembered, query: Tensor) -> Tensor:
    """Ask the memory: y = M q, [B, H, V]. The window is not read."""
    return read(state.memory, query)


RULE = Rule(
    name="omega",
    title="Omega",
    objective_text="L(M) = sum_{i=t-C+1..t} gamma_i 1/2 |M k_i - v_i|^2",
    update_text="M <- alpha M - eta sum_i gamma_i (M k_i - v_i) k_i^T",
    equations="NL 68",
    model="Atlas (window 4, gamma 1/4 unless given)",
    file="omega.py",
    state_kind="matrix and window",
    objective=objective,
    gradient=gradient,
    step=step,
    initial=initial_remembered,
    write=write,
    read=read_remembered,
    fast_twin="nestling.ops.window_write.window_write",
)
