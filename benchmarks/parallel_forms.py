"""A rule of the table over whole sequences: token after token, or all tokens at once where an exact form exists.

All functions take query, key, value [B, T, H, K] of one width and eta, alpha [B, T, H], start from the rule's empty
state and return the answers [B, T, H, K]; a read at t sees the write at t.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nestling.ops.anchored import AnchoredState, Anchoring, anchored
from nestling.ops.erase_write import erase_write
from nestling.rules import Rule, rule_named
from nestling.rules.attention import DEFAULT_WINDOW
from nestling.rules.losses import DOT_PRODUCT
from nestling.rules.momentum import DEFAULT_MOMENTUM


def run_rule(rule: Rule, query: Tensor, key: Tensor, value: Tensor, eta: Tensor, alpha: Tensor) -> Tensor:
    """Answers of the rule, by its parallel form where there is one."""
    return PARALLEL.get(rule.name, token_by_token)(rule, query, key, value, eta, alpha)


def initial(rule: Rule, key: Tensor) -> Any:
    """The rule's empty state for these keys."""
    return rule.initial(key.shape[0], key.shape[2], key.shape[3], key.shape[3])


def token_by_token(rule: Rule, query: Tensor, key: Tensor, value: Tensor, eta: Tensor, alpha: Tensor) -> Tensor:
    """Answers [B, T, H, V] of the rule's own write and read; a read at t sees the write at t."""
    state, answers = initial(rule, key), []
    for t in range(key.shape[1]):
        state = rule.write(state, key[:, t], value[:, t], eta=eta[:, t], alpha=alpha[:, t])
        answers.append(rule.read(state, query[:, t]))
    return torch.stack(answers, dim=1)


def linear(rule: Rule, query: Tensor, key: Tensor, value: Tensor, eta: Tensor, alpha: Tensor) -> Tensor:
    """The same answers for a rule that erases along the key and writes, all tokens at once."""
    implicit = eta / (1 + eta * key.square().sum(-1))
    erase, write = {
        "hebbian": (None, eta),
        "delta": (eta, eta),
        "gated_delta": (alpha * eta, eta),
        "dgd": (alpha * implicit, implicit),
        "dgd_explicit": (2 * eta, eta),
    }[rule.name]
    state = initial(rule, key)
    return erase_write(query, key, value, erase, write, alpha.log(), state)[0]


def attend(rule: Rule, query: Tensor, key: Tensor, value: Tensor, *_rates: Tensor) -> Tensor:
    """The same answers for the rules that keep pairs, all tokens at once; they use no rates."""
    age = torch.arange(key.shape[1])[:, None] - torch.arange(key.shape[1])
    window = DEFAULT_WINDOW if rule.name == "sliding_window" else key.shape[1]
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    mask = (age >= 0) & (age < window)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def with_momentum(rule: Rule, query: Tensor, key: Tensor, value: Tensor, eta: Tensor, alpha: Tensor) -> Tensor:
    """The same answers for momentum on the delta rule, all tokens at once."""
    start = initial(rule, key)
    position = torch.zeros(key.shape[0], dtype=torch.int64)
    state = AnchoredState((start.memory,), (start.memory,), (start.surprise,), position)
    how = Anchoring(surprise=DOT_PRODUCT.surprise, erase="explicit", residual=False)
    momentum = torch.full_like(eta, DEFAULT_MOMENTUM)
    arguments = (query, key, value, eta, alpha.log(), momentum, state)
    return anchored(*arguments, chunk_size=key.shape[1], how=how)[0]


LINEAR_RULES = ("hebbian", "delta", "gated_delta", "dgd", "dgd_explicit")
PARALLEL = dict.fromkeys(LINEAR_RULES, linear) | dict.fromkeys(("attention", "sliding_window"), attend)
PARALLEL["momentum"] = with_momentum


def check_parallel_forms() -> None:
    """Every parallel form answers what the rule itself answers."""
    generator = torch.Generator().manual_seed(0)
    query, value = torch.randn(2, 2, 40, 3, 8, generator=generator)
    key = functional.normalize(torch.randn(2, 40, 3, 8, generator=generator), dim=-1)
    eta, alpha = torch.rand(2, 2, 40, 3, generator=generator)
    for name, run in PARALLEL.items():
        inputs = (rule_named(name), query, key, value, eta, 0.5 + 0.5 * alpha)
        torch.testing.assert_close(run(*inputs), token_by_token(*inputs), rtol=1e-4, atol=1e-4)
