"""Attention as the non-parametric memory: keep every pair (or the last few) and solve again for each query."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nestling.errors import InputError
from nestling.rules.rule import Rule
from nestling.shapes import Sizes, check_shape

__all__ = ["RULE", "SLIDING_WINDOW", "Pairs", "empty", "objective", "read", "step"]


DEFAULT_WINDOW = 16


class Pairs(NamedTuple):
    """The stored pairs, oldest first: key [B, H, T, K] and value [B, H, T, V]."""

    key: Tensor
    value: Tensor


def empty(
    batch: int,
    heads: int,
    value_width: int,
    key_width: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Pairs:
    """A memory without pairs."""
    return Pairs(
        key=torch.zeros(batch, heads, 0, key_width, dtype=dtype, device=device),
        value=torch.zeros(batch, heads, 0, value_width, dtype=dtype, device=device),
    )


def objective(state: Pairs, query: Tensor, output: Tensor, *, scale: float | None = None) -> Tensor:
    """Objective that `read` minimises exactly for one query.

    l(m) = sum_i s(k_i, q) |v_i - m|^2,   s(k, q) = exp(scale k.q)

    Source: NL eq. 62-63 (Nadaraya-Watson with an exponential kernel). The kernel is divided by its largest value,
    which does not move the minimum.

    Args:
        state: stored pairs [B, H, T, K] and [B, H, T, V].
        query: [B, H, K].
        output: [B, H, V] the answer to judge.
        scale: of the inner product; None is 1 / sqrt(K).

    Returns:
        one number per row and head, [B, H].

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    sizes = _check(state, query)
    check_shape("output", output, "BHV", sizes)
    scores = _scores(state, query, scale)
    kernel = (scores - scores.amax(-1, keepdim=True)).exp()
    return (kernel * (state.value - output.unsqueeze(2)).square().sum(-1)).sum(-1)


def step(state: Pairs, key: Tensor, value: Tensor, *, window: int | None = None) -> Pairs:
    """Append one pair and evict what has left the window.

    objective  l(m) = sum_i s(k_i, q) |v_i - m|^2 over the stored pairs, solved anew by `read`
    update     pairs <- last `window` of (pairs, (k, v))

    Source: NL eq. 62 (softmax attention), 63 (sliding window).

    Args:
        state: stored pairs [B, H, T, K] and [B, H, T, V].
        key: [B, H, K].
        value: [B, H, V].
        window: >= 1, how many pairs are kept; None keeps all.

    Returns:
        the new pairs; the input is unchanged.

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
        InputError: window below 1.
    """
    if window is not None and window < 1:
        raise InputError(f"window: expected None or a number >= 1, got {window}: 1 keeps only the newest pair")
    sizes = check_shape("state.key", state.key, "BHTK")
    sizes = check_shape("state.value", state.value, "BHTV", sizes)
    check_shape("key", key, "BHK", sizes)
    check_shape("value", value, "BHV", sizes)
    first = 0 if window is None else max(0, sizes["T"] + 1 - window)
    return Pairs(
        key=torch.cat([state.key, key.unsqueeze(2)], dim=2)[:, :, first:],
        value=torch.cat([state.value, value.unsqueeze(2)], dim=2)[:, :, first:],
    )


def read(state: Pairs, query: Tensor, *, scale: float | None = None) -> Tensor:
    """Ask the stored pairs: the weighted mean of the values.

    y = sum_i softmax_i(scale k_i.q) v_i

    Source: NL eq. 62-63. A memory without pairs answers 0, as an empty matrix memory does.

    Args:
        state: stored pairs [B, H, T, K] and [B, H, T, V].
        query: [B, H, K].
        scale: of the inner product; None is 1 / sqrt(K).

    Returns:
        the answer [B, H, V].

    Raises:
        ShapeError: naming the argument, the expected and the given shape.
    """
    _check(state, query)
    weights = _scores(state, query, scale).softmax(-1)
    return (weights.unsqueeze(-2) @ state.value).squeeze(-2)


def _scores(state: Pairs, query: Tensor, scale: float | None) -> Tensor:
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    return factor * (state.key @ query.unsqueeze(-1)).squeeze(-1)


def _check(state: Pairs, query: Tensor) -> Sizes:
    sizes = check_shape("state.key", state.key, "BHTK")
    sizes = check_shape("state.value", state.value, "BHTV", sizes)
    check_shape("query", query, "BHK", sizes)
    return sizes


def write(state: Pairs, key: Tensor, value: Tensor, *, eta: Tensor, alpha: Tensor) -> Pairs:
    """One `step` that keeps all pairs. eta and alpha are checked and not used: nothing is compressed or forgotten."""
    return _write(state, key, value, eta, alpha, window=None)


def write_window(state: Pairs, key: Tensor, value: Tensor, *, eta: Tensor, alpha: Tensor) -> Pairs:
    """One `step` that keeps the last 16 pairs. eta and alpha are checked and not used."""
    return _write(state, key, value, eta, alpha, window=DEFAULT_WINDOW)


def _write(state: Pairs, key: Tensor, value: Tensor, eta: Tensor, alpha: Tensor, *, window: int | None) -> Pairs:
    sizes = check_shape("state.key", state.key, "BHTK")
    check_shape("eta", eta, "BH", sizes)
    check_shape("alpha", alpha, "BH", sizes)
    return step(state, key, value, window=window)


RULE = Rule(
    name="attention",
    title="Softmax attention",
    objective_text="l(m) = sum_i exp(k_i.q / sqrt(K)) |v_i - m|^2",
    update_text="append (k, v); y = sum_i softmax_i(k_i.q / sqrt(K)) v_i",
    equations="NL 62",
    model="attention",
    file="attention.py",
    state_kind="pairs",
    objective=objective,
    gradient=None,
    step=step,
    initial=empty,
    write=write,
    read=read,
    fast_twin="torch.nn.functional.scaled_dot_product_attention",
)

SLIDING_WINDOW = Rule(
    name="sliding_window",
    title="Sliding-window attention",
    objective_text="l(m) = sum over the last C pairs of exp(k_i.q / sqrt(K)) |v_i - m|^2",
    update_text="append (k, v), evict the oldest; y = sum_i softmax_i(k_i.q / sqrt(K)) v_i",
    equations="NL 63",
    model="sliding-window attention (window 16 unless given)",
    file="attention.py",
    state_kind="pairs",
    objective=objective,
    gradient=None,
    step=step,
    initial=empty,
    write=write_window,
    read=read,
    fast_twin="torch.nn.functional.scaled_dot_product_attention",
)
