"""Elastic Weight Consolidation, with one importance per task or one running importance."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.errors import InputError
from nestling.learners.gradient import GradientStrategy
from nestling.streams.base import Examples, Kind, Problem, Training

Mode = Literal["online", "per_task"]
Labels = Literal["model", "data"]
Weights = dict[str, Tensor]


class ElasticWeightConsolidation(GradientStrategy):
    """Hold every weight near its old value, the more strongly the more earlier experiences depend on it.

    per_task   penalty = strength / 2 * sum_t sum_k F_t[k] (theta[k] - theta_t[k])^2
    online     penalty = strength / 2 * sum_k F[k] (theta[k] - theta_last[k])^2,   F <- decay F + F_t

    F_t is the diagonal of the Fisher information at the end of experience t: the mean over its examples of the squared
    gradient of log p(y | x), one example at a time (language: of a row, divided by its tokens, as the loss is).

    Source: Kirkpatrick et al. 2017 (arXiv 1612.00796), eq. 3; online: Schwarz et al. 2018 (Progress & Compress,
    arXiv 1805.06370), section 4. Symbols: `strength` is lambda, `decay` is gamma there.

    Args:
        mode: "online" keeps one importance and one anchor, "per_task" one of each for every experience.
        strength: >= 0, pull towards the old weights.
        decay: in [0, 1], what is kept of earlier importance ("online" only).
        labels: y in the Fisher information. "model" draws y from the model's own prediction: the true Fisher
            information, as Kirkpatrick et al. mean it (on the difference: Kunstner et al. 2019,
            arXiv 1905.12558). "data" takes the target: the empirical Fisher, which vanishes where the model fits well.
        fisher_samples: examples drawn without repetition for F_t; all where there are fewer.
    """

    name: ClassVar[str] = "ewc"
    summary: ClassVar[str] = "hold weights that earlier experiences need (Fisher information, online or per task)"

    def __init__(
        self,
        module: nn.Module,
        problem: Problem,
        *,
        training: Training,
        seed: int,
        mode: Mode = "online",
        strength: float = 100.0,
        decay: float = 1.0,
        labels: Labels = "model",
        fisher_samples: int = 500,
        num_copies: int = 1,
    ) -> None:
        super().__init__(module, problem, training=training, seed=seed, num_copies=num_copies)
        _check_options(mode, strength, decay, labels, fisher_samples)
        self.mode = mode
        self.strength = strength
        self.decay = decay
        self.labels = labels
        self.fisher_samples = fisher_samples
        self.importances: list[Weights] = []
        self.anchors: list[Weights] = []

    def penalty(self, batch: Examples, outputs: Tensor) -> Tensor | None:  # noqa: ARG002
        """The quadratic pull towards the anchors, None before the first experience has ended."""
        if not self.importances:
            return None
        weights = self._weights()
        pull = torch.zeros((), device=self.device)
        for importance, anchor in zip(self.importances, self.anchors, strict=True):
            for name, weight in weights.items():
                pull = pull + (importance[name] * (weight - anchor[name]) ** 2).sum()
        return self.strength / 2 * pull

    def end(self, train: Examples) -> None:
        """Measure the importance of every weight and remember where it stands."""
        fresh = self.fisher(train)
        anchor = {name: weight.detach().clone() for name, weight in self._weights().items()}
        if self.mode == "online":
            if self.importances:
                fresh = {name: self.decay * self.importances[0][name] + value for name, value in fresh.items()}
            self.importances, self.anchors = [fresh], [anchor]
        else:
            self.importances.append(fresh)
            self.anchors.append(anchor)

    def fisher(self, train: Examples) -> Weights:
        """Diagonal Fisher information of every trainable weight at the present weights, module in evaluation mode."""
        chosen = torch.randperm(len(train), generator=self.generator)[: self.fisher_samples]
        weights = self._weights()
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        was_training = self.module.training
        self.module.eval()
        for index in chosen.split(1):
            one = train.subset(index)
            outputs = self.module(one.inputs.to(self.device))
            targets = one.targets if self.labels == "data" else draw_targets(self.problem.kind, outputs, self.generator)
            surprise = negative_log_likelihood(self.problem.kind, outputs, targets.to(self.device))
            gradients = torch.autograd.grad(surprise, list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient**2
        self.module.train(was_training)
        predictions = len(chosen) * (train.targets.shape[1] if self.problem.kind == "language" else 1)
        return {name: value / predictions for name, value in total.items()}

    def state_dict(self) -> dict[str, Any]:
        """Also importances and anchors."""
        kept = {
            "importances": [dict(part) for part in self.importances],
            "anchors": [dict(part) for part in self.anchors],
        }
        return {**super().state_dict(), **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.importances = [_on_device(part, self.device) for part in state["importances"]]
        self.anchors = [_on_device(part, self.device) for part in state["anchors"]]

    def _weights(self) -> Weights:
        return {name: weight for name, weight in self.module.named_parameters() if weight.requires_grad}


def negative_log_likelihood(kind: Kind, outputs: Tensor, targets: Tensor) -> Tensor:
    """-log p(targets | outputs), summed over rows and tokens; regression: Gaussian of variance 1, up to a constant."""
    if kind == "regression":
        return ((outputs - targets) ** 2).sum() / 2
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="sum")


def draw_targets(kind: Kind, outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Targets drawn from the model's own prediction: a class (token) each, or output plus unit Gaussian noise."""
    known = outputs.detach().cpu()
    if kind == "regression":
        return known + torch.randn(known.shape, generator=generator)
    rows = torch.multinomial(known.flatten(0, -2).float().softmax(dim=-1), 1, generator=generator)
    return rows.reshape(known.shape[:-1])


def _on_device(weights: Weights, device: torch.device) -> Weights:
    return {name: value.to(device) for name, value in weights.items()}


def _check_options(mode: str, strength: float, decay: float, labels: str, fisher_samples: int) -> None:
    if mode not in get_args(Mode):
        raise InputError(f"expected mode to be one of {', '.join(get_args(Mode))}, got {mode!r}")
    if labels not in get_args(Labels):
        raise InputError(f"expected labels to be one of {', '.join(get_args(Labels))}, got {labels!r}")
    if not strength >= 0:
        raise InputError(f"expected strength >= 0, got {strength}")
    if not 0 <= decay <= 1:
        raise InputError(f"expected decay between 0 (forget earlier importance) and 1 (keep it), got {decay}")
    if fisher_samples < 1:
        raise InputError(f"expected fisher_samples >= 1, got {fisher_samples}")
