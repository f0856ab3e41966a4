"""Matrix memories: one linear map per head, written by any rule of the table."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from nestling.errors import InputError, UnknownNameError
from nestling.memory.base import Memory, state_dtype
from nestling.memory.matrix_rules import MATRIX_RULES, OneToken
from nestling.memory.output import answer, make_output
from nestling.memory.projections import Projections, linear_map
from nestling.memory.state import WeightState


class MatrixMemory(Memory[WeightState]):
    """A matrix per head that learns the sequence it reads, by any of MATRIX_RULES.

    hebbian, delta, gated_delta, dgd (implicit) and dgd_explicit (L2, eta scaled to at most alpha / 2) are exact in
    parallel; so are oja (values scaled to length 1), omega (the last four pairs with equal weights) and momentum
    (Titans with a matrix, on the L2 objective). lp and huber are not linear in the memory: their gradients are taken
    at the end of the last full chunk, and chunk_size 1 is the exact recurrence.

    Source: NL section 3 and eq. 64-68, 93, 113-121; Titans eq. 13-14; Miras section 5.

    Args:
        rule: a name of MATRIX_RULES.
        dim: width D of the tokens.
        num_heads: H.
        head_dim: None is dim / num_heads.
        chunk_size: tokens worked on in parallel; for lp and huber also the distance of the anchors.
        conv_width: of the short convolutions on q, k and v; 1 leaves them out.
        output: "linear", "normed" or "gated", see `memory.output`.
    """

    def __init__(
        self,
        rule: str = "gated_delta",
        *,
        dim: int,
        num_heads: int,
        head_dim: int | None = None,
        chunk_size: int = 64,
        conv_width: int = 1,
        output: str = "linear",
    ) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        if rule not in MATRIX_RULES:
            raise UnknownNameError("rule of a matrix memory", rule, MATRIX_RULES)
        if chunk_size < 1:
            raise InputError(f"chunk_size: expected a number >= 1, got {chunk_size}")
        self.rule, self.chunk_size, self._how = rule, chunk_size, MATRIX_RULES[rule]
        self.project = Projections(
            dim=dim,
            num_heads=num_heads,
            head_dim=self.head_dim,
            bounded_eta=self._how.bounded_eta,
            with_momentum=self._how.momentum,
            unit_value=self._how.unit_value,
            eta_bias=self._how.eta_bias,
            conv_width=conv_width,
        )
        self.initial = nn.Parameter(torch.zeros(num_heads, self.head_dim, self.head_dim))
        self.output = make_output(output, dim=dim, num_heads=num_heads, head_dim=self.head_dim)

    def initial_state(self, batch: int) -> WeightState:
        """The learned matrix in every row."""
        start = self._how.start(self.initial.to(state_dtype(self.initial)).expand(batch, -1, -1, -1))
        return replace(start, tail=self.project.initial_tail(batch))

    def mix(self, x: Tensor, state: WeightState) -> tuple[Tensor, WeightState]:
        """Write and read [B, T, D]; see `Memory.forward`."""
        short = self._how.one_token is not None and state.tail is None and type(self.output) is nn.Linear
        if short and x.shape[1] == 1 and not torch.is_grad_enabled():
            return self._one_token(x[:, 0], state.memory[0], cast(OneToken, self._how.one_token))
        tokens, tail = self.project.stream(x, state.tail)
        y, state = self._how.run(tokens, state, self.chunk_size)
        return answer(self.output, y.flatten(2), x), state if tail is None else replace(state, tail=tail)

    def _one_token(self, x: Tensor, matrix: Tensor, run: OneToken) -> tuple[Tensor, WeightState]:
        """One token [B, D] without gradients, the short way."""
        # The dictionary of the module, for its attributes are slow to find.
        project, output = self._modules["project"], self._modules["output"]
        y, new = run(cast(Projections, project).one_token(x), matrix.flatten(0, 1))
        y = y.view(len(x), 1, -1)
        if y.dtype != x.dtype:
            y = y.to(x.dtype)
        return linear_map(cast(nn.Linear, output), y), WeightState((new.view(matrix.shape),))

    def extra_repr(self) -> str:
        """For print."""
        return f"rule={self.rule!r}, dim={self.dim}, num_heads={self.num_heads}, head_dim={self.head_dim}"
