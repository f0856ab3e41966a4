"""Recursive Delta Gradient Descent: one network whose steps leave the answers to earlier inputs alone."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from nestling.learners.gradient import GradientStrategy
from nestling.optim.input_memory import InputMemory
from nestling.streams.base import Examples, Problem, Training

REMEMBER_BATCH = 256


class RecursiveDGD(GradientStrategy):
    """Steps W <- W - lr G P, P the inverse covariance of the inputs of all earlier experiences.

    Steps are SGD with momentum: elementwise scaling (Adam) makes steps of one size whatever is free, and learned worse.

    Source: NL 4.3, eq. 45 and 54-57; OWM, Zeng et al. 2019.

    Args:
        lr: > 0, of SGD.
        momentum: in [0, 1).
        ridge: > 0, mean square of an input direction at which half of a step along it is still taken.
    """

    name: ClassVar[str] = "recursive-dgd"
    summary: ClassVar[str] = "ours, gradient only: steps that leave the answers to earlier inputs alone; nothing stored"

    def __init__(
        self,
        module: nn.Module,
        problem: Problem,
        *,
        training: Training,
        seed: int,
        lr: float = 0.3,
        momentum: float = 0.0,
        ridge: float = 1e-2,
    ) -> None:
        super().__init__(module, problem, training=training, seed=seed)
        self.lr, self.momentum = lr, momentum
        self.memory = InputMemory(module, ridge=ridge)

    def end(self, train: Examples) -> None:
        """Remember the inputs of this experience at every linear map."""
        was_training = self.module.training
        self.module.eval()
        self.memory.remember(train.inputs.to(self.device).split(REMEMBER_BATCH))
        self.module.train(was_training)

    def state_dict(self) -> dict[str, Any]:
        """Also the input memory."""
        return {**super().state_dict(), "inputs": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.memory.load_state_dict(state["inputs"])

    def _fresh_optimizer(self) -> torch.optim.Optimizer:
        parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum)
        self.memory.guard(optimizer)
        return optimizer
