"""What followed where: an exact memory of states and the token that came after each, read by likeness."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nestling.errors import ShapeError

__all__ = ["TokenMemory", "mixed"]

_SORTED_BY = 4  # leading columns of a key; equal ones beyond are equal keys for every purpose here


@dataclass(frozen=True)
class TokenMemory:
    """Pairs of a key and the token that followed.

    p(v | q) = sum_i c_i exp(s <k_i, q>) 1[x_i = v] / sum_i c_i exp(s <k_i, q>)

    Pairs stand in one canonical order, so the state does not depend on the order of writes, and two memories merge by
    union. Nothing is ever overwritten. Tokens are kept as they are: text can be recovered from a memory in parts, so
    treat it as carefully as the text.

    Source: a non-parametric memory, NL eq. 62-63; next tokens from likeness of states: Grave et al. 2017, Khandelwal et
        al. 2020.

    Args: keys: [N, W] float16, unit.   tokens: [N] int64.   counts: [N] float32 > 0, how many pairs each stands for.
    """

    keys: Tensor
    tokens: Tensor
    counts: Tensor

    @classmethod
    def empty(cls, width: int) -> TokenMemory:
        """Nothing written."""
        none = torch.zeros(0)
        return cls(torch.zeros(0, width, dtype=torch.float16), none.long(), none.float())

    def __len__(self) -> int:
        return len(self.tokens)

    def written(self, keys: Tensor, tokens: Tensor) -> TokenMemory:
        """With further pairs. Args: keys: unit [M, W].   tokens: [M]."""
        if keys.dim() != 2 or keys.shape[1] != self.keys.shape[1] or len(keys) != len(tokens):
            raise ShapeError(f"expected keys [M, {self.keys.shape[1]}] and tokens [M], got {tuple(keys.shape)}")
        more = TokenMemory(keys.half().cpu(), tokens.long().cpu(), torch.ones(len(tokens)))
        return self.merged(more)

    def merged(self, other: TokenMemory) -> TokenMemory:
        """Both, as if one memory had been written with all."""
        keys = torch.cat([self.keys, other.keys])
        tokens = torch.cat([self.tokens, other.tokens])
        counts = torch.cat([self.counts, other.counts])
        columns = [keys[:, n].numpy() for n in reversed(range(min(_SORTED_BY, keys.shape[1])))]
        order = torch.from_numpy(np.lexsort((*columns, tokens.numpy())))
        return TokenMemory(keys[order], tokens[order], counts[order])

    def read(self, queries: Tensor, *, sharpness: float) -> tuple[Tensor, Tensor]:
        """Distinct tokens [U] int64 and the probability of each after queries [P, W]: [P, U] float32, rows sum to 1."""
        tokens, place = torch.unique(self.tokens, return_inverse=True)
        keys = self.keys.to(queries.device, torch.float32)
        weights = (sharpness * queries.float() @ keys.T + self.counts.log().to(queries.device)).softmax(-1)
        found = torch.zeros(len(queries), len(tokens), device=queries.device)
        return tokens.to(queries.device), found.index_add_(1, place.to(queries.device), weights)

    def num_bytes(self) -> int:
        """As it is saved."""
        return sum(part.numel() * part.element_size() for part in (self.keys, self.tokens.int(), self.counts.half()))

    def hash(self) -> str:
        """SHA-256 of all pairs."""
        digest = hashlib.sha256()
        for part in (self.keys, self.tokens, self.counts):
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()


def mixed(log_probs: Tensor, share: Tensor, tokens: Tensor, probs: Tensor) -> Tensor:
    """log((1 - a) p + a q), q sparse.

    Args: log_probs: [P, V], normalised.   share: a [P] in [0, 1).   tokens: [U], distinct.   probs: q [P, U].
    Returns: [P, V], normalised; where a is 0 the same numbers.
    """
    answer = log_probs + torch.log1p(-share).unsqueeze(1)
    added = (share.unsqueeze(1) * probs).clamp_min(math.exp(-80)).log()
    answer[:, tokens] = torch.logaddexp(answer[:, tokens], added)
    return torch.where((share > 0).unsqueeze(1), answer, log_probs)
