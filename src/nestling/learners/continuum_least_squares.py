"""The part of `continuum` for classes: a least-squares level that forgets nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.errors import InputError
from nestling.learners.additive import AdditiveStrategy
from nestling.learners.base import Progress
from nestling.memory.cosine_features import CosineFeatures
from nestling.memory.least_squares import LeastSquaresMemory
from nestling.streams.base import Examples, Kind, Problem, Training

MIN_FEATURES, MAX_FEATURES, FEATURES_PER_EXAMPLE = 1000, 4000, 4


class LeastSquaresContinuum(AdditiveStrategy):
    """Two levels: keys that are fixed once, and an exact least-squares memory that is written at every chunk.

        level 0  least squares   update period one chunk; M = argmin sum over all the past |M phi(x) - y|^2 + ridge
        level 1  keys phi        update period infinite after the first experience, from which length and number come

    Classes are one-hot values. The ridge is chosen by generalized cross-validation, which needs the sums only. Nothing
    is stored: sums only.

    Source: NL eq. 59-60 with retention over all inputs, on random keys (NL section 4.3 reads forgetting as an optimizer
        that keeps too little of the past; these sums keep all of it).

    Args:
        num_features: cosines in a key; None takes four for each example of the first experience, 1000 to 4000.
        bandwidths: of the keys, in units of the typical distance between inputs.
    """

    name: ClassVar[str] = "continuum"
    summary: ClassVar[str] = "exact least squares over everything seen, on random keys"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})

    def __init__(
        self,
        module: nn.Module,
        problem: Problem,
        *,
        training: Training,
        seed: int,
        num_features: int | None = None,
        bandwidths: Sequence[float] = (0.7,),
    ) -> None:
        super().__init__(module, problem, training=training, seed=seed)
        if num_features is not None and num_features < len(bandwidths):
            raise InputError(f"num_features: expected at least one for each bandwidth, got {num_features}")
        self.num_features, self.bandwidths = num_features, tuple(bandwidths)
        self.sums = {}
        self.seen = torch.zeros(problem.num_outputs, dtype=torch.bool)
        self.levels: tuple[CosineFeatures, LeastSquaresMemory] | None = None

    @property
    def keys(self) -> CosineFeatures:
        """The map from inputs to keys; InputError before the first experience."""
        return self._begun()[0]

    @property
    def memory(self) -> LeastSquaresMemory:
        """The memory of everything seen; InputError before the first experience."""
        return self._begun()[1]

    def learn(self, train: Examples) -> Iterator[Progress]:
        """One pass: set the keys by the first experience, then add every chunk to the sums."""
        if self.levels is None:
            wanted = min(max(FEATURES_PER_EXAMPLE * len(train), MIN_FEATURES), MAX_FEATURES)
            self._begin(self.num_features or wanted)
            self.keys.fit(self._flatten(train.inputs))
        yield from super().learn(train)

    def state_dict(self) -> dict[str, Any]:
        """The sums, number and length of the keys, and the place in the current experience."""
        if self.levels is None:
            return {"num_features": 0}
        return {
            **super().state_dict(),
            "num_features": self.keys.num_features,
            "length": self.keys.length.clone(),
            "memory": {name: value.clone() for name, value in self.memory.state_dict().items()},
            "seen": self.seen.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.levels = None
        if state["num_features"] == 0:
            return
        super().load_state_dict(state)
        self._begin(int(state["num_features"]))
        self.keys.length.copy_(state["length"])
        self.memory.load_state_dict(state["memory"])
        self.seen = state["seen"].clone()

    def num_parameters(self) -> int:
        """Memory read at prediction and the random map of its keys; 0 before the first experience."""
        if self.levels is None:
            return 0
        return self.keys.width * self.problem.num_outputs + self.keys.weight.numel() + self.keys.phase.numel()

    def _begin(self, num_features: int) -> None:
        keys = CosineFeatures(
            num_inputs=self.num_inputs, num_features=num_features, bandwidths=self.bandwidths, seed=self.seed
        )
        self.levels = keys, LeastSquaresMemory(key_width=keys.width, value_width=self.problem.num_outputs)

    def _begun(self) -> tuple[CosineFeatures, LeastSquaresMemory]:
        if self.levels is None:
            raise InputError("strategy 'continuum' has learned nothing yet: call learn() first")
        return self.levels

    def _absorb(self, inputs: Tensor, targets: Tensor) -> None:
        self.seen[targets] = True
        self.memory.write(self.keys(inputs), functional.one_hot(targets, self.problem.num_outputs))

    def _solve(self) -> dict[str, Tensor]:
        return {"weight": self.memory.solve_best().memory.float()}

    def _read(self, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        outputs = self.keys(inputs) @ weights["weight"].T
        return outputs.masked_fill(~self.seen, -torch.inf)
