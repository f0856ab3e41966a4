"""Recursive least squares: the rule that remembers all the past exactly.

Two faces of the same solution. `step` carries the inverse key covariance P and corrects the memory after every pair.
The additive face carries two sums, from which `solve` gets the same memory; sums commute, so order cannot matter,
two learners merge by adding and an example is unlearned by subtracting.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nestling.errors import ShapeError


def objective(memory: Tensor, keys: Tensor, values: Tensor, *, ridge: float, forgetting: float = 1.0) -> Tensor:
    """Regularized squared error over the whole past.

    l(M) = sum_i lambda^(t-i) 1/2 |M k_i - v_i|^2 + lambda^t ridge/2 |M|^2

    Source: NL eq. 59-60 with retention over all inputs.
    Symbols: the ridge is decayed with the past, which is what the recursion with P_0 = I / ridge solves.

    Args:
        memory: [..., V, K].   keys: [..., T, K].   values: [..., T, V], oldest first.
        ridge: > 0.   forgetting: lambda in (0, 1], 1 keeps everything.
    Returns: [...].
    """
    num_pairs = keys.shape[-2]
    age = torch.arange(num_pairs - 1, -1, -1, dtype=keys.dtype, device=keys.device)
    weight = forgetting**age
    error = torch.einsum("...vk,...tk->...tv", memory, keys) - values
    data = 0.5 * (weight * error.square().sum(-1)).sum(-1)
    return data + 0.5 * ridge * forgetting**num_pairs * memory.square().sum((-2, -1))


def step(
    state: Tensor, inverse: Tensor, key: Tensor, value: Tensor, *, forgetting: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """Write one pair; afterwards the memory is the exact minimizer of `objective` over all pairs so far.

    P <- (P - P k (lambda + k^T P k)^-1 k^T P) / lambda
    M <- M + (v - M k) (P k)^T

    Source: NL eq. 59-60; recursive least squares (Plackett 1950); P in place of the identity in `delta.step`.

    Args:
        state: [..., V, K], the memory before the write.   inverse: P [..., K, K], at the start I / ridge.
        key: [..., K], any norm.   value: [..., V].
        forgetting: lambda in (0, 1], 1 keeps everything; a number, or [...] one for each memory.
    Returns: the new state and the new inverse; the inputs are unchanged.
    Raises: ShapeError when the widths do not fit.
    """
    _check_pair(state, inverse, key, value)
    kept = torch.as_tensor(forgetting, dtype=state.dtype, device=state.device).unsqueeze(-1)
    direction = torch.einsum("...ij,...j->...i", inverse, key)
    gain = direction / (kept + (key * direction).sum(-1, keepdim=True))
    inverse = (inverse - gain.unsqueeze(-1) * direction.unsqueeze(-2)) / kept.unsqueeze(-1)
    error = value - torch.einsum("...vk,...k->...v", state, key)
    return state + error.unsqueeze(-1) * gain.unsqueeze(-2), inverse


def update_inverse(inverse: Tensor, keys: Tensor, *, forgetting: float = 1.0) -> Tensor:
    """Rank-n update of the inverse key covariance by a chunk of keys.

    P <- (P - P X^T (lambda I + X P X^T)^-1 X P) / lambda,   solved in the smaller of n and K.

    Source: section "DGD that remembers"; Woodbury identity; OWM (Zeng et al. 2019).
    Args: inverse: [K, K].   keys: X [n, K].   forgetting: lambda in (0, 1].
    Returns: the new inverse [K, K], symmetric.
    """
    num_keys, width = keys.shape
    if num_keys >= width:
        covariance = torch.linalg.inv(inverse) * forgetting + keys.T @ keys
        return torch.linalg.inv(0.5 * (covariance + covariance.T))
    projected = keys @ inverse
    inner = projected @ keys.T
    inner.diagonal().add_(forgetting)
    update = (inverse - projected.T @ torch.linalg.solve(inner, projected)) / forgetting
    return 0.5 * (update + update.T)


def solve(gram: Tensor, cross: Tensor, *, ridge: float | Tensor) -> Tensor:
    """The memory from the additive sums: M = B^T (A + ridge I)^-1.

    Args: gram: A = sum k k^T [K, K].   cross: B = sum k v^T [K, V].   ridge: > 0, or [K] one per key dimension.
    Returns: M [V, K].
    Raises: torch.linalg.LinAlgError when A + ridge I is not positive definite (only after unlearning what was not
        learned, or with a ridge below rounding).
    """
    regularized = gram.clone()
    regularized.diagonal().add_(ridge)
    return torch.cholesky_solve(cross, torch.linalg.cholesky(regularized)).T


def _check_pair(state: Tensor, inverse: Tensor, key: Tensor, value: Tensor) -> None:
    key_width, value_width = key.shape[-1], value.shape[-1]
    expected = {"state": (value_width, key_width), "inverse": (key_width, key_width)}
    for name, tensor in (("state", state), ("inverse", inverse)):
        if tuple(tensor.shape[-2:]) != expected[name]:
            raise ShapeError(
                f"{name}: expected [..., {expected[name][0]}, {expected[name][1]}] for a key of width {key_width} and "
                f"a value of width {value_width}, got {list(tensor.shape)}"
            )
