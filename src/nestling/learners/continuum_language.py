"""The language part of `continuum`: levels from one window to all of the past, nothing of the text stored as text."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nestling.errors import InputError
from nestling.learners.base import seeded_generator
from nestling.learners.gradient import GradientStrategy
from nestling.memory.count_memory import CountMemory
from nestling.memory.evidence_gate import evidence_gate
from nestling.streams.base import Examples, Kind, Problem, Training, concatenate


class LanguageContinuum(GradientStrategy):
    """Four levels that answer together, from the fastest to the slowest.

        level 0  evidence gate       update period one symbol; which of the levels below has been right in this window
        level 1  window counts       update period one symbol; forgotten with the window
        level 2  count memory        update period one experience; least squares on all of the past, exact
        level 3  the module          update period one optimizer step; slow to change its mind: rehearsed by dreams

    Dreams: before an experience, sequences are drawn from level 2 and mixed into the training of level 3
    (`dreams` of them for each new one). They stand for the past; no example is stored. So the module goes on
    learning, while level 2, which cannot forget, keeps reminding it.

    Source: levels and their transfer NL eq. 70-74; knowledge passed from the exact memory to the slow weights by its
        own samples: generative rehearsal, Robins 1995.

    Args:
        dreams: >= 0, dreamed sequences per new one.   orders, ridge: of the count memory.
        window_weight: >= 0, how many times a symbol of the window counts against one of the past.
        retention, rate: of the evidence gate.
    """

    name: ClassVar[str] = "continuum"
    summary: ClassVar[str] = (
        "exact counts of the past, a module rehearsed by their dreams, a gate that follows the window"
    )
    kinds: ClassVar[frozenset[Kind]] = frozenset({"language"})

    def __init__(
        self,
        module: nn.Module,
        problem: Problem,
        *,
        training: Training,
        seed: int,
        dreams: float = 0.5,
        orders: tuple[int, ...] | None = None,
        ridge: float = 4.0,
        window_weight: float = 3.0,
        retention: float = 0.98,
        rate: float = 0.1,
    ) -> None:
        if problem.kind != "language":
            raise InputError(f"expected a problem of kind 'language', got {problem.kind!r}: use another strategy")
        if not dreams >= 0:
            raise InputError(f"expected dreams >= 0 per new sequence, got {dreams}")
        super().__init__(module, problem, training=training, seed=seed)
        orders = longest_orders(problem.num_outputs) if orders is None else orders
        self.memory = CountMemory(orders=orders, ridge=ridge, vocabulary=problem.num_outputs)
        self.dreams = dreams
        self.window_weight = window_weight
        self.retention = retention
        self.rate = rate
        self.num_experiences = 0

    def material(self, train: Examples) -> Examples:
        """The new examples, and dreams of the past beside them; the same dreams when resumed."""
        count = round(self.dreams * len(train))
        if self.num_experiences == 0 or count == 0:
            return train
        generator = seeded_generator(1_000_003 * self.seed + self.num_experiences)
        drawn = self.memory.sample(count, train.inputs.shape[1] + 1, generator=generator)
        return concatenate([train, Examples(inputs=drawn[:, :-1], targets=drawn[:, 1:])])

    def end(self, train: Examples) -> None:
        """Write the experience into the count memory."""
        self.memory.write(train.inputs, train.targets)
        self.num_experiences += 1

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        """Log-probabilities [N, L, V] of the next symbols, normalised."""
        slow = super().predict(inputs).log_softmax(-1)
        counts = self.memory.log_probs(inputs, window_weight=self.window_weight)
        return evidence_gate([slow, counts], inputs, retention=self.retention, rate=self.rate)[0]

    def state_dict(self) -> dict[str, Any]:
        """Also the counts."""
        kept = {"memory": self.memory.state_dict(), "num_experiences": self.num_experiences}
        return {**super().state_dict(), **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])
        self.num_experiences = state["num_experiences"]

    def num_parameters(self) -> int:
        """Weights of the module and counts of the memory."""
        return super().num_parameters() + self.memory.num_entries()


def longest_orders(vocabulary: int, *, longest: int = 6) -> tuple[int, ...]:
    """Orders 1 to `longest`, or as far as a key of that vocabulary fits into 63 bits."""
    return tuple(order for order in range(1, longest + 1) if vocabulary ** (order + 1) < 2**63)
