"""A gate between predictors that reads, within a window, which of them has been right so far."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def evidence_gate(
    log_probs: Sequence[Tensor], symbols: Tensor, *, retention: float = 0.98, rate: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Combine next-symbol predictors by a product whose exponents follow their evidence, the fastest level of all.

        evidence  s_k(t) = retention s_k(t-1) + log p_k(x_t | x_<t),   s_k = 0 at the start of a window
        weights   w(t)   = softmax_k(rate s_k(t))
        answer    p(c | x_<=t) is proportional to prod_k p_k(c | x_<=t)^{w_k(t)}

    The weights are exponentiated-gradient (Hedge) weights with exponential forgetting; rate 1 and retention 1 would
    be Bayes' rule for "one of them is right all along". Nothing is kept between windows.

    Source: Freund and Schapire 1997 (Hedge); geometric mixing of byte predictors: Mattern 2012.

    Args:
        log_probs: per predictor k [N, L, V], normalised; position t predicts symbol t + 1.
        symbols: [N, L] int64, the window itself; position t of the answer uses symbols up to t only.
        retention: in [0, 1], how slowly evidence fades.
        rate: >= 0; 0 gives every predictor the same weight for ever.
    Returns: log-probabilities [N, L, V], normalised, and the weights [N, L, K].
    """
    stacked = torch.stack(list(log_probs), dim=-1)
    right = stacked[:, :-1].gather(2, symbols[:, 1:, None, None].expand(-1, -1, 1, stacked.shape[-1])).squeeze(2)
    evidence = [torch.zeros_like(stacked[:, 0, 0])]
    for surprise in right.unbind(1):
        evidence.append(retention * evidence[-1] + surprise)
    weights = torch.softmax(rate * torch.stack(evidence, dim=1), dim=-1)
    return (stacked * weights[:, :, None]).sum(-1).log_softmax(-1), weights
