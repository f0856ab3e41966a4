"""What can be switched in self-modifying Titans, and the rates of one write."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nestling.errors import InputError, UnknownNameError

DGD = ("implicit", "explicit", "off")
GRADIENTS = ("current", "anchor")
READS = ("causal", "anchor")
DECAYS = ("zero", "initial")
ADAPTIVE = ("key", "value", "query", "eta", "alpha")

# Largest logit of an implicit rate without bound: the key's direction then keeps its size up to 1e-7.
LARGEST_LOGIT = 16.0
# Bounds of alpha below count as 0, so that 1 minus a bound is less than 1 in float32.
SMALLEST_BOUND = 1e-6


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the memories of self-modifying Titans write and are read.

    dgd:          "implicit" (NL 54-57), "explicit" (NL 88 as printed) or "off" (plain gradient descent).
    gradient:     where the gradient of a write is taken: "current" (the newest memory) or "anchor" (the end of the
                  previous chunk, NL 90). The same at chunk_size 1; memories that are not linear have only "anchor".
    read:         "causal" sees the writes of its own chunk, "anchor" only those of earlier chunks.
    momentum:     S <- mu S + write, M <- alpha M + S; eta is multiplied by 1 - mu.
    weight_decay: alpha; without it alpha = 1.
    adaptive:     which projections are memories; the others are static. The memory that is read always is one.
    limit:        largest length of a target; None does not limit.
    negative_eigenvalues:
                  whether a write may turn what stands along its key around: the share of it that is kept is then in
                  (-alpha, alpha), in place of (0, alpha). Linear recurrences need this to follow a parity
                  (arXiv 2411.12537). Memories whose gradient is taken at the current memory only.
    decay_to:     what decay and erase of (88) bring a memory to: "zero" as printed, or "initial": M - M_0 is what
                  decays and is erased, and gradients are taken at M_0 and what is left of it. Matrix memories only.
    rate_gain:    logits of eta and alpha are rate_gain (M_b,0 z + b), of parameters that start as much smaller: the
                  start is the same, and optimizers whose steps have one size (Adam) learn rates that much faster.
    """

    dgd: str = "implicit"
    gradient: str = "current"
    read: str = "causal"
    momentum: bool = False
    weight_decay: bool = True
    adaptive: tuple[str, ...] = ("key", "value", "eta", "alpha")
    limit: float | None = 4.0
    negative_eigenvalues: bool = False
    decay_to: str = "zero"
    rate_gain: float = 1.0

    def __post_init__(self) -> None:
        for what, given, known in (("dgd", self.dgd, DGD), ("gradient", self.gradient, GRADIENTS)):
            if given not in known:
                raise UnknownNameError(what, given, known)
        if self.read not in READS:
            raise UnknownNameError("read", self.read, READS)
        if self.decay_to not in DECAYS:
            raise UnknownNameError("decay_to", self.decay_to, DECAYS)
        for name in self.adaptive:
            if name not in ADAPTIVE:
                raise UnknownNameError("adaptive projection", name, ADAPTIVE)
        if self.limit is not None and not self.limit > 0:
            raise InputError(f"limit: expected a length > 0 or None, got {self.limit}")
        if not 0 < self.rate_gain < math.inf:
            raise InputError(f"rate_gain: expected a number > 0, got {self.rate_gain}")
        if self.negative_eigenvalues and self.gradient != "current":
            raise InputError(
                "negative_eigenvalues: expected gradient 'current', which only matrix memories have, got "
                f"{self.gradient!r}: change one"
            )

    @property
    def adaptive_query(self) -> bool:
        """Whether q is made by a memory; otherwise q = x W_q."""
        return "query" in self.adaptive

    @property
    def is_plain(self) -> bool:
        """Whether `self_modifying_fused` computes these options."""
        usual = self.gradient == "current" and self.read == "causal" and not self.momentum and self.weight_decay
        return usual and set(self.adaptive) == {"key", "value", "eta", "alpha"}

    @property
    def is_plain_mlp(self) -> bool:
        """Whether `self_modifying_mlp_fused` computes these options."""
        usual = self.dgd == "implicit" and self.read == "causal" and not self.momentum and self.weight_decay
        return usual and set(self.adaptive) == {"key", "value", "eta", "alpha"}

    @property
    def keeps_start(self) -> bool:
        """Whether states hold what a memory has become beside its start, not the memory itself."""
        return self.decay_to == "initial"

    @property
    def rates(self) -> tuple[str, ...]:
        """The rates that are projected from a token, in order."""
        return ("eta", "alpha") if self.weight_decay else ("eta",)

    @property
    def vectors(self) -> tuple[str, ...]:
        """The vectors that are projected from a token's view, in order."""
        return ("key", "value", "query") if self.adaptive_query else ("key", "value")


def lowest_retention(spans: Sequence[float], span_floor: float | None) -> list[float] | None:
    """Per head what alpha cannot go below: decay takes at most 1 / (span_floor * span) per token; None is no bound."""
    if span_floor is None:
        return None
    bounds = [1 - 1 / (span_floor * span) for span in spans]
    return [bound if bound > SMALLEST_BOUND else 0.0 for bound in bounds]


class Rates(NamedTuple):
    """eta [R, C, 1]; log_alpha [R, C]; momentum [R, C] or None."""

    eta: Tensor
    log_alpha: Tensor
    momentum: Tensor | None


def token_rates(logits: Tensor, momentum: Tensor | None, how: Options, lowest: Tensor | None = None) -> Rates:
    """Bounded rates from logits.

    gate = sigmoid(logit_eta),   alpha = lowest + (1 - lowest) sigmoid(logit_alpha)
    eta = gate (implicit),   alpha gate / 2 (explicit, so that alpha - 2 eta >= 0),   alpha gate (without DGD)

    With negative eigenvalues eta is exp(logit_eta) (implicit: eta / (1 + eta) is the gate) or twice as large, so that
    along a key of length 1 the share that is kept is alpha (1 - 2 gate) in all three cases.

    Source: bounds of NL 8.2; negative eigenvalues: Grazzi et al., arXiv 2411.12537.

    Args:
        logits: [R, C, rates], in the order of `Options.rates`, biases added.
        momentum: [R, C] in (0, 1), or None.
        how: the options.
        lowest: of alpha, [R, 1, 1] in [0, 1); None is 0.
    """
    gate = eta_gate(logits[..., :1], how.dgd, how.negative_eigenvalues)
    if how.weight_decay:
        log_alpha = log_retention(logits[..., 1:], lowest).squeeze(-1)
        alpha = log_alpha.exp().unsqueeze(-1)
    else:
        log_alpha, alpha = torch.zeros_like(logits[..., 0]), None
    eta = gate if alpha is None or how.dgd == "implicit" else alpha * gate
    if how.dgd == "explicit":
        eta = 0.5 * eta
    if how.negative_eigenvalues and how.dgd != "implicit":
        eta = 2 * eta
    if momentum is not None:
        eta = eta * (1 - momentum.unsqueeze(-1))
    return Rates(eta, log_alpha, momentum)


def log_retention(logit: Tensor, lowest: Tensor | None) -> Tensor:
    """log alpha of its logit."""
    free = F.logsigmoid(logit)
    if lowest is None:
        return free
    bounded = torch.log1p((lowest.clamp(min=SMALLEST_BOUND) - 1) * torch.sigmoid(-logit))
    return torch.where(lowest > 0, bounded, free)


def log_retention_slope(alpha: Tensor, lowest: Tensor | None) -> Tensor:
    """Derivative of log alpha by its logit."""
    slope = 1 - alpha
    if lowest is None:
        return slope
    # alpha is at least `lowest`; where that is 0 it may be 0 too.
    return slope * (1 - lowest / alpha.clamp(min=torch.finfo(alpha.dtype).tiny)) / (1 - lowest)


def eta_gate(logit: Tensor, dgd: str, negative_eigenvalues: bool) -> Tensor:
    """A rate in (0, 1); in (0, inf) for implicit steps with negative eigenvalues."""
    if negative_eigenvalues and dgd == "implicit":
        return logit.clamp(max=LARGEST_LOGIT).exp()
    return torch.sigmoid(logit)


class Shares(NamedTuple):
    """One write on one linear map: M <- alpha M - erase M k k^T + write (target - gradient_scale M_anchor k) k^T.

    write:          [R, C, 1].
    erase:          [R, C, 1] or None for 0.
    gradient_scale: [R, C, 1], 1.0, or None when the gradient's own erase is part of `erase`.
    """

    write: Tensor
    erase: Tensor | None
    gradient_scale: Tensor | float | None


def shares(key: Tensor, rates: Rates, how: Options) -> Shares:
    """What a write erases and adds.

    explicit  M <- M (alpha I - eta k k^T) - eta grad L(M)                                     (88)
    implicit  M <- alpha M (I - eta' k k^T) - eta' grad L(alpha M),  eta' = eta / (1 + eta |k|^2)
    off       M <- alpha M - eta grad L(M)

    L(M) = 1/2 |M k - target|^2. The gradient at the current memory erases along the key once more.

    Args:
        key: [R, C, K].
        rates: of `token_rates`.
        how: the options.
    """
    current = how.gradient == "current"
    if how.dgd == "off":
        return Shares(rates.eta, rates.eta if current else None, None if current else 1.0)
    times = 2 if current else 1
    if how.dgd == "explicit":
        return Shares(rates.eta, times * rates.eta, None if current else 1.0)
    write = rates.eta / (1 + rates.eta * key.square().sum(-1, keepdim=True))
    alpha = rates.log_alpha.exp().unsqueeze(-1)
    return Shares(write, times * alpha * write, None if current else alpha)


def limited(target: Tensor, limit: float | None) -> Tensor:
    """Vectors [..., V] scaled down to the length `limit` where they are longer."""
    if limit is None:
        return target
    return target * (limit / torch.linalg.vector_norm(target, dim=-1, keepdim=True).clamp(min=limit))


def rate_bias(
    spans: Sequence[float], width: int, gate: float | None, how: Options, lowest: Sequence[float] | None = None
) -> Tensor:
    """Logits of a new layer [H, rates]: decay takes 1 / span per token.

    Without a gate the erase of a token takes 1 / span of the K directions. lowest: of alpha, per head.
    """
    biases = []
    for head, tokens in enumerate(spans):
        twice = how.dgd == "implicit" or how.negative_eigenvalues
        kept = min(0.5, width / tokens * (0.5 if twice else 1)) if gate is None else gate
        decay = 1 / tokens if lowest is None else 1 / tokens / (1 - lowest[head])
        rates = {"eta": _logit(kept), "alpha": -_logit(decay)}
        biases.append([rates[name] for name in how.rates])
    return torch.tensor(biases)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
