"""The part of `continuum` for classes and real-valued targets: a least-squares level that forgets nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.learners.additive import AdditiveStrategy
from nestling.learners.base import Progress
from nestling.learners.ridge import held_out
from nestling.memory.cosine_features import CosineFeatures
from nestling.memory.least_squares import LeastSquaresMemory
from nestling.streams.base import Examples, Kind, Problem, Training

BANDWIDTHS = (0.5, 1.0)


class LeastSquaresContinuum(AdditiveStrategy):
    """Two levels: keys that are fixed once, and an exact least-squares memory that is written at every chunk.

        level 0  least squares   update period one chunk; M = argmin sum over all the past |M phi(x) - y|^2 + ridge
        level 1  keys phi        update period infinite after the first experience, from which their length is taken

    Classes are one-hot values. The ridge is chosen on sums of a tenth of the examples kept apart (an example's own bits
    decide, so order changes nothing), then the memory is solved from all sums. Nothing is stored: sums only.

    Source: NL eq. 59-60 with retention over all inputs, on random keys (NL section 4.3 reads forgetting as an optimizer
        that keeps too little of the past; these sums keep all of it).

    Args:
        num_features: cosines in a key.   bandwidths: of the keys, in units of the typical distance between inputs.
    """

    name: ClassVar[str] = "continuum"
    summary: ClassVar[str] = "exact least squares over everything seen, on random keys"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification", "regression"})

    def __init__(
        self,
        module: nn.Module,
        problem: Problem,
        *,
        training: Training,
        seed: int,
        num_features: int = 3000,
        bandwidths: Sequence[float] = BANDWIDTHS,
    ) -> None:
        super().__init__(module, problem, training=training, seed=seed)
        self.keys = CosineFeatures(
            num_inputs=self.num_inputs, num_features=num_features, bandwidths=bandwidths, seed=seed
        )
        self.memory = LeastSquaresMemory(key_width=self.keys.width, value_width=problem.num_outputs)
        self.sums = {**dict(self.memory.named_buffers()), "seen": torch.zeros(problem.num_outputs, dtype=torch.bool)}
        self.ridge: float | None = None

    def learn(self, train: Examples) -> Iterator[Progress]:
        """One pass: take the keys' length from the first experience, then add every chunk to the sums."""
        self.keys.fit(self._flatten(train.inputs))
        yield from super().learn(train)

    def _absorb(self, inputs: Tensor, targets: Tensor) -> None:
        if self.problem.kind == "classification":
            self.sums["seen"][targets] = True
            values = functional.one_hot(targets, self.problem.num_outputs)
        else:
            values = targets.reshape(len(targets), self.problem.num_outputs)
        self.memory.write(self.keys(inputs), values, held_out=held_out(inputs))

    def _solve(self) -> dict[str, Tensor]:
        self.ridge, _ = self.memory.choose_ridge()
        return {"weight": self.memory.solve(self.ridge).float()}

    def _read(self, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
        outputs = self.keys(inputs) @ weights["weight"].T
        if self.problem.kind == "classification":
            outputs = outputs.masked_fill(~self.sums["seen"], -torch.inf)
        return outputs

    def state_dict(self) -> dict[str, Any]:
        """The sums, the keys' length and the place in the current experience."""
        return {**super().state_dict(), "length": self.keys.length.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.keys.length.copy_(state["length"])
        self.memory.load_state_dict({name: value for name, value in self.sums.items() if name != "seen"})
        self.sums = {**dict(self.memory.named_buffers()), "seen": self.sums["seen"]}

    def num_parameters(self) -> int:
        """Memory read at prediction and the random map of its keys."""
        return self.keys.width * self.problem.num_outputs + self.keys.weight.numel() + self.keys.phase.numel()
