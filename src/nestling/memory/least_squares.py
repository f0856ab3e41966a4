"""A memory that is the exact least-squares solution over everything ever written to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nestling.errors import ShapeError
from nestling.rules import least_squares

RIDGES = tuple(10.0**exponent for exponent in range(-6, 3))


class LeastSquaresMemory(nn.Module):
    """Additive sums of keys and values, and the memory that solves them.

    A = sum_i k_i k_i^T,   B = sum_i k_i v_i^T,   M = B^T (A + ridge n I)^-1,   n = tr(A) / K

    Sums commute: the order of the data cannot matter, `merge` of two memories equals writing both, `unlearn` of a pair
    equals never having written it, all up to rounding of float64. A tenth of the pairs (chosen by the caller) is summed
    apart, which is enough to know the squared error on them of any M without storing one of them:

        sum_i |M k_i - v_i|^2 = tr(M A' M^T) - 2 tr(M B') + sum_i |v_i|^2

    and so to choose the ridge; afterwards the memory is solved from all sums.

    Source: NL eq. 59-60 with retention over all inputs; ridge regression, Hoerl & Kennard 1970.
    Symbols: ridge is relative to the mean diagonal of A: one grid serves every scale of keys and number of pairs.

    Args:
        key_width: K.   value_width: V.
    Twin: rules.least_squares.step, the recursion that gives the same M pair by pair.
    """

    gram: Tensor
    cross: Tensor
    held_gram: Tensor
    held_cross: Tensor
    held_energy: Tensor
    num_pairs: Tensor

    def __init__(self, *, key_width: int, value_width: int) -> None:
        super().__init__()
        self.key_width, self.value_width = key_width, value_width
        for name, shape in {
            "gram": (key_width, key_width),
            "cross": (key_width, value_width),
            "held_gram": (key_width, key_width),
            "held_cross": (key_width, value_width),
            "held_energy": (),
            "num_pairs": (),
        }.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    @torch.no_grad()
    def write(self, keys: Tensor, values: Tensor, *, held_out: Tensor | None = None, sign: float = 1.0) -> None:
        """Add pairs to the sums.

        Args: keys: [N, K].   values: [N, V].   held_out: [N] bool, the pairs that go to the sums kept apart (none when
            missing).   sign: 1 writes, -1 unlearns; any weight in between is a weighted least squares.
        Raises: ShapeError when the widths do not fit.
        """
        self._check(keys, values)
        keys, values = keys.double(), values.double()
        apart = torch.zeros(len(keys), dtype=torch.bool) if held_out is None else held_out
        kept = ~apart
        self.gram.addmm_(keys[kept].T, keys[kept], alpha=sign)
        self.cross.addmm_(keys[kept].T, values[kept], alpha=sign)
        self.held_gram.addmm_(keys[apart].T, keys[apart], alpha=sign)
        self.held_cross.addmm_(keys[apart].T, values[apart], alpha=sign)
        self.held_energy += sign * values[apart].square().sum()
        self.num_pairs += sign * len(keys)

    def unlearn(self, keys: Tensor, values: Tensor, *, held_out: Tensor | None = None) -> None:
        """Take pairs back out, exactly: afterwards the sums equal those of a memory that never saw them."""
        self.write(keys, values, held_out=held_out, sign=-1.0)

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
        """M [V, K] float64 from all sums, held-out ones included.   ridge: > 0, relative to the mean diagonal."""
        return self._solve(self.gram + self.held_gram, self.cross + self.held_cross, ridge)

    def solve_without_held_out(self, ridge: float) -> Tensor:
        """M [V, K] float64 from the sums that are not kept apart.   ridge: > 0, relative to the mean diagonal."""
        return self._solve(self.gram, self.cross, ridge)

    def error_of(self, memory: Tensor) -> float:
        """Squared error of any M [V, K] on the held-out pairs, as a share of their energy (0 if there are none)."""
        fit = torch.einsum("vk,kl,vl->", memory, self.held_gram, memory)
        error = fit - 2 * torch.einsum("vk,kv->", memory, self.held_cross) + self.held_energy
        return float(error / self.held_energy.clamp_min(torch.finfo(torch.float64).tiny))

    def held_out_error(self, ridge: float) -> float:
        """Squared error on the held-out pairs of the memory solved without them, as a share of their energy."""
        return self.error_of(self.solve_without_held_out(ridge))

    def choose_ridge(self, ridges: Sequence[float] = RIDGES) -> tuple[float, float]:
        """A ridge at which the held-out error is smaller than at its neighbours in `ridges`, and that error.

        Args: ridges: candidates in rising order; the search goes downhill from the middle one.
        """
        errors: dict[int, float] = {}

        def error(place: int) -> float:
            if not 0 <= place < len(ridges):
                return float("inf")
            if place not in errors:
                errors[place] = self.held_out_error(ridges[place])
            return errors[place]

        place = len(ridges) // 2
        while (best := min((place, place - 1, place + 1), key=error)) != place:
            place = best
        return ridges[place], error(place)

    def _solve(self, gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
        scale = gram.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
        return least_squares.solve(gram, cross, ridge=ridge * scale)

    def _check(self, keys: Tensor, values: Tensor) -> None:
        expected = (len(keys), self.key_width), (len(keys), self.value_width)
        if (tuple(keys.shape), tuple(values.shape)) != expected:
            raise ShapeError(
                f"expected keys {list(expected[0])} and values {list(expected[1])}, got {list(keys.shape)} and "
                f"{list(values.shape)}"
            )
