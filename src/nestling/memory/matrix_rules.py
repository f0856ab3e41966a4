"""How each rule of a matrix memory is run over a sequence, over one token, and what it carries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nestling.memory.projections import Token, Tokens
from nestling.memory.state import WeightState
from nestling.ops.anchored import AnchoredState, Anchoring, anchored
from nestling.ops.erase_value import erase_value, erase_value_token
from nestling.ops.erase_write import erase_write
from nestling.ops.erase_write_token import ALPHA, Share, erase_write_token
from nestling.ops.window_write import WindowState, window_write
from nestling.rules.dgd import implicit_rate
from nestling.rules.losses import DOT_PRODUCT, huber_loss, lp_loss
from nestling.rules.omega import DEFAULT_LENGTH

Write = Callable[[Tensor, Tensor, Tensor], Tensor]
Run = Callable[[Tokens, WeightState, int], tuple[Tensor, WeightState]]
OneToken = Callable[[Token, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class MatrixRule:
    """One rule of a matrix memory.

    run:         (tokens, state, chunk_size) -> (answers [B, T, H, V], state).
    start:       the learned matrix [B, H, V, K] -> the state before the first token.
    one_token:   (token, matrix [R, V, K]) -> (answer [R, V, 1], matrix), R rows and heads; None takes `run`.
    momentum:    whether there is a surprise accumulator.
    unit_value:  whether values are scaled to length 1, as keys are.
    bounded_eta: eta in (0, 1) by a sigmoid; otherwise any eta > 0.
    eta_bias:    logit of eta for a token of zeros.
    """

    run: Run
    start: Callable[[Tensor], WeightState]
    one_token: OneToken | None = None
    momentum: bool = False
    unit_value: bool = False
    bounded_eta: bool = True
    eta_bias: float = 0.0


def run_anchored(tokens: Tokens, state: WeightState, chunk_size: int, *, how: Anchoring) -> tuple[Tensor, WeightState]:
    """`anchored` between two states of a module."""
    assert state.position is not None
    start = AnchoredState(state.memory, state.anchor, state.surprise, state.position)
    y, end = anchored(*tokens, start, chunk_size=chunk_size, how=how)
    return y, WeightState(end.memory, end.anchor, end.surprise, end.position)


def _anchored(how: Anchoring, *, momentum: bool = False, eta_bias: float) -> MatrixRule:
    def start(matrix: Tensor) -> WeightState:
        surprise = (torch.zeros_like(matrix),) if momentum else ()
        return WeightState((matrix,), (matrix,), surprise, torch.zeros(len(matrix), dtype=torch.int64))

    return MatrixRule(run=partial(run_anchored, how=how), start=start, momentum=momentum, eta_bias=eta_bias)


def _matrix_only(matrix: Tensor) -> WeightState:
    return WeightState((matrix,))


def _erase_write(share: Share, write: Write, *, bounded_eta: bool = True, eta_bias: float = 0.0) -> MatrixRule:
    """`write` is (key [..., K], eta, alpha [..., 1]) -> weight [..., 1] of the pair; `share` of it is erased."""

    def run(tokens: Tokens, state: WeightState, chunk_size: int) -> tuple[Tensor, WeightState]:
        query, key, value, eta, log_alpha, _ = tokens
        alpha = log_alpha.exp()
        written = write(key, eta.unsqueeze(-1), alpha.unsqueeze(-1)).squeeze(-1)
        erased = None if share is None else (alpha if share == ALPHA else float(share)) * written
        y, matrix = erase_write(query, key, value, erased, written, log_alpha, state.memory[0], chunk_size=chunk_size)
        return y, WeightState((matrix,))

    def one_token(token: Token, matrix: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value, eta, alpha = token
        return erase_write_token(query, key, value, share, write(key.mT, eta, alpha), alpha, matrix)

    return MatrixRule(run=run, start=_matrix_only, one_token=one_token, bounded_eta=bounded_eta, eta_bias=eta_bias)


def _eta(key: Tensor, eta: Tensor, alpha: Tensor) -> Tensor:
    del key, alpha
    return eta


def _implicit(key: Tensor, eta: Tensor, alpha: Tensor) -> Tensor:
    del alpha
    return implicit_rate(key, eta=eta.squeeze(-1)).unsqueeze(-1)


def _half_of_retained(key: Tensor, eta: Tensor, alpha: Tensor) -> Tensor:
    """With twice of it erased, what is left along the key stays positive."""
    del key
    return 0.5 * alpha * eta


def _oja() -> MatrixRule:
    def run(tokens: Tokens, state: WeightState, chunk_size: int) -> tuple[Tensor, WeightState]:
        query, key, value, eta, log_alpha, _ = tokens
        y, matrix = erase_value(query, key, value, eta, eta, log_alpha, state.memory[0], chunk_size=chunk_size)
        return y, WeightState((matrix,))

    def one_token(token: Token, matrix: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value, eta, alpha = token
        return erase_value_token(query, key, value, eta, eta, alpha, matrix)

    return MatrixRule(run=run, start=_matrix_only, one_token=one_token, unit_value=True)


def _omega(window: int) -> MatrixRule:
    def start(matrix: Tensor) -> WeightState:
        places = matrix.new_zeros(*matrix.shape[:2], window - 1, matrix.shape[-1])
        return WeightState((matrix,), window=(places, places))

    def run(tokens: Tokens, state: WeightState, chunk_size: int) -> tuple[Tensor, WeightState]:
        query, key, value, eta, log_alpha, _ = tokens
        rate = (eta / window).unsqueeze(-1).expand(*eta.shape, window)
        # The triangular system of a chunk then has chunk_size rows, as with the other rules.
        per_chunk = max(1, chunk_size // window)
        before = WindowState(*state.memory, *state.window)
        y, after = window_write(query, key, value, rate, log_alpha, before, chunk_size=per_chunk)
        return y, WeightState((after.memory,), window=(after.key, after.value))

    return MatrixRule(run=run, start=start)


MATRIX_RULES: dict[str, MatrixRule] = {
    "hebbian": _erase_write(None, _eta),
    "delta": _erase_write(1.0, _eta),
    "gated_delta": _erase_write(ALPHA, _eta),
    "dgd": _erase_write(ALPHA, _implicit, bounded_eta=False, eta_bias=1.0),
    "dgd_explicit": _erase_write(2.0, _half_of_retained),
    "oja": _oja(),
    "omega": _omega(DEFAULT_LENGTH),
    "momentum": _anchored(
        Anchoring(surprise=DOT_PRODUCT.surprise, erase="explicit", residual=False), momentum=True, eta_bias=-2.0
    ),
    "lp": _anchored(Anchoring(surprise=lp_loss(3.0).surprise, residual=False, limit=1.0), eta_bias=-4.0),
    "huber": _anchored(Anchoring(surprise=huber_loss(1.0).surprise, residual=False, limit=8.0), eta_bias=-4.0),
}
