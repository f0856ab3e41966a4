"""Deep memories: a residual MLP per head, written by gradients, with or without Delta Gradient Descent and momentum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from nestling.errors import InputError, UnknownNameError
from nestling.memory.base import Memory, state_dtype
from nestling.memory.matrix_rules import run_anchored
from nestling.memory.output import answer, make_output
from nestling.memory.projections import Projections
from nestling.memory.state import WeightState
from nestling.ops.activations import activation_named
from nestling.ops.anchored import Anchoring, Erase
from nestling.rules.losses import LOSSES


@dataclass(frozen=True, kw_only=True)
class DeepRule:
    """Which of the deep rules: the erase of DGD, or momentum."""

    erase: Erase = "none"
    momentum: bool = False


# Decay pulls every map to 0, and at 0 all gradients of a deep memory are 0: it would never learn again. So memories
# start with decay as slow as weight decay is; how fast they forget is learned from there.
SPANS = (2.0**15, 2.0**18)

DEEP_RULES: dict[str, DeepRule] = {
    "gradient": DeepRule(),
    "momentum": DeepRule(momentum=True),
    "dgd": DeepRule(erase="implicit"),
    "dgd_explicit": DeepRule(erase="explicit"),
}


class DeepMemory(Memory[WeightState]):
    """A small residual MLP per head that learns the sequence it reads.

    M(x) = x + W_L sigma(... sigma(W_1 x)); every map learns from its own input and its own local surprise.

    Gradients are taken at the end of the last full chunk (NL eq. 90), writes, decay, erase and momentum then act token
    by token, and a read sees every write up to its token. chunk_size 1 is the recurrence of rules.deep, rules.deep_dgd.

    Source: NL eq. 88-91; Titans eq. 12-14.

    Args:
        rule: a name of DEEP_RULES: gradient, momentum (Titans), dgd, dgd_explicit.
        dim: width D of the tokens.
        num_heads: H.
        head_dim: None is dim / num_heads.
        hidden: width of the hidden layers; None is 4 * head_dim.
        depth: number of maps, >= 2.
        loss: inner loss, a name of rules.losses.LOSSES.
        activation: between the maps.
        chunk_size: tokens that share one anchor.
        limit: largest |surprise| |input| of one write on one map; None does not limit (then huge inputs may diverge).
        max_eta: eta = max_eta * sigmoid; small, for hidden inputs are not normalised. With momentum eta is multiplied
            by (1 - momentum), so that all that one write adds in the end is the same; chunks diverge without it.
        conv_width: of the short convolutions on q, k and v; 1 leaves them out.
        output: "linear", "normed" or "gated", see `memory.output`.
        seed: of the initial weights.
    """

    def __init__(
        self,
        rule: str = "momentum",
        *,
        dim: int,
        num_heads: int,
        head_dim: int | None = None,
        hidden: int | None = None,
        depth: int = 2,
        loss: str = "l2",
        activation: str = "silu",
        chunk_size: int = 64,
        limit: float | None = 1.0,
        max_eta: float = 0.1,
        conv_width: int = 1,
        output: str = "linear",
        seed: int = 0,
    ) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        if rule not in DEEP_RULES:
            raise UnknownNameError("rule of a deep memory", rule, DEEP_RULES)
        if loss not in LOSSES:
            raise UnknownNameError("inner loss", loss, LOSSES)
        if depth < 2 or chunk_size < 1:
            raise InputError(
                f"expected depth >= 2 and chunk_size >= 1, got {depth} and {chunk_size}: depth 1 is a matrix"
            )
        activation_named(activation)
        self.rule, self.chunk_size, self.max_eta, self._how = rule, chunk_size, max_eta, DEEP_RULES[rule]
        self.anchoring = Anchoring(
            surprise=LOSSES[loss].surprise, erase=self._how.erase, activation=activation, limit=limit
        )
        self.project = Projections(
            dim=dim,
            num_heads=num_heads,
            head_dim=self.head_dim,
            bounded_eta=True,
            with_momentum=self._how.momentum,
            unit_value=False,
            eta_bias=0.0,
            spans=SPANS,
            conv_width=conv_width,
        )
        width = 4 * self.head_dim if hidden is None else hidden
        self.initial = nn.ParameterList(_initial_weights(num_heads, self.head_dim, width, depth, seed))
        self.output = make_output(output, dim=dim, num_heads=num_heads, head_dim=self.head_dim)

    def initial_state(self, batch: int) -> WeightState:
        """The learned weights in every row."""
        memory = tuple(
            weight.to(state_dtype(weight)).unsqueeze(0).expand(batch, *weight.shape) for weight in self.initial
        )
        surprise = tuple(torch.zeros_like(weight) for weight in memory) if self._how.momentum else ()
        position = torch.zeros(batch, dtype=torch.int64)
        return WeightState(memory, memory, surprise, position, tail=self.project.initial_tail(batch))

    def mix(self, x: Tensor, state: WeightState) -> tuple[Tensor, WeightState]:
        """Write and read [B, T, D]; see `Memory.forward`."""
        tokens, tail = self.project.stream(x, state.tail)
        eta = self.max_eta * tokens.eta
        if tokens.momentum is not None:
            eta = eta * (1 - tokens.momentum)
        tokens = tokens._replace(eta=eta)
        y, state = run_anchored(tokens, state, self.chunk_size, how=self.anchoring)
        return answer(self.output, y.flatten(2), x), state if tail is None else replace(state, tail=tail)

    def extra_repr(self) -> str:
        """For print."""
        return f"rule={self.rule!r}, dim={self.dim}, num_heads={self.num_heads}, head_dim={self.head_dim}"


def _initial_weights(heads: int, width: int, hidden: int, depth: int, seed: int) -> list[nn.Parameter]:
    """Normal with variance 1 / inputs; the last map smaller, so that a new memory answers nearly its input."""
    generator = torch.Generator().manual_seed(seed)
    widths = [width, *[hidden] * (depth - 1), width]
    weights = [
        torch.randn(heads, outputs, inputs, generator=generator) / inputs**0.5 for inputs, outputs in pairwise(widths)
    ]
    weights[-1] *= 0.1
    return [nn.Parameter(weight) for weight in weights]
