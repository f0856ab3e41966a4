"""Kernel linear discriminant analysis: random Fourier features, then a mean per class and one covariance."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nestling.errors import InputError
from nestling.learners.additive import AdditiveStrategy, add_class_sums, empty_class_sums, solve_discriminant
from nestling.learners.base import seeded_generator
from nestling.streams.base import Kind, Problem, Training


class KernelLDA(AdditiveStrategy):
    """Linear discriminant analysis on random Fourier features of a Gaussian kernel.

    phi(x)   = sqrt(2 / F) cos(x Omega + b),   Omega ~ N(0, 1 / bandwidth^2),   b ~ U(0, 2 pi)
    score_c  = phi(x) . S'^-1 mean_c - mean_c . S'^-1 mean_c / 2
    ensemble = log of the sum over members of softmax(score), each member with its own Omega and b  (KLDA-E)

    Source: Momeni, Mazumder, Liu, Continual Learning Using a Kernel-Based Method Over Foundation Models,
    arXiv 2412.15571 (5,000 features, ensembles of 5, bandwidth tuned by hand per data set). Here the bandwidth is
    the median distance between inputs of the first chunk times `bandwidth_factor`.

    Args:
        num_features: F >= 1 per member.
        num_members: 1 is KLDA, more is KLDA-E.
        bandwidth_factor: > 0.
        shrinkage: in (0, 1], weight of the identity in units of the mean variance.
    """

    name: ClassVar[str] = "klda"
    summary: ClassVar[str] = (
        "kernel LDA: random Fourier features and a linear discriminant, closed form, nothing stored"
    )
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})

    def __init__(
        self,
        module: nn.Module,
        problem: Problem,
        *,
        training: Training,
        seed: int,
        num_features: int = 2048,
        num_members: int = 1,
        bandwidth_factor: float = 1.0,
        shrinkage: float = 1e-3,
    ) -> None:
        _check_options(num_features, num_members, bandwidth_factor, shrinkage)
        super().__init__(module, problem, training=training, seed=seed)
        self.num_features = num_features
        self.bandwidth_factor = bandwidth_factor
        self.shrinkage = shrinkage
        self.bandwidth = 0.0
        self.sums = {
            f"{member}.{name}": value
            for member in range(num_members)
            for name, value in empty_class_sums(problem.num_outputs, num_features).items()
        }
        generator = seeded_generator(seed)
        self._maps = [
            (
                torch.randn(self.num_inputs, num_features, generator=generator),
                2 * math.pi * torch.rand(num_features, generator=generator),
            )
            for _ in range(num_members)
        ]

    def _absorb(self, inputs: Tensor, targets: Tensor) -> None:
        if self.bandwidth == 0.0:
            self.bandwidth = self.bandwidth_factor * median_distance(inputs)
        for member in range(len(self._maps)):
            add_class_sums(self._member_sums(member), self._features(member, inputs), targets)

    def _solve(self) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {}
        for member in range(len(self._maps)):
            solution = solve_discriminant(self._member_sums(member), self.shrinkage)
            weights |= {f"{member}.{name}": value for name, value in solution.items()}
        return weights

    def _read(self, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        scores = [
            self._features(member, inputs) @ weights[f"{member}.weight"] + weights[f"{member}.offset"]
            for member in range(len(self._maps))
        ]
        if len(scores) == 1:
            return scores[0]
        return torch.stack([score.log_softmax(-1) for score in scores]).logsumexp(0)

    def state_dict(self) -> dict[str, Any]:
        """The sums, the place in the experience and the bandwidth."""
        return {**super().state_dict(), "bandwidth": self.bandwidth}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the sums, the place in the experience and the bandwidth."""
        super().load_state_dict(state)
        self.bandwidth = float(state["bandwidth"])

    def num_parameters(self) -> int:
        """Linear reads and random maps of all members."""
        member = (self.num_features + 1) * self.problem.num_outputs + (self.num_inputs + 1) * self.num_features
        return len(self._maps) * member

    def _member_sums(self, member: int) -> dict[str, Tensor]:
        return {name: self.sums[f"{member}.{name}"] for name in ("count", "sum", "second")}

    def _features(self, member: int, inputs: Tensor) -> Tensor:
        directions, phases = self._maps[member]
        features = torch.cos(inputs @ (directions / self.bandwidth) + phases)
        return math.sqrt(2 / self.num_features) * features.double()


def _check_options(num_features: int, num_members: int, bandwidth_factor: float, shrinkage: float) -> None:
    if num_features < 1 or num_members < 1:
        raise InputError(f"expected num_features and num_members >= 1, got {num_features} and {num_members}")
    if not bandwidth_factor > 0 or not 0 < shrinkage <= 1:
        raise InputError(
            f"expected bandwidth_factor > 0 and shrinkage above 0 and at most 1, got {bandwidth_factor} and {shrinkage}"
        )


def median_distance(inputs: Tensor) -> float:
    """Median of the non-zero distances between rows of inputs [n, D]; 1 if all rows are equal."""
    distances = torch.pdist(inputs.double())
    distances = distances[distances > 0]
    return float(distances.median()) if len(distances) else 1.0
