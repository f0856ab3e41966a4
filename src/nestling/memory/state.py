"""What a memory carries from call to call: a small frozen record of tensors, one entry per batch row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from nestling.errors import CheckpointError

Weights = tuple[Tensor, ...]


@dataclass(frozen=True)
class State:
    """Base of all memory states. Every tensor has the batch row as its first axis."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The state with `function` applied to every tensor."""
        changed: dict[str, Any] = {}
        for name, part in self._parts():
            changed[name] = function(part) if isinstance(part, Tensor) else tuple(function(tensor) for tensor in part)
        return replace(self, **changed)

    def to(self, device: torch.device | str) -> Self:
        """The state on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def detach(self) -> Self:
        """The state without its gradient history, for truncated backpropagation."""
        return self.map(Tensor.detach)

    def state_dict(self) -> dict[str, Tensor]:
        """Flat names and tensors, for safetensors or torch.save."""
        flat: dict[str, Tensor] = {}
        for name, part in self._parts():
            if isinstance(part, Tensor):
                flat[name] = part.detach().contiguous()
            else:
                flat.update({f"{name}.{i}": tensor.detach().contiguous() for i, tensor in enumerate(part)})
        return flat

    @classmethod
    def from_state_dict(cls, flat: Mapping[str, Tensor]) -> Self:
        """The state that `state_dict` described.

        Raises:
            CheckpointError: names that this kind of state does not have.
        """
        known = {field.name for field in fields(cls)}
        groups: dict[str, Any] = {}
        for name in sorted(flat, key=_order):
            root, _, index = name.partition(".")
            if root not in known:
                raise CheckpointError(f"{cls.__name__}: unknown entry {name!r}: expected {', '.join(sorted(known))}")
            groups[root] = (*groups.get(root, ()), flat[name]) if index else flat[name]
        try:
            return cls(**groups)
        except TypeError as error:
            raise CheckpointError(f"{cls.__name__}: the saved state is incomplete: {error}") from error

    def where(self, rows: Tensor, other: Self) -> Self:
        """State with the rows [B] bool taken from `other`, which has the same shapes."""

        def chosen(mine: Tensor, theirs: Tensor) -> Tensor:
            mask = rows.to(mine.device).view(-1, *[1] * (mine.ndim - 1))
            return torch.where(mask, theirs.to(mine.device), mine)

        changed: dict[str, Any] = {}
        for name, part in self._parts():
            mate = getattr(other, name)
            changed[name] = chosen(part, mate) if isinstance(part, Tensor) else tuple(map(chosen, part, mate))
        return replace(self, **changed)

    @property
    def num_rows(self) -> int:
        """Batch rows B."""
        _, part = self._parts()[0]
        return (part if isinstance(part, Tensor) else part[0]).shape[0]

    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state_dict().values())

    def _parts(self) -> list[tuple[str, Any]]:
        named = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, part) for name, part in named if part is not None]


def _order(name: str) -> tuple[str, int]:
    root, _, index = name.partition(".")
    return root, int(index) if index.isdigit() else 0


@dataclass(frozen=True)
class WeightState(State):
    """State of a memory that is a tuple of linear maps.

    memory:   L weights [B, H, out, in], float32 or float64.
    anchor:   the same at the end of the last full chunk; empty for rules with an exact parallel form.
    surprise: momentum accumulator in the same shapes, or empty.
    position: [B] int64, tokens since the anchor; None for rules with an exact parallel form.
    window:   for rules that look back: keys [B, H, W - 1, K] and values [B, H, W - 1, V], oldest first; or empty.
    tail:     [B, W - 1, 3 H K], what a convolution on q, k and v saw last; None without one.
    """

    memory: Weights
    anchor: Weights = ()
    surprise: Weights = ()
    position: Tensor | None = None
    window: Weights = ()
    tail: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """Batch rows B."""
        return self.memory[0].shape[0]


@dataclass(frozen=True)
class PairState(State):
    """State of the non-parametric memory.

    key:   [B, H, P, K] the last P pairs, oldest first.
    value: [B, H, P, V].
    known: [B, P] bool, False for places that a row has not used yet.
    """

    key: Tensor
    value: Tensor
    known: Tensor
