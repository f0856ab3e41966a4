"""Matrix memories: one linear map per head, written by any rule of the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from nestling.errors import InputError, UnknownNameError
from nestling.memory.base import Memory, state_dtype
from nestling.memory.projections import Projections
from nestling.memory.state import WeightState
from nestling.ops.anchored import AnchoredState, Anchoring, anchored
from nestling.ops.erase_write import erase_write, write_token
from nestling.rules.dgd import implicit_rate
from nestling.rules.losses import DOT_PRODUCT, huber_loss, lp_loss

Rates = tuple[Tensor | None, Tensor]
RatesOf = Callable[[Tensor, Tensor, Tensor], Rates]


def _hebbian(key: Tensor, eta: Tensor, alpha: Tensor) -> Rates:
    del key, alpha
    return None, eta


def _delta(key: Tensor, eta: Tensor, alpha: Tensor) -> Rates:
    del key, alpha
    return eta, eta


def _gated_delta(key: Tensor, eta: Tensor, alpha: Tensor) -> Rates:
    del key
    return alpha * eta, eta


def _dgd(key: Tensor, eta: Tensor, alpha: Tensor) -> Rates:
    rate = implicit_rate(key, eta=eta)
    return alpha * rate, rate


def _dgd_l2(key: Tensor, eta: Tensor, alpha: Tensor, *, cap: float = 0.5) -> Rates:
    del key
    eta = cap * alpha * eta
    return 2 * eta, eta


@dataclass(frozen=True, kw_only=True)
class MatrixRule:
    """How a matrix memory is run: exactly by `rates` -> `erase_write`, or with gradients at an anchor by `anchoring`.

    rates:       (key, eta, alpha) -> (erase or None, write) of the linear recurrence.
    anchoring:   for rules that are not linear in the memory, and for momentum (exact there, for every chunk size).
    momentum:    whether there is a surprise accumulator.
    bounded_eta: eta in (0, 1) by a sigmoid; otherwise any eta > 0.
    eta_bias:    logit of eta for a token of zeros.
    """

    rates: RatesOf | None = None
    anchoring: Anchoring | None = None
    momentum: bool = False
    bounded_eta: bool = True
    eta_bias: float = 0.0


MATRIX_RULES: dict[str, MatrixRule] = {
    "hebbian": MatrixRule(rates=_hebbian),
    "delta": MatrixRule(rates=_delta),
    "gated_delta": MatrixRule(rates=_gated_delta),
    "dgd": MatrixRule(rates=_dgd, bounded_eta=False, eta_bias=1.0),
    "dgd_explicit": MatrixRule(rates=_dgd_l2),
    "momentum": MatrixRule(
        anchoring=Anchoring(surprise=DOT_PRODUCT.surprise, erase="explicit", residual=False),
        momentum=True,
        eta_bias=-2.0,
    ),
    "lp": MatrixRule(anchoring=Anchoring(surprise=lp_loss(3.0).surprise, residual=False, limit=1.0), eta_bias=-4.0),
    "huber": MatrixRule(
        anchoring=Anchoring(surprise=huber_loss(1.0).surprise, residual=False, limit=8.0), eta_bias=-4.0
    ),
}


class MatrixMemory(Memory[WeightState]):
    """A matrix per head that learns the sequence it reads, by any of MATRIX_RULES.

    hebbian, delta, gated_delta, dgd (implicit) and dgd_explicit (L2, eta scaled to at most alpha / 2) are exact in
    parallel; so is momentum (Titans with a matrix, on the L2 objective). lp and huber are not linear in the memory:
    their gradients are taken at the end of the last full chunk, and chunk_size 1 is the exact recurrence.

    Source: NL section 3 and eq. 64-65, 93, 113-121; Titans eq. 13-14; Miras section 5.

    Args:
        rule: a name of MATRIX_RULES.
        dim: width D of the tokens.
        num_heads: H.
        head_dim: None is dim / num_heads.
        chunk_size: tokens worked on in parallel; for lp and huber also the distance of the anchors.
    """

    def __init__(
        self, rule: str = "gated_delta", *, dim: int, num_heads: int, head_dim: int | None = None, chunk_size: int = 64
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
            eta_bias=self._how.eta_bias,
        )
        self.initial = nn.Parameter(torch.zeros(num_heads, self.head_dim, self.head_dim))
        self.output = nn.Linear(num_heads * self.head_dim, dim, bias=False)

    def initial_state(self, batch: int) -> WeightState:
        """The learned matrix in every row."""
        memory = (self.initial.to(state_dtype(self.initial)).expand(batch, -1, -1, -1),)
        if self._how.anchoring is None:
            return WeightState(memory)
        surprise = tuple(torch.zeros_like(weight) for weight in memory) if self._how.momentum else ()
        return WeightState(memory, memory, surprise, torch.zeros(batch, dtype=torch.int64))

    def mix(self, x: Tensor, state: WeightState) -> tuple[Tensor, WeightState]:
        """Write and read [B, T, D]; see `Memory.forward`."""
        if self._how.rates is not None and x.shape[1] == 1 and not torch.is_grad_enabled():
            return self._one_token(x[:, 0], state.memory[0], self._how.rates)
        query, key, value, eta, log_alpha, momentum = self.project(x)
        if self._how.rates is not None:
            erase, write = self._how.rates(key, eta, log_alpha.exp())
            y, memory = erase_write(
                query, key, value, erase, write, log_alpha, state.memory[0], chunk_size=self.chunk_size
            )
            state = WeightState((memory,))
        else:
            assert self._how.anchoring is not None
            run = partial(anchored, chunk_size=self.chunk_size, how=self._how.anchoring)
            y, state = run_anchored(run, (query, key, value, eta, log_alpha, momentum), state)
        return self.output(y.flatten(2).to(x.dtype)), state

    def _one_token(self, x: Tensor, memory: Tensor, rates: RatesOf) -> tuple[Tensor, WeightState]:
        """One token [B, D] without gradients, the short way."""
        query, key, value, eta, alpha = self.project.one_token(x)
        y, memory = write_token(query, key, value, *rates(key, eta, alpha), alpha, memory)
        return self.output(y.flatten(1).to(x.dtype)).unsqueeze(1), WeightState((memory,))

    def extra_repr(self) -> str:
        """For print."""
        return f"rule={self.rule!r}, dim={self.dim}, num_heads={self.num_heads}, head_dim={self.head_dim}"


def run_anchored(
    run: Callable[..., tuple[Tensor, AnchoredState]], tokens: tuple[Tensor | None, ...], state: WeightState
) -> tuple[Tensor, WeightState]:
    """`anchored` between two states of a module."""
    assert state.position is not None
    start = AnchoredState(state.memory, state.anchor, state.surprise, state.position)
    y, end = run(*tokens, start)
    return y, WeightState(end.memory, end.anchor, end.surprise, end.position)
