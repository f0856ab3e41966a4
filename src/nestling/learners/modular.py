"""A network per task, chosen at test time from the input alone."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nestling.learners.gradient import GradientStrategy, clone_state, load_module
from nestling.learners.task_density import TaskDensity, fit_density
from nestling.streams.base import Examples, Problem, Training

PREDICT_BATCH = 32


class Modular(GradientStrategy):
    """Train a fresh copy of the initial module on every experience; ask the one whose task the input looks like.

    classification  log p(y | x) = logsumexp_t( log p(t | x) + log p_t(y | x) ),   p(t | x) ~ p(x | t)
    regression      output of the network with the greatest p(x | t)
    language        log p(y | x_0..x_l) = logsumexp_t( log p(t | x_0..x_l) + log p_t(y | x_0..x_l) ),
                    p(t | x_0..x_l) ~ prod_{i < l} p_t(x_{i+1} | x_0..x_i)

    p(x | t) are Gaussians with a shrunk covariance on the inputs (`task_density`), for classes one mean each; a text
    is judged by how well each network has predicted it so far. Which task it is, is never told. Nothing is stored,
    and nothing is shared: parameters grow with the number of tasks.

    Source: a network per task behind a selector that is learned without task labels: Aljundi et al. 2017, Expert Gate
    (arXiv 1611.06194), with Gaussians in place of autoencoders.
    """

    name: ClassVar[str] = "modular"
    summary: ClassVar[str] = "a network per task, chosen at test time by which task the input looks like"

    def __init__(
        self, module: nn.Module, problem: Problem, *, training: Training, seed: int, num_copies: int = 1
    ) -> None:
        super().__init__(module, problem, training=training, seed=seed, num_copies=num_copies)
        self.networks: list[dict[str, Tensor]] = []
        self.densities: list[TaskDensity] = []
        self.initial: dict[str, Tensor] | None = None

    def begin(self, train: Examples) -> None:  # noqa: ARG002
        """Remember the initial weights, which the module holds between experiences."""
        self.initial = clone_state(self.module)

    def end(self, train: Examples) -> None:
        """Put the trained network aside, describe its task, and go back to the initial weights."""
        assert self.initial is not None
        self.networks.append(clone_state(self.module))
        if self.problem.kind != "language":
            labels = train.targets if self.problem.kind == "classification" else None
            self.densities.append(fit_density(train.inputs, labels))
        load_module(self.module, self.initial)
        self.initial = None

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        """Combined outputs, see the class; those of the initial module before anything was learned."""
        if not self.networks:
            return super().predict(inputs)
        was_training = self.module.training
        self.module.eval()
        try:
            parts = [self._combine(part.to(self.device)).to(inputs.device) for part in inputs.split(PREDICT_BATCH)]
        finally:
            self.module.train(was_training)
        return torch.cat(parts)

    def task_log_likelihood(self, inputs: Tensor) -> Tensor:
        """log p(x | t) [T, N] for inputs [N, ...]; not for language."""
        return torch.stack([density.log_density(inputs.cpu()) for density in self.densities]).to(self.device)

    def num_parameters(self) -> int:
        """Weights of all networks and the densities that choose among them."""
        networks = max(1, len(self.networks)) * super().num_parameters()
        return networks + sum(tensor.numel() for part in self.densities for tensor in part.state().values())

    def state_dict(self) -> dict[str, Any]:
        """Also the finished networks, their densities and, within an experience, the initial weights."""
        return {
            **super().state_dict(),
            "networks": [dict(weights) for weights in self.networks],
            "densities": [density.state() for density in self.densities],
            "initial": None if self.initial is None else dict(self.initial),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.networks = [_on_device(weights, self.device) for weights in state["networks"]]
        self.densities = [TaskDensity(**density) for density in state["densities"]]
        self.initial = None if state["initial"] is None else _on_device(state["initial"], self.device)

    def _combine(self, inputs: Tensor) -> Tensor:
        outputs = torch.stack([functional_call(self.module, weights, (inputs,)) for weights in self.networks])
        if self.problem.kind == "language":
            return mixture_over_tokens(outputs, inputs)
        likelihood = self.task_log_likelihood(inputs)
        if self.problem.kind == "regression":
            return outputs[likelihood.argmax(dim=0), torch.arange(len(inputs), device=outputs.device)]
        belief = likelihood.log_softmax(dim=0).unsqueeze(-1)
        return (belief + outputs.log_softmax(dim=-1)).logsumexp(dim=0)


def mixture_over_tokens(outputs: Tensor, tokens: Tensor) -> Tensor:
    """Next-token log probabilities of a mixture whose weights follow from the tokens read so far.

    Args:
        outputs: [T, N, L, V] logits of every network.
        tokens: [N, L] int64, the input; at position l the tokens 0..l are known.

    Returns: [N, L, V] log probabilities.
    """
    log_p = outputs.log_softmax(dim=-1)
    following = tokens[:, 1:].expand(len(outputs), -1, -1).unsqueeze(-1)
    hit = log_p[:, :, :-1].gather(-1, following).squeeze(-1)
    evidence = torch.cat([torch.zeros_like(log_p[:, :, :1, 0]), hit.cumsum(dim=-1)], dim=-1)
    return (evidence.log_softmax(dim=0).unsqueeze(-1) + log_p).logsumexp(dim=0)


def _on_device(weights: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in weights.items()}
