"""The memory of recursive Delta Gradient Descent: which inputs every linear map must go on answering as before."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nestling.errors import CheckpointError, InputError


class InputMemory:
    """The inverse input covariance P of every linear map, by which its updates are multiplied.

    P <- ridge (ridge I + C)^-1,   C = sum over experiences of the mean of x x^T,   x with a constant 1 for the bias
    dW <- dW P                     so that a step changes no answer to inputs that C knows well

    At the start C = 0 and P = I: the optimizer as it is. A direction whose mean square is far above `ridge` is kept,
    one far below stays free. Parameters outside the linear maps are free during the first experience and frozen
    afterwards, since nothing protects them.

    Source: NL 4.3 (eq. 45) and 54-57 with P in place of one sample; OWM, Zeng et al. 2019.
    Args:
        module: with at least one `nn.Linear`.   ridge: > 0, in units of the squared inputs.
    Raises: InputError for a module without a linear map or a ridge that is not positive.
    """

    def __init__(self, module: nn.Module, *, ridge: float) -> None:
        if not ridge > 0:
            raise InputError(f"expected ridge > 0, got {ridge}")
        self.module, self.ridge = module, ridge
        self.linears = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
        if not self.linears:
            raise InputError("expected a module with at least one nn.Linear: there is no input memory for other layers")
        self.covariance: dict[str, Tensor] = {
            name: torch.zeros(2 * (linear.in_features + 1,), dtype=torch.float64)
            for name, linear in self.linears.items()
        }
        self.projection: dict[str, Tensor] = {}
        guarded = {id(p) for linear in self.linears.values() for p in linear.parameters()}
        self.unguarded = [p for p in module.parameters() if id(p) not in guarded]

    @torch.no_grad()
    def remember(self, batches: tuple[Tensor, ...]) -> None:
        """Add the inputs that every linear map sees while the module answers `batches`, each [N, ...]."""
        sums = {name: torch.zeros_like(value) for name, value in self.covariance.items()}
        counts = dict.fromkeys(self.linears, 0)

        def record(name: str, _module: nn.Module, arguments: tuple[Any, ...]) -> None:
            inputs = with_constant(arguments[0].flatten(0, -2)).double()
            sums[name].addmm_(inputs.T, inputs)
            counts[name] += len(inputs)

        handles = [part.register_forward_pre_hook(partial(record, name)) for name, part in self.linears.items()]
        try:
            for batch in batches:
                self.module(batch)
        finally:
            for handle in handles:
                handle.remove()
        for name, total in sums.items():
            self.covariance[name] += total / max(counts[name], 1)
        self._refresh()

    def guard(self, optimizer: torch.optim.Optimizer) -> None:
        """From now on every step of `optimizer` on the module keeps only its part in the free directions.

        G <- G P,   W <- W_before + (W_after - W_before) P

        The gradient is multiplied so that an adaptive optimizer scales its steps by the free part alone; the update is
        multiplied again because elementwise scaling turns part of it back into protected directions.
        """
        before: list[Tensor] = []

        def remember_weights(*_: Any) -> None:
            before[:] = [parameter.detach().clone() for parameter in self.module.parameters()]
            for name, linear in self.linears.items() if self.projection else ():
                self._project_gradient(name, linear)

        @torch.no_grad()
        def project(*_: Any) -> None:
            if not self.projection:
                return
            old = {id(p): value for p, value in zip(self.module.parameters(), before, strict=True)}
            for name, linear in self.linears.items():
                self._project(name, linear, old)
            for parameter in self.unguarded:
                parameter.copy_(old[id(parameter)])

        optimizer.register_step_pre_hook(remember_weights)
        optimizer.register_step_post_hook(project)

    @torch.no_grad()
    def _project_gradient(self, name: str, linear: nn.Linear) -> None:
        gradient = linear.weight.grad
        if gradient is None:
            return
        bias = torch.zeros_like(gradient[:, 0]) if linear.bias is None else linear.bias.grad
        assert bias is not None
        free = torch.cat([gradient, bias[:, None]], dim=1) @ self.projection[name].to(gradient)
        gradient.copy_(free[:, :-1])
        if linear.bias is not None:
            bias.copy_(free[:, -1])

    def _project(self, name: str, linear: nn.Linear, old: dict[int, Tensor]) -> None:
        weight = linear.weight
        change = weight - old[id(weight)]
        bias_change = (
            torch.zeros_like(change[:, :1]) if linear.bias is None else (linear.bias - old[id(linear.bias)])[:, None]
        )
        free = torch.cat([change, bias_change], dim=1) @ self.projection[name].to(change)
        weight.copy_(old[id(weight)] + free[:, :-1])
        if linear.bias is not None:
            linear.bias.copy_(old[id(linear.bias)] + free[:, -1])

    def state_dict(self) -> dict[str, Tensor]:
        """The covariances."""
        return {name: value.clone() for name, value in self.covariance.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        shapes = {name: value.shape for name, value in self.covariance.items()}
        if {name: value.shape for name, value in state.items()} != shapes:
            raise CheckpointError("the saved input memory belongs to another module: build the same module again")
        self.covariance = {name: value.clone() for name, value in state.items()}
        self.projection = {}
        if any(bool(value.any()) for value in self.covariance.values()):
            self._refresh()

    def _refresh(self) -> None:
        for name, covariance in self.covariance.items():
            regularized = covariance + self.ridge * torch.eye(len(covariance), dtype=torch.float64)
            self.projection[name] = (self.ridge * torch.linalg.inv(regularized)).float()


def with_constant(inputs: Tensor) -> Tensor:
    """[N, D] -> [N, D + 1], the last column 1."""
    return nn.functional.pad(inputs, (0, 1), value=1.0)
