"""The part of `continuum` for real-valued targets: a least-squares memory per context, found again from the input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nestling.errors import DataError, InputError, ShapeError
from nestling.learners.base import Progress, Strategy
from nestling.memory.context_gate import ContextGate
from nestling.memory.least_squares import ValidatedMemory
from nestling.memory.relu_features import ReluFeatures
from nestling.streams.base import Examples, Kind, Problem, Training

NUM_BLOCKS = 25
HELD_OUT_EVERY = 5
GATE_FEATURES = 1000
NEGLIGIBLE = 1e-4


class Context(nn.Module):
    """What was learned in one kind of situation: keys and a least-squares memory."""

    def __init__(self, problem: Problem, *, num_features: int, seed: int) -> None:
        super().__init__()
        num_inputs = torch.Size(problem.input_shape).numel()
        self.keys = ReluFeatures(num_inputs=num_inputs, num_features=num_features, seed=seed)
        self.memory = ValidatedMemory(key_width=self.keys.width, value_width=problem.num_outputs)
        self._weight: Tensor | None = None

    def write(self, inputs: Tensor, values: Tensor) -> None:
        """Add pairs in the order in which they were recorded; every fifth block of them is held out."""
        self.memory.write(self.keys(inputs), values, held_out=held_out_blocks(len(inputs)))
        self._weight = None

    def read(self, inputs: Tensor) -> Tensor:
        """Values [N, V] float32 for inputs [N, D]."""
        if self._weight is None:
            self._weight = self.memory.solve(self.memory.choose_ridge().ridge).float()
        return self.keys(inputs) @ self._weight.T


class ContextContinuum(Strategy):
    """Levels from the moment to everything seen.

        level 0  which context   update period one input: least squares from inputs to contexts, `ContextGate`
        level 1  its memory      update period one experience: least squares over all that context has seen, exact
        level 2  its keys        set once, when the context begins

    A new experience joins the likeliest context when one memory serves both at least as well as two do (on held-out
    examples of both, to 0.01 % of their energy), otherwise it begins its own. So one function met in pieces stays one
    memory, and tasks that contradict each other do not share one. No example is stored; what one context knows, no
    other can erase.

    Source: NL eq. 59-60 with retention over all inputs for each memory; NL 7 for levels; one module per task behind a
        gate: Aljundi et al. 2017. The choice between one memory and two from held-out sums is ours.

    Args:
        num_features: random features of a key.
    """

    name: ClassVar[str] = "continuum"
    summary: ClassVar[str] = "exact least squares in every context, contexts told apart by their inputs"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"regression"})

    def __init__(
        self, module: nn.Module, problem: Problem, *, training: Training, seed: int, num_features: int = 2000
    ) -> None:
        super().__init__(module, problem, training=training, seed=seed)
        if problem.kind != "regression":
            raise InputError(f"expected a problem of kind 'regression', got {problem.kind!r}: use another strategy")
        self.num_features = num_features
        self.contexts: list[Context] = []
        num_inputs = torch.Size(problem.input_shape).numel()
        self.gate = ContextGate(num_inputs=num_inputs, num_features=GATE_FEATURES, seed=seed)

    def learn(self, train: Examples) -> Iterator[Progress]:
        """One pass over the examples, which are taken to be in the order in which they were recorded."""
        inputs = self._flatten(train.inputs)
        if not (bool(torch.isfinite(inputs).all()) and bool(torch.isfinite(train.targets).all())):
            raise DataError("training examples hold NaN or infinity: expected finite numbers; clean the data")
        values = train.targets.reshape(len(inputs), self.problem.num_outputs)
        fresh = self._new_context()
        fresh.keys.fit(inputs)
        fresh.write(inputs, values)
        joined = self._joined(fresh, inputs, values)
        if joined is None:
            self.contexts.append(fresh)
            joined = len(self.contexts) - 1
        else:
            self.contexts[joined].write(inputs, values)
        self.gate.write(inputs, joined)
        yield Progress(1, 1)

    def _joined(self, fresh: Context, inputs: Tensor, values: Tensor) -> int | None:
        """Index of the context that serves the new examples as well as one of their own and does not suffer."""
        if not self.contexts:
            return None
        index = int(torch.bincount(self.gate(inputs)).argmax())
        likeliest = self.contexts[index]
        both = self._new_context()
        both.load_state_dict(likeliest.state_dict())
        both.write(inputs, values)
        new = self._new_context()
        new.keys.load_state_dict(both.keys.state_dict())
        new.write(inputs, values)
        shared = both.memory.choose_ridge().memory
        fits_new = new.memory.error_of(shared) <= fresh.memory.choose_ridge().error + NEGLIGIBLE
        fits_old = likeliest.memory.error_of(shared) <= likeliest.memory.choose_ridge().error + NEGLIGIBLE
        return index if fits_new and fits_old else None

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        """Values [N, num_outputs] of the likeliest context of each input [N, ...]."""
        if not self.contexts:
            raise InputError("strategy 'continuum' has learned nothing yet: call learn() before predict()")
        flat = self._flatten(inputs)
        answers = torch.stack([context.read(flat) for context in self.contexts])
        return answers[self.gate(flat), torch.arange(len(flat))]

    def state_dict(self) -> dict[str, Any]:
        """Sums and keys of all contexts and of the gate."""
        return {"contexts": [_clone(context) for context in self.contexts], "gate": _clone(self.gate)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.contexts = []
        for saved in state["contexts"]:
            context = self._new_context()
            context.load_state_dict(saved)
            self.contexts.append(context)
        self.gate.restore(state["gate"])

    def num_parameters(self) -> int:
        """Memory and keys of every context, weights and keys of the gate."""
        keys, gate = self._new_context().keys, self.gate.keys
        count = max(1, len(self.contexts))
        each = keys.width * self.problem.num_outputs + keys.weight.numel() + keys.bias.numel() + 2 * keys.num_inputs
        return count * (each + gate.width) + gate.weight.numel() + gate.phase.numel()

    def _new_context(self) -> Context:
        return Context(self.problem, num_features=self.num_features, seed=self.seed)

    def _flatten(self, inputs: Tensor) -> Tensor:
        if tuple(inputs.shape[1:]) != self.problem.input_shape:
            raise ShapeError(
                f"inputs: expected [N, {', '.join(map(str, self.problem.input_shape))}], got {list(inputs.shape)}"
            )
        return inputs.flatten(1).float()


def held_out_blocks(count: int) -> Tensor:
    """[count] bool: every fifth of about 25 blocks of neighbours.

    Neighbours in a recording are nearly the same example; held out one by one they would tell nothing about new ones.
    """
    size = max(1, count // NUM_BLOCKS)
    return (torch.arange(count) // size) % HELD_OUT_EVERY == 2


def _clone(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}
