"""The one training loop that all strategies share which learn by gradient descent on a module."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.errors import CheckpointError, InputError
from nestling.learners.base import Progress, Strategy, seeded_generator
from nestling.learners.copies import average_of_copies
from nestling.streams.base import Examples, Kind, Problem, Training

PREDICT_BATCH = 256


class Position(NamedTuple):
    """Where learning stands within one experience: which examples, and how many of how many epochs are done."""

    fingerprint: str
    epoch: int
    epochs: int


def loss_of(kind: Kind, outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean loss of a batch.

    classification: -log softmax(outputs)[target]         outputs [N, C], targets [N]
    regression:     (outputs - targets)^2 per component   outputs [N, D], targets [N, D]
    language:       as classification, for every token    outputs [N, L, V], targets [N, L]

    Returns: a scalar.
    """
    if kind == "regression":
        return functional.mse_loss(outputs, targets)
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def fingerprint(train: Examples) -> str:
    """SHA-256 of the examples, by which a resumed strategy knows that it is given the same ones again."""
    digest = hashlib.sha256()
    for tensor in (train.inputs, train.targets):
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def clone_state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's state that later training does not change."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def load_module(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Put `state` into `module`; CheckpointError when it belongs to another architecture."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the saved weights do not fit this module, build the same one again: {reason}") from None


class GradientStrategy(Strategy):
    """AdamW on minibatches, one experience after another; the optimizer starts afresh with every experience.

    Every epoch is a safe point: everything random in it (order of the examples, dropout) derives from the
    generator in the state, and torch's global generator is left as it was.

    Subclasses change one or more hooks, called in this order; what a hook changes must be in `state_dict`:
        begin(train)            once per experience, before the first step
        material(train)         the examples to train on
        extend(batch)           a batch with others mixed in
        penalty(batch, outputs) a term added to the loss, or None
        end(train)              once per experience, after the last step

    Args:
        num_copies: >= 1. Above 1 an average of that many copies of the module, with initial weights of their own,
            takes its place (`copies`): a control with more parameters.
    """

    def __init__(
        self, module: nn.Module, problem: Problem, *, training: Training, seed: int, num_copies: int = 1
    ) -> None:
        super().__init__(average_of_copies(module, num_copies, seed), problem, training=training, seed=seed)
        self.num_copies = num_copies
        self.generator = seeded_generator(seed)
        self.optimizer: torch.optim.Optimizer | None = None
        self.position: Position | None = None

    @property
    def device(self) -> torch.device:
        """Where the module's parameters live."""
        return next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))

    def begin(self, train: Examples) -> None:
        """Prepare for one experience."""

    def material(self, train: Examples) -> Examples:
        """The examples to train on: those of this experience."""
        return train

    def extend(self, batch: Examples) -> Examples:
        """A batch with others mixed in: here, the batch itself."""
        return batch

    def penalty(self, batch: Examples, outputs: Tensor) -> Tensor | None:  # noqa: ARG002
        """A scalar added to the loss, or None."""
        return None

    def end(self, train: Examples) -> None:
        """Finish one experience."""

    def learn(self, train: Examples) -> Iterator[Progress]:
        """Learn one experience, see `Strategy.learn`.

        Raises:
            InputError: no examples, or the loss is not finite.
            CheckpointError: another experience was interrupted and has not been finished.
        """
        mark = _checked_mark(train)
        position = self._resumed(mark) or self._opened(train, mark)
        data = self.material(train)
        epochs = self._num_epochs(len(data))
        if position.epoch == epochs:
            yield Progress(epochs, epochs)
        for epoch in range(position.epoch, epochs):
            self._run_epoch(data, epoch)
            if epoch + 1 == epochs:
                self.end(train)
                self.optimizer = None
            self.position = Position(mark, epoch + 1, epochs)
            yield Progress(epoch + 1, epochs)
        self.position = None

    def predict(self, inputs: Tensor) -> Tensor:
        """Outputs of the module in evaluation mode, in batches."""
        return predict_with(self.module, inputs, self.device)

    def state_dict(self) -> dict[str, Any]:
        """Weights, generator, optimizer and position."""
        return {
            "module": clone_state(self.module),
            "generator": self.generator.get_state(),
            "optimizer": None if self.optimizer is None else _clone(self.optimizer.state_dict()),
            "position": None if self.position is None else list(self.position),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        load_module(self.module, state["module"])
        self.generator.set_state(state["generator"])
        self.optimizer = None
        if state["optimizer"] is not None:
            optimizer = self._fresh_optimizer()
            optimizer.load_state_dict(_clone(state["optimizer"]))
            self.optimizer = optimizer
        self.position = None if state["position"] is None else Position(*state["position"])

    def _resumed(self, mark: str) -> Position | None:
        """The position to go on from, None when a new experience begins."""
        position = self.position
        if position is None or position.fingerprint == mark:
            return position
        if position.epoch < position.epochs:
            raise CheckpointError(
                f"learning was interrupted after {position.epoch} of {position.epochs} epochs of other examples: "
                "give the same examples again to finish that experience, or start with a fresh strategy"
            )
        return None

    def _opened(self, train: Examples, mark: str) -> Position:
        self.position = None
        self.begin(train)
        self.optimizer = self._fresh_optimizer()
        return Position(mark, 0, 0)

    def _fresh_optimizer(self) -> torch.optim.Optimizer:
        parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        if not parameters:
            raise InputError("the module has no parameters that require a gradient: nothing can be trained")
        return torch.optim.AdamW(parameters, lr=self.training.lr, weight_decay=self.training.weight_decay, fused=True)

    def _num_epochs(self, count: int) -> int:
        steps = math.ceil(count / self.training.batch_size)
        return max(self.training.epochs, math.ceil(self.training.min_steps / steps), 1)

    def _run_epoch(self, data: Examples, epoch: int) -> None:
        order = torch.randperm(len(data), generator=self.generator)
        noise_seed = int(torch.randint(2**62, (), generator=self.generator))
        was_training = self.module.training
        self.module.train()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(noise_seed)
            for index in order.split(self.training.batch_size):
                self._step(self.extend(data.subset(index)), epoch)
        self.module.train(was_training)

    def _step(self, batch: Examples, epoch: int) -> None:
        assert self.optimizer is not None
        batch = Examples(inputs=batch.inputs.to(self.device), targets=batch.targets.to(self.device))
        outputs = self.module(batch.inputs)
        loss = loss_of(self.problem.kind, outputs, batch.targets)
        extra = self.penalty(batch, outputs)
        if extra is not None:
            loss = loss + extra
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss became {loss.item()} in epoch {epoch + 1}: expected a finite number; "
                f"look for NaN or huge values in the inputs, or lower the learning rate ({self.training.lr})"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def predict_with(module: nn.Module, inputs: Tensor, device: torch.device) -> Tensor:
    """Outputs [N, ...] of `module` in evaluation mode for inputs [N, ...]; the module's mode is left as it was."""
    was_training = module.training
    module.eval()
    try:
        parts = [module(part.to(device)).to(inputs.device) for part in inputs.split(PREDICT_BATCH)]
    finally:
        module.train(was_training)
    return torch.cat(parts)


def _checked_mark(train: Examples) -> str:
    if not len(train):
        raise InputError("expected at least one example to learn from, got none")
    return fingerprint(train)


def _clone(state: Any) -> Any:
    """A copy of nested dicts and lists in which every tensor is a copy too."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: _clone(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_clone(value) for value in state)
    return state
