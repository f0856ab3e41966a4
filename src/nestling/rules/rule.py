"""One row of the table of rules: what a rule is, in words and as functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

StateKind = Literal["matrix", "matrix and momentum", "matrix and window", "matrix and covariance", "pairs", "MLP"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A learning rule of a memory.

    The first fields are for people and for the docs page. `objective`, `gradient` and `step` are the reference
    functions with their own signatures. `initial`, `write` and `read` are one interface for all rules:

        state = rule.initial(batch, heads, value_width, key_width, dtype=torch.float32)
        state = rule.write(state, key, value, eta=eta, alpha=alpha)
        answer = rule.read(state, query)

    name:        as in commands and files.
    title:       for people.
    objective_text, update_text, equations, model:  the rule in the paper's words; `model` is what it gives.
    file:        where the rule is written, below src/nestling/rules.
    state_kind:  what is carried from token to token.
    objective:   the inner objective, [B, H].
    gradient:    its gradient by the state, written by hand; None when the rule is not one gradient step.
    step:        the reference update.
    initial:     (batch, heads, value_width, key_width, *, dtype) -> empty state. Deep memories need equal widths.
    write:       (state, key [B, H, K], value [B, H, V], *, eta [B, H], alpha [B, H]) -> new state; the rest has
                 defaults.
    read:        (state, query [B, H, K]) -> answer [B, H, V].
    fast_twin:   dotted name of the parallel form of the same rule, or None.
    twin_is_exact:  for every chunk size, or (False: gradients at the chunk's anchor) for chunk size 1 only.
    """

    name: str
    title: str
    objective_text: str
    update_text: str
    equations: str
    model: str
    file: str
    state_kind: StateKind
    objective: Callable[..., Tensor]
    gradient: Callable[..., Any] | None
    step: Callable[..., Any]
    initial: Callable[..., Any]
    write: Callable[..., Any]
    read: Callable[..., Tensor]
    fast_twin: str | None = None
    twin_is_exact: bool = True
