"""`continuum`: our strategy. One name and one default configuration for every kind of stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from nestling.learners.base import Progress, Strategy
from nestling.learners.continuum_contexts import ContextContinuum
from nestling.learners.continuum_language import LanguageContinuum
from nestling.learners.continuum_least_squares import LeastSquaresContinuum
from nestling.streams.base import Examples, Kind, Problem, Training

PARTS: dict[Kind, type[Strategy]] = {
    "classification": LeastSquaresContinuum,
    "regression": ContextContinuum,
    "language": LanguageContinuum,
}


class Continuum(Strategy):
    """Memories at several update periods; the slow ones are exact or protected, and no example is stored.

    classification: `LeastSquaresContinuum`.   regression: `ContextContinuum`.   language: `LanguageContinuum`.

    What differs between streams (length of the keys, ridge, counts) the levels choose from the data they have seen.

    Source: NL sections 4.3, 7 and eq. 59-60, 70-74; see the three parts.
    """

    name: ClassVar[str] = "continuum"
    summary: ClassVar[str] = "ours: memories at several update periods, exact where the head allows it, nothing stored"
    parts: ClassVar[Mapping[Kind, type[Strategy]]] = PARTS

    def __init__(self, module: nn.Module, problem: Problem, *, training: Training, seed: int, **options: Any) -> None:
        super().__init__(module, problem, training=training, seed=seed)
        self.part: Strategy = PARTS[problem.kind](module, problem, training=training, seed=seed, **options)

    def learn(self, train: Examples) -> Iterator[Progress]:
        """Learn one experience, see `Strategy.learn`."""
        return self.part.learn(train)

    def predict(self, inputs: Tensor) -> Tensor:
        """Class scores, actions, or log-probabilities of the next symbols."""
        return self.part.predict(inputs)

    def state_dict(self) -> dict[str, Any]:
        """State of the levels."""
        return self.part.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.part.load_state_dict(state)

    def num_parameters(self) -> int:
        """Numbers that are read when predicting."""
        return self.part.num_parameters()
