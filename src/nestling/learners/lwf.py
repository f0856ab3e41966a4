"""Learning without Forgetting: the old model teaches the new one on the new inputs."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.errors import InputError
from nestling.learners.gradient import GradientStrategy, clone_state, load_module
from nestling.streams.base import Examples, Problem, Training


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL( softmax(teacher / T) || softmax(student / T) ), mean over rows.

    Source: Hinton et al. 2015 (arXiv 1503.02531), whose T^2 keeps the size of the gradient; its gradient is that of
    the modified cross entropy of Li & Hoiem 2016, eq. 3, times T^2.

    Args:
        student: [..., C] logits.
        teacher: [..., C] logits.
        temperature: T > 0, flattens both.
    """
    log_p = (teacher / temperature).log_softmax(dim=-1).flatten(0, -2)
    log_q = (student / temperature).log_softmax(dim=-1).flatten(0, -2)
    return temperature**2 * functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


class LearningWithoutForgetting(GradientStrategy):
    """On the inputs of the new experience, keep answering as the model did before it.

    classification  loss + strength * distillation over the classes of earlier experiences
    language        loss + strength * distillation over all tokens
    regression      loss + strength * mean (output - old output)^2

    Source: Li & Hoiem 2016 (arXiv 1606.09282), eq. 2-4, there with one head per task; here one head is shared, and
    classes never seen are left out of the distillation, so that the old model does not forbid new ones.

    Args:
        strength: >= 0, weight of the old answers (lambda_o there).
        temperature: > 0, T of the distillation.
    """

    name: ClassVar[str] = "lwf"
    summary: ClassVar[str] = "learning without forgetting: distil the old model's answers on the new inputs"

    def __init__(
        self,
        module: nn.Module,
        problem: Problem,
        *,
        training: Training,
        seed: int,
        strength: float = 1.0,
        temperature: float = 2.0,
        num_copies: int = 1,
    ) -> None:
        if not strength >= 0 or not temperature > 0:
            raise InputError(f"expected strength >= 0 and temperature > 0, got {strength} and {temperature}")
        super().__init__(module, problem, training=training, seed=seed, num_copies=num_copies)
        self.strength = strength
        self.temperature = temperature
        self.known_classes: list[int] = []
        self.num_experiences = 0
        self.teacher: nn.Module | None = None

    def begin(self, train: Examples) -> None:  # noqa: ARG002
        """Freeze a copy of the model as it is before the experience."""
        self.teacher = self._frozen(clone_state(self.module)) if self.num_experiences else None

    def penalty(self, batch: Examples, outputs: Tensor) -> Tensor | None:
        """Distance to the old answers, None in the first experience."""
        if self.teacher is None:
            return None
        with torch.no_grad():
            old = self.teacher(batch.inputs)
        if self.problem.kind == "regression":
            return self.strength * functional.mse_loss(outputs, old)
        if self.problem.kind == "classification":
            outputs, old = outputs[:, self.known_classes], old[:, self.known_classes]
        return self.strength * distillation_loss(outputs, old, self.temperature)

    def end(self, train: Examples) -> None:
        """Let the old model go and remember which classes are known now."""
        self.teacher = None
        self.num_experiences += 1
        if self.problem.kind == "classification":
            self.known_classes = sorted({*self.known_classes, *train.targets.unique().tolist()})

    def state_dict(self) -> dict[str, Any]:
        """Also the known classes and, within an experience, the old weights."""
        teacher = None if self.teacher is None else clone_state(self.teacher)
        kept = {"known_classes": list(self.known_classes), "num_experiences": self.num_experiences, "teacher": teacher}
        return {**super().state_dict(), **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.known_classes = list(state["known_classes"])
        self.num_experiences = state["num_experiences"]
        self.teacher = None if state["teacher"] is None else self._frozen(state["teacher"])

    def _frozen(self, weights: dict[str, Tensor]) -> nn.Module:
        teacher = copy.deepcopy(self.module)
        load_module(teacher, weights)
        return teacher.eval().requires_grad_(requires_grad=False)
