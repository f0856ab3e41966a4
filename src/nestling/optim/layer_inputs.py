"""Watching the layers of a module: the keys each of them read, for the samples whose gradient came back."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nestling.errors import InputError
from nestling.optim.layer_maps import LayerMap, is_embedding, is_linear_map

__all__ = ["LayerInputs", "WatchedLayer"]


class WatchedLayer:
    """One layer and the inputs gathered for the next step.

    A forward pass under autograd leaves its input at the output; the input is taken up when the output's gradient
    arrives, so passes without a backward pass leave nothing. In a compiled model the weight's gradient
    takes it up.
    """

    def __init__(self, layer: LayerMap) -> None:
        self.layer = layer
        self.gathered: list[Tensor] = []
        self.pending: list[Tensor] = []
        self.recording = False

    def see(self, inputs: Tensor, output: Any) -> None:
        """Called after every forward pass of the layer."""
        if self.recording:
            self.gathered.append(self.layer.keys(inputs.detach()))
        elif torch.is_grad_enabled() and self.layer.weight.requires_grad and isinstance(output, Tensor):
            seen = inputs.detach()
            if torch.compiler.is_compiling():
                self.pending.append(seen)
            elif output.requires_grad:
                output.register_hook(lambda _: self.gathered.append(self.layer.keys(seen)))

    def take_up(self, _: Tensor) -> None:
        """Called when the weight's gradient is complete."""
        if self.pending:
            self.gathered += [self.layer.keys(seen) for seen in self.pending]
            self.pending.clear()

    def keys(self) -> Tensor | None:
        """All keys since the last step: [G, n, K], for an embedding counts [rows]; None when there are none."""
        if not self.gathered:
            return None
        home = self.layer.weight.device
        parts = [part.to(home) for part in self.gathered]
        if is_embedding(self.layer.module):
            return torch.stack(parts).sum(0)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def clear(self) -> None:
        """Forget what was gathered."""
        self.gathered.clear()
        self.pending.clear()


class _Hook:
    """The forward hook of a layer. Copies of the module, and pickles, are not watched."""

    def __init__(self, watched: WatchedLayer | None = None) -> None:
        self.watched = watched

    def __call__(self, _module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        if self.watched is not None:
            self.watched.see(arguments[0] if arguments else keywords["input"], output)

    def __deepcopy__(self, _: Any) -> _Hook:
        return _Hook()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, ()


class LayerInputs:
    """All watched layers of a module: the linear maps whose weight is among the given parameters.

    A weight that several layers share is one memory with the inputs of all of them; shared between an embedding and a
    linear layer, only the linear layer is watched, since their keys differ. The hooks go when this object goes.

    Args:
        module: its layers are watched. Build this before torch.compile first runs the module.
        params: the parameters of the optimizer.

    Raises:
        InputError: not a module, or none of its linear maps has its weight among the parameters.
    """

    def __init__(self, module: nn.Module, params: Iterable[Tensor]) -> None:
        if not isinstance(module, nn.Module):
            raise InputError(f"module: expected the nn.Module of the parameters, got {type(module).__name__}")
        owned = {id(p) for p in params}
        self.layers: dict[int, WatchedLayer] = {}
        self._handles: list[Any] = []
        found = [(name, part) for name, part in module.named_modules() if is_linear_map(part)]
        for name, part in sorted(found, key=lambda item: is_embedding(item[1])):
            if id(part.weight) in owned:
                self._watch(name, part, owned)
        if not self.layers:
            raise InputError(
                "params: expected the weight of at least one linear map (Linear, Conv1d, Conv2d, Embedding, Conv1D) of "
                "the module, got none: give the module whose parameters are trained"
            )
        weakref.finalize(self, _remove, self._handles)

    def __iter__(self) -> Any:
        return iter(self.layers.values())

    def remove(self) -> None:
        """Stop watching."""
        _remove(self._handles)
        self.clear()

    def clear(self) -> None:
        """Forget what was gathered, and passes whose gradient has not come."""
        for watched in self:
            watched.clear()

    def clear_gathered(self) -> None:
        """Forget what was gathered, and wait on for gradients."""
        for watched in self:
            watched.gathered.clear()

    def record(self, on: bool) -> None:
        """Whether every forward pass counts, with or without gradients."""
        for watched in self:
            watched.recording = on

    def _watch(self, name: str, part: nn.Module, owned: set[int]) -> None:
        weight: Any = part.weight
        key = id(weight)
        if key in self.layers:
            first = self.layers[key].layer.module
            if is_embedding(part) != is_embedding(first):
                return
        else:
            bias = getattr(part, "bias", None)
            layer = LayerMap(name=name, module=part, has_bias=bias is not None and id(bias) in owned)
            self.layers[key] = WatchedLayer(layer)
            hook = self.layers[key].take_up
            self._handles.append(weight.register_post_accumulate_grad_hook(hook))
        self._handles.append(part.register_forward_hook(_Hook(self.layers[key]), with_kwargs=True))


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()
