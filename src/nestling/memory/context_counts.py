"""The arithmetic of counting contexts: codes, counts within a window, the ridge solution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional


def ridge_solution(counts: Tensor, prior: Tensor, *, ridge: float) -> Tensor:
    """(count(k, .) + r_k prior) / (count(k) + r_k) with r_k = ridge * distinct(k); the prior where nothing was seen.

    Args: counts [..., V] >= 0, prior [..., V] summing to 1, ridge > 0.   Returns: [..., V] summing to 1.
    """
    strength = ridge * (counts > 0).sum(-1, keepdim=True).to(counts.dtype)
    total = counts.sum(-1, keepdim=True)
    return torch.where(total > 0, (counts + strength * prior) / (total + strength).clamp_min(1e-30), prior)


def context_codes(inputs: Tensor, order: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """The last `order` symbols at each position as one number in base `vocabulary`.

    Returns: codes [N, L] int64, and valid [N, L] bool: False where the window has begun too recently.
    """
    codes = torch.zeros_like(inputs)
    for back in range(order):
        shifted = functional.pad(inputs, (back, 0))[:, : inputs.shape[1]]
        codes = codes + shifted * vocabulary**back
    valid = (torch.arange(inputs.shape[1]) >= order - 1).expand_as(inputs)
    return codes, valid


def window_counts(inputs: Tensor, orders: Sequence[int], vocabulary: int) -> Iterator[Tensor]:
    """Per order n: counts [N, L, vocabulary] of the symbols that followed the same n symbols earlier in the window.

    count_t(c) = #{ j < t : inputs[j-n+1..j] = inputs[t-n+1..t] and inputs[j+1] = c }
    """
    length = inputs.shape[1]
    follower = functional.one_hot(inputs[:, 1:], vocabulary).float()
    earlier = torch.ones(length, length, dtype=torch.bool).tril(-1)
    equal = inputs[:, :, None] == inputs[:, None, :]
    same = equal & earlier
    done = 1
    for order in orders:
        for back in range(done, order):
            shifted = torch.zeros_like(equal)
            shifted[:, back:, back:] = equal[:, : length - back, : length - back]
            same = same & shifted
        done = max(done, order)
        yield same[:, :, : length - 1].float() @ follower


def sum_by_key(keys: Sequence[Tensor], counts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Distinct keys in increasing order with the sum of their counts; keys whose sum is 0 disappear."""
    distinct, place = torch.unique(torch.cat(list(keys)), return_inverse=True)
    sums = torch.zeros(len(distinct), dtype=torch.int64).index_add_(0, place, torch.cat(list(counts)))
    return distinct[sums != 0], sums[sums != 0]
