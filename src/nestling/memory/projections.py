"""From tokens to what a rule takes: query, key, value and the rates, per head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestling.memory.base import retention_bias, state_dtype, unit


class Projections(nn.Module):
    """Learned maps of a token to q, k, v, eta, alpha and momentum.

    q = unit(W_q x), k = unit(W_k x), v = W_v x
    eta = sigmoid(w_eta x + b)   or softplus for rules that take any eta
    alpha = sigmoid(w_alpha x + b),   momentum = sigmoid(w_mu x + b)

    Source: NL 8.2, eq. 86 (q, k L2-normalised, eta and alpha bounded); Gated DeltaNet for sigmoid rates.

    Args:
        dim: width of the tokens.
        num_heads: H.
        head_dim: width of keys and values.
        bounded_eta: sigmoid; otherwise softplus.
        with_momentum: whether momentum is projected.
        eta_bias: logit of eta for a token of zeros.
    """

    def __init__(
        self, *, dim: int, num_heads: int, head_dim: int, bounded_eta: bool, with_momentum: bool, eta_bias: float
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.bounded_eta = num_heads, head_dim, bounded_eta
        self.pairs = nn.Linear(dim, 3 * num_heads * head_dim, bias=False)
        biases = [torch.full((num_heads,), eta_bias), retention_bias(num_heads)]
        if with_momentum:
            biases.append(torch.full((num_heads,), 2.0))
        self.rates = nn.Linear(dim, len(biases) * num_heads)
        with torch.no_grad():
            self.rates.weight.mul_(0.1)
            self.rates.bias.copy_(torch.cat(biases))

    def one_token(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """query, key, value [B, H, K], eta and alpha [B, H] of tokens [B, D], with as few operations as possible."""
        batch, heads, width = len(x), self.num_heads, self.head_dim
        pairs = self.pairs(x).view(batch, 3, heads, width)
        units = unit(pairs[:, :2])
        dtype = units.dtype
        logits = self.rates(x).to(dtype)
        rates = torch.sigmoid(logits)
        eta = rates[:, :heads] if self.bounded_eta else F.softplus(logits[:, :heads])
        return units[:, 0], units[:, 1], pairs[:, 2].to(dtype), eta, rates[:, heads : 2 * heads]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """query, key, value [B, T, H, K]; eta, log_alpha [B, T, H]; momentum [B, T, H] or None."""
        pairs = self.pairs(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        query, key = unit(pairs[:, :, :2]).unbind(2)
        dtype = state_dtype(self.pairs.weight)
        rates = self.rates(x).to(dtype).unflatten(-1, (-1, self.num_heads)).unbind(2)
        eta = torch.sigmoid(rates[0]) if self.bounded_eta else F.softplus(rates[0])
        momentum = torch.sigmoid(rates[2]) if len(rates) > 2 else None
        return query, key, pairs[:, :, 2], eta, F.logsigmoid(rates[1]), momentum
