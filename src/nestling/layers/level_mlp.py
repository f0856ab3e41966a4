"""One level of a continuum memory: a Transformer MLP whose weights may have moved differently in every batch row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nestling.errors import InputError
from nestling.memory.state import Weights
from nestling.ops.activations import activation_named

__all__ = ["LevelMLP", "Pass"]


@dataclass(frozen=True)
class Pass:
    """What one forward pass leaves for the gradient; [B, T, ...].

    inputs: x.   slow: W x of the first maps.   below: (W + delta) x.   hidden: input of the last map.   answer: y.
    """

    inputs: Tensor
    slow: Weights
    below: Weights
    hidden: Tensor
    answer: Tensor

    def behind(self, before: Pass) -> Pass:
        """The pass of the tokens one place earlier: `before` is the pass of the one token in front of this one."""

        def shifted(first: Tensor, rest: Tensor) -> Tensor:
            return torch.cat([first, rest[:, :-1]], dim=1)

        return Pass(
            shifted(before.inputs, self.inputs),
            tuple(map(shifted, before.slow, self.slow)),
            tuple(map(shifted, before.below, self.below)),
            shifted(before.hidden, self.hidden),
            shifted(before.answer, self.answer),
        )

    def detach(self) -> Pass:
        """The pass without its gradient history."""
        slow, below = (tuple(part.detach() for part in parts) for parts in (self.slow, self.below))
        return Pass(self.inputs.detach(), slow, below, self.hidden.detach(), self.answer.detach())


class LevelMLP(nn.Module):
    """The MLP of a Transformer block.

    gated   y = W_down (sigma(W_gate x) * W_up x)
    plain   y = W_down sigma(W_up x)

    Source: NL eq. 70 with k = 1; gated as in Llama. No biases.

    Args:
        dim: width D of the tokens.
        hidden: width F between the maps, >= 1.
        activation: a name of ops.activations.
        gated: whether there is W_gate.
    """

    def __init__(self, *, dim: int, hidden: int, activation: str = "silu", gated: bool = True) -> None:
        super().__init__()
        if hidden < 1:
            raise InputError(f"hidden: expected a width >= 1, got {hidden}")
        self.activation = activation_named(activation)
        self.gate = nn.Linear(dim, hidden, bias=False) if gated else None
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    @property
    def maps(self) -> tuple[nn.Linear, ...]:
        """The linear maps in the order of their weights in a state: gate (if any), up, down."""
        return (self.up, self.down) if self.gate is None else (self.gate, self.up, self.down)

    def forward(self, x: Tensor) -> Tensor:
        """y [..., D] of x [..., D]."""
        return self.down(self._hidden(tuple(linear(x) for linear in self.maps[:-1])))

    def read(self, x: Tensor, delta: Weights | None) -> Pass:
        """Answer with the weights W + delta of every row.

        Args:
            x: [B, T, D].
            delta: per map [B, out, in]; None is 0.
        """
        slow = tuple(linear(x) for linear in self.maps[:-1])
        if delta is None:
            hidden = self._hidden(slow)
            return Pass(x, slow, slow, hidden, self.down(hidden))
        below = tuple(part + _rows(x, moved) for part, moved in zip(slow, delta))
        hidden = self._hidden(below)
        return Pass(x, slow, below, hidden, self.down(hidden) + _rows(hidden, delta[-1]))

    def slow_answer(self, seen: Pass) -> Tensor:
        """What the weights W alone answer to the inputs of a pass."""
        return self.down(self._hidden(seen.slow))

    def gradient(self, seen: Pass, error: Tensor, delta: Weights | None, dtype: torch.dtype) -> Weights:
        """dL/d delta, summed over tokens, of an objective whose gradient at the answers is `error`.

        Written out, so that it works without autograd and can be differentiated by it.

        Args:
            seen: pass of the tokens.
            error: dL/dy [B, T, D].
            delta: per map [B, out, in]; None is 0.
            dtype: of the result.

        Returns:
            per map [B, out, in].
        """
        back = error @ self.down.weight
        if delta is not None:
            back = back + _rows(error, delta[-1].mT)
        slope = self.activation.derivative(seen.below[0])
        if self.gate is None:
            backs = (back * slope,)
        else:
            backs = (back * seen.below[1] * slope, back * self.activation.function(seen.below[0]))
        pairs = [*((part, seen.inputs) for part in backs), (error, seen.hidden)]
        return tuple(left.to(dtype).mT @ right.to(dtype) for left, right in pairs)

    def _hidden(self, below: Weights) -> Tensor:
        active = self.activation.function(below[0])
        return active if self.gate is None else active * below[1]


def _rows(x: Tensor, delta: Tensor) -> Tensor:
    """delta_b x_bt for every row."""
    return x @ delta.to(x.dtype).mT
