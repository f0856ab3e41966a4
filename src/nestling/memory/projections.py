"""From tokens to what a rule takes: query, key, value and the rates, per head."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestling.memory.base import retention_bias, state_dtype, unit
from nestling.memory.short_convolution import ShortConvolution
from nestling.ops.unit_vectors import SMALLEST


class Tokens(NamedTuple):
    """What a rule takes: query, key, value [B, T, H, K]; eta, log_alpha [B, T, H]; momentum [B, T, H] or None."""

    query: Tensor
    key: Tensor
    value: Tensor
    eta: Tensor
    log_alpha: Tensor
    momentum: Tensor | None


class Token(NamedTuple):
    """One token of R rows and heads for generation: query, key, value [R, K, 1]; eta, alpha [R, 1, 1]."""

    query: Tensor
    key: Tensor
    value: Tensor
    eta: Tensor
    alpha: Tensor


def linear_map(linear: nn.Linear, x: Tensor) -> Tensor:
    """`linear(x)`; a plain layer without hooks is taken without the cost of calling a module."""
    if type(linear) is nn.Linear and not linear._forward_hooks and not linear._forward_pre_hooks:
        parameters = linear._parameters
        return F.linear(x, cast(Tensor, parameters["weight"]), parameters["bias"])
    return linear(x)


class Projections(nn.Module):
    """Learned maps of a token to q, k, v, eta, alpha and momentum; all maps are one matrix.

    q = unit(c(W_q x)), k = unit(c(W_k x)), v = c(W_v x)
    eta = sigmoid(w_eta x + b)   or softplus for rules that take any eta
    alpha = sigmoid(w_alpha x + b),   momentum = sigmoid(w_mu x + b)

    c is the identity, or silu of a causal convolution of each channel.

    Source: NL 8.2, eq. 86 (q, k L2-normalised, eta and alpha bounded, convolutions of width 4); Gated DeltaNet for
        sigmoid rates, and DeltaNet for silu.

    Args:
        dim: width of the tokens.
        num_heads: H.
        head_dim: width of keys and values.
        bounded_eta: sigmoid; otherwise softplus.
        with_momentum: whether momentum is projected.
        unit_value: v = unit(W_v x).
        eta_bias: logit of eta for a token of zeros.
        spans: tokens that the fastest and the slowest head remember at the start.
        conv_width: tokens that a query, key or value is made of, >= 1; 1 leaves c out.

    Raises:
        InputError: conv_width below 1.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        head_dim: int,
        bounded_eta: bool,
        with_momentum: bool,
        unit_value: bool,
        eta_bias: float,
        spans: tuple[float, float] = (2.0**5, 2.0**12),
        conv_width: int = 1,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.bounded_eta, self.unit_value = bounded_eta, unit_value
        biases = [torch.full((num_heads,), eta_bias), retention_bias(num_heads, spans=spans)]
        if with_momentum:
            biases.append(torch.full((num_heads,), 2.0))
        self.width, self.num_rates = 3 * num_heads * head_dim, len(biases) * num_heads
        pairs = nn.Linear(dim, self.width, bias=False)
        rates = nn.Linear(dim, self.num_rates)
        self.maps = nn.Linear(dim, self.width + self.num_rates, bias=False)
        with torch.no_grad():
            self.maps.weight.copy_(torch.cat([pairs.weight, 0.1 * rates.weight]))
        self.rate_bias = nn.Parameter(torch.cat(biases))
        self.conv = ShortConvolution(dim=self.width, width=conv_width) if conv_width != 1 else None

    def initial_tail(self, batch: int) -> Tensor | None:
        """What the convolution has seen before the first token, [B, conv_width - 1, 3 H K]; None without one."""
        return None if self.conv is None else self.conv.initial_state(batch)

    def one_token(self, x: Tensor) -> Token:
        """What a rule takes of tokens [B, D], without gradients and with as few operations as possible."""
        # The dictionaries of the module, for its attributes are slow to find.
        mapped = linear_map(cast(nn.Linear, self._modules["maps"]), x)
        if mapped.dtype != torch.float64 and mapped.dtype != torch.float32:
            mapped = mapped.float()
        pairs, logits = torch.split_with_sizes(mapped, (self.width, self.num_rates), 1)
        logits = logits + cast(Tensor, self._parameters["rate_bias"])
        if len(x) > 1:
            sizes = ((pairs, self.width // 3), (logits, self.num_heads))
            pairs, logits = (rows.view(len(x), -1, size).transpose(0, 1) for rows, size in sizes)
        pairs = pairs.reshape(3, -1, self.head_dim, 1)
        lengths = torch.linalg.vector_norm(pairs, dim=-2, keepdim=True).clamp_(min=SMALLEST)
        query, key, value = (pairs / lengths).unbind()
        if not self.unit_value:
            value = pairs[2]
        logits = logits.reshape(self.num_rates // self.num_heads, -1, 1, 1)
        rates = torch.sigmoid(logits)
        return Token(query, key, value, rates[0] if self.bounded_eta else F.softplus(logits[0]), rates[1])

    def forward(self, x: Tensor) -> Tokens:
        """What a rule takes of the first tokens [B, T, D] of a context."""
        return self.stream(x, None)[0]

    def stream(self, x: Tensor, tail: Tensor | None) -> tuple[Tokens, Tensor | None]:
        """What a rule takes of tokens [B, T, D], and the tail after them. tail: of the last call."""
        pairs, rates = self.maps(x).split((self.width, self.num_rates), dim=-1)
        if self.conv is not None:
            pairs, tail = self.conv(pairs, tail)
            pairs = F.silu(pairs)
        pairs = pairs.unflatten(-1, (3, self.num_heads, self.head_dim))
        if self.unit_value:
            query, key, value = unit(pairs).unbind(2)
        else:
            directions, values = pairs.split((2, 1), dim=2)
            (query, key), value = unit(directions).unbind(2), values.squeeze(2)
        dtype = state_dtype(self.maps.weight)
        logits = (rates.to(dtype) + self.rate_bias.to(dtype)).unflatten(-1, (-1, self.num_heads)).unbind(2)
        eta = torch.sigmoid(logits[0]) if self.bounded_eta else F.softplus(logits[0])
        momentum = torch.sigmoid(logits[2]) if len(logits) > 2 else None
        return Tokens(query, key, value, eta, F.logsigmoid(logits[1]), momentum), tail
