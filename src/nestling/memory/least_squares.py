"""A memory that is the exact least-squares solution over everything ever written to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nestling.errors import ShapeError
from nestling.rules import least_squares

RIDGES = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 5))
NUM_PROBES = 64


class Solution(NamedTuple):
    """A memory M [V, K] float64, the ridge it was solved with, and the error by which that ridge was chosen."""

    memory: Tensor
    ridge: float
    error: float


Solver = Callable[[float], Solution]


class LeastSquaresMemory(nn.Module):
    """Additive sums of keys and values, and the memory that solves them.

    A = sum_i k_i k_i^T,   B = sum_i k_i v_i^T,   M = B^T (A + ridge n I)^-1,   n = tr(A) / K

    Sums commute: the order of the data cannot matter, `merge` of two memories equals writing both, `unlearn` of a pair
    equals never having written it, all up to rounding of float64.

    Source: NL eq. 59-60 with retention over all inputs; ridge regression, Hoerl & Kennard 1970.
    Symbols: ridge is relative to the mean diagonal of A: one grid serves every scale of keys and number of pairs.

    Args:
        key_width: K.   value_width: V.
    Twin: rules.least_squares.step, the recursion that gives the same M pair by pair.
    """

    gram: Tensor
    cross: Tensor
    energy: Tensor
    num_pairs: Tensor

    def __init__(self, *, key_width: int, value_width: int) -> None:
        super().__init__()
        self.key_width, self.value_width = key_width, value_width
        self.register_buffer("gram", torch.zeros(key_width, key_width, dtype=torch.float64))
        self.register_buffer("cross", torch.zeros(key_width, value_width, dtype=torch.float64))
        self.register_buffer("energy", torch.zeros((), dtype=torch.float64))
        self.register_buffer("num_pairs", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def write(self, keys: Tensor, values: Tensor, *, sign: float = 1.0) -> None:
        """Add pairs to the sums.

        Args: keys: [N, K].   values: [N, V].   sign: 1 writes, -1 unlearns; any weight in between is a weighted least
            squares.
        Raises: ShapeError when the widths do not fit.
        """
        self._check(keys, values)
        keys, values = keys.double(), values.double()
        self.gram.addmm_(keys.T, keys, alpha=sign)
        self.cross.addmm_(keys.T, values, alpha=sign)
        self.energy += sign * values.square().sum()
        self.num_pairs += sign * len(keys)

    def unlearn(self, keys: Tensor, values: Tensor) -> None:
        """Take pairs back out, exactly: afterwards the sums equal those of a memory that never saw them."""
        self.write(keys, values, sign=-1.0)

    @torch.no_grad()
    def merge(self, other: LeastSquaresMemory) -> None:
        """Add what `other` has learned; equals having written both."""
        if (other.key_width, other.value_width) != (self.key_width, self.value_width):
            raise ShapeError(
                f"expected a memory of key width {self.key_width} and value width {self.value_width} to merge, got "
                f"{other.key_width} and {other.value_width}: merge memories made with the same configuration"
            )
        for mine, theirs in zip(self.buffers(), other.buffers(), strict=True):
            mine += theirs

    @torch.no_grad()
    def decay(self, forgetting: float) -> None:
        """Multiply all the past by lambda in (0, 1]: a fast level forgets, a slow one uses 1."""
        for buffer in self.buffers():
            buffer *= forgetting

    def solve(self, ridge: float) -> Tensor:
        """M [V, K] float64.   ridge: > 0, relative to the mean diagonal of A."""
        return least_squares.solve(self.gram, self.cross, ridge=ridge * self._scale())

    def squared_error(self, memory: Tensor) -> Tensor:
        """sum_i |M k_i - v_i|^2 of any M [V, K] over the pairs of this memory, from the sums alone: a scalar.

        tr(M A M^T) - 2 tr(M B) + sum_i |v_i|^2
        """
        fit = torch.einsum("vk,kl,vl->", memory, self.gram, memory)
        return fit - 2 * torch.einsum("vk,kv->", memory, self.cross) + self.energy

    def solve_validated(self, ridge: float) -> Solution:
        """The memory at one ridge and its error estimated by generalized cross-validation, from the sums alone.

        error = (squared error / energy) / (1 - tr(H) / n)^2,   tr(H) = K - r tr((A + r I)^-1)

        The trace is that of at most 64 random probes (exact up to K = 64): z^T (A + r I)^-1 z, z of signs.

        Source: Golub, Heath & Wahba 1979, "Generalized cross-validation as a method for choosing a good ridge
            parameter"; Hutchinson 1990 for the trace.
        """
        strength = ridge * self._scale()
        probes = _probes(self.key_width)
        solved = least_squares.solve(self.gram, torch.cat([self.cross, probes], dim=1), ridge=strength)
        memory, traced = solved[: self.value_width], solved[self.value_width :]
        freedom = self.key_width - strength * (traced * probes.T).sum()
        share = self.squared_error(memory) / self.energy.clamp_min(torch.finfo(torch.float64).tiny)
        error = share / (1 - freedom / self.num_pairs.clamp_min(1)) ** 2
        return Solution(memory, ridge, float(error))

    def solve_best(self, ridges: Sequence[float] = RIDGES) -> Solution:
        """The memory at a ridge whose cross-validated error is smaller than at its neighbours in `ridges` (rising)."""
        return descend(self.solve_validated, ridges)

    def _scale(self) -> Tensor:
        return self.gram.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)

    def _check(self, keys: Tensor, values: Tensor) -> None:
        expected = (len(keys), self.key_width), (len(keys), self.value_width)
        if (tuple(keys.shape), tuple(values.shape)) != expected:
            raise ShapeError(
                f"expected keys {list(expected[0])} and values {list(expected[1])}, got {list(keys.shape)} and "
                f"{list(values.shape)}"
            )


class ValidatedMemory(nn.Module):
    """A least-squares memory whose ridge is chosen on pairs that its caller summed apart.

    For pairs that resemble their neighbours (frames of a recording), where cross-validation over single pairs would
    choose too small a ridge. The memory is finally solved from all sums; no pair is stored.

    Args:
        key_width: K.   value_width: V.
    """

    def __init__(self, *, key_width: int, value_width: int) -> None:
        super().__init__()
        self.kept = LeastSquaresMemory(key_width=key_width, value_width=value_width)
        self.apart = LeastSquaresMemory(key_width=key_width, value_width=value_width)

    def write(self, keys: Tensor, values: Tensor, *, held_out: Tensor) -> None:
        """Add pairs.   keys: [N, K].   values: [N, V].   held_out: [N] bool, the pairs summed apart."""
        self.kept.write(keys[~held_out], values[~held_out])
        self.apart.write(keys[held_out], values[held_out])

    @property
    def num_pairs(self) -> Tensor:
        """Pairs written."""
        return self.kept.num_pairs + self.apart.num_pairs

    def solve(self, ridge: float) -> Tensor:
        """M [V, K] float64 from all pairs, held-out ones included.   ridge: > 0, relative to the mean diagonal."""
        gram = self.kept.gram + self.apart.gram
        scale = gram.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
        return least_squares.solve(gram, self.kept.cross + self.apart.cross, ridge=ridge * scale)

    def error_of(self, memory: Tensor) -> float:
        """Squared error of any M [V, K] on the held-out pairs, as a share of their energy (0 if there are none)."""
        energy = self.apart.energy.clamp_min(torch.finfo(torch.float64).tiny)
        return float(self.apart.squared_error(memory) / energy)

    def solve_without_held_out(self, ridge: float) -> Solution:
        """The memory solved from the pairs that are not held out, and its error on those that are."""
        memory = self.kept.solve(ridge)
        return Solution(memory, ridge, self.error_of(memory))

    def choose_ridge(self, ridges: Sequence[float] = RIDGES[::2]) -> Solution:
        """The memory without the held-out pairs at a ridge with less error on them than its neighbours in `ridges`."""
        return descend(self.solve_without_held_out, ridges)


def descend(solve: Solver, ridges: Sequence[float]) -> Solution:
    """Go downhill over `ridges` (rising) from the middle one to an error below both neighbours'."""
    tried: dict[int, Solution] = {}

    def error(place: int) -> float:
        if not 0 <= place < len(ridges):
            return float("inf")
        if place not in tried:
            tried[place] = solve(ridges[place])
        return tried[place].error

    place = len(ridges) // 2
    while (best := min((place, place - 1, place + 1), key=error)) != place:
        place = best
    return tried[place]


def _probes(width: int) -> Tensor:
    """[K, P] float64 whose P columns z estimate a trace as the sum of z^T X z; the identity where it is as small."""
    if width <= NUM_PROBES:
        return torch.eye(width, dtype=torch.float64)
    signs = torch.randint(0, 2, (width, NUM_PROBES), generator=torch.Generator().manual_seed(0))
    return (2.0 * signs.double() - 1.0) / NUM_PROBES**0.5
