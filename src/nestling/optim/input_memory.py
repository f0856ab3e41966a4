"""What recursive DGD remembers of a layer's inputs: the inverse covariance P, dense, in blocks, or of low rank.

    P = (ridge I + sum_i lambda^(t-i) x_i x_i^T)^-1

Both forms keep their tensors in the optimizer's state under the names "consolidated" (P, or what it is made of) and
"recent" (what came since the last consolidation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nestling.rules.least_squares import update_inverse

__all__ = ["BlockInputs", "LowRankInputs", "join_columns", "split_columns", "thin_rows"]

State = dict[str, Any]


def split_columns(matrix: Tensor, blocks: int) -> Tensor:
    """[G, R, K] -> [G blocks, R, ceil(K / blocks)], the last block padded with zeros."""
    groups, rows, width = matrix.shape
    size = -(-width // blocks)
    padded = F.pad(matrix, (0, size * blocks - width))
    return padded.view(groups, rows, blocks, size).transpose(1, 2).reshape(groups * blocks, rows, size)


def join_columns(parts: Tensor, blocks: int, width: int) -> Tensor:
    """The inverse of `split_columns`."""
    groups = parts.shape[0] // blocks
    joined = parts.unflatten(0, (groups, blocks)).transpose(1, 2).flatten(2)
    return joined[..., :width]


@dataclass(frozen=True, kw_only=True)
class BlockInputs:
    """P as diagonal blocks; one block is the dense form.

    ridge:  > 0.
    blocks: number of blocks that the key width is cut into; inputs of different blocks count as uncorrelated.
    """

    ridge: float
    blocks: int = 1

    def numbers(self, groups: int, width: int) -> int:
        """Numbers kept: P and the recent covariance."""
        size = -(-width // self.blocks)
        return 2 * groups * self.blocks * size * size

    def start(self, groups: int, width: int, *, like: Tensor) -> State:
        """P = I / ridge, nothing recent."""
        size = -(-width // self.blocks)
        eye = torch.eye(size, dtype=like.dtype, device=like.device)
        inverse = (eye / self.ridge).repeat(groups * self.blocks, 1, 1)
        return {"consolidated": inverse, "recent": torch.zeros_like(inverse)}

    def write(self, state: State, keys: Tensor, *, forgetting: float) -> None:
        """P <- (lambda P^-1 + (1 - lambda) ridge I + X^T X)^-1 for keys X [G, n, K].

        The added ridge keeps P bounded where nothing is read any more.
        """
        inverse = state["consolidated"]
        for block, rows in enumerate(split_columns(keys, self.blocks).double()):
            if forgetting < 1:
                kept = torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device)
                rows = torch.cat([rows, ((1 - forgetting) * self.ridge) ** 0.5 * kept])
            inverse[block] = update_inverse(inverse[block].double(), rows, forgetting=forgetting).to(inverse.dtype)

    def gather(self, state: State, keys: Tensor) -> None:
        """Add to the recent covariance: C <- C + X^T X."""
        rows = split_columns(keys, self.blocks).to(state["recent"].dtype)
        state["recent"].baddbmm_(rows.mT, rows)

    def consolidate(self, state: State, *, scale: float, forgetting: float) -> None:
        """Write the recent covariance times `scale`, and start anew."""
        values, vectors = torch.linalg.eigh(scale * state["recent"].double())
        roots = values.clamp(min=0).sqrt().unsqueeze(-1) * vectors.mT
        BlockInputs(ridge=self.ridge).write(state, roots, forgetting=forgetting)
        state["recent"].zero_()

    def protect(self, state: State, matrix: Tensor) -> Tensor:
        """M P for M [G, R, K]."""
        parts = torch.bmm(split_columns(matrix, self.blocks), state["consolidated"].to(matrix.dtype))
        return join_columns(parts, self.blocks, matrix.shape[-1])


@dataclass(frozen=True, kw_only=True)
class LowRankInputs:
    """P from the `rank` strongest directions of the covariance: P = (ridge I + S^T S)^-1, S [G, rank, K].

    Directions beyond the rank are forgotten, weakest first (frequent directions, Liberty 2013, without its shrinkage).
    Of the keys of one step at most `rank` rows count, evenly spaced and scaled up.
    """

    ridge: float
    rank: int

    def numbers(self, groups: int, width: int) -> int:
        """Numbers kept: the consolidated and the recent rows."""
        return 2 * groups * min(self.rank, width) * width

    def start(self, groups: int, width: int, *, like: Tensor) -> State:
        """No direction is known."""
        rows = torch.zeros(groups, min(self.rank, width), width, dtype=like.dtype, device=like.device)
        return {"consolidated": rows, "recent": rows.clone()}

    def write(self, state: State, keys: Tensor, *, forgetting: float) -> None:
        """S^T S <- the strongest part of lambda S^T S + X^T X."""
        rows = torch.cat(
            [forgetting**0.5 * state["consolidated"], thin_rows(keys, self.rank).to(state["recent"].dtype)], dim=1
        )
        state["consolidated"] = strongest_rows(rows, state["consolidated"].shape[1])

    def gather(self, state: State, keys: Tensor) -> None:
        """The same for the recent rows, without forgetting."""
        rows = torch.cat([state["recent"], thin_rows(keys, self.rank).to(state["recent"].dtype)], dim=1)
        state["recent"] = strongest_rows(rows, state["recent"].shape[1])

    def consolidate(self, state: State, *, scale: float, forgetting: float) -> None:
        """Write the recent rows, their squares times `scale`, and start anew."""
        rows = torch.cat([forgetting**0.5 * state["consolidated"], scale**0.5 * state["recent"]], dim=1)
        state["consolidated"] = strongest_rows(rows, state["consolidated"].shape[1])
        state["recent"].zero_()

    def protect(self, state: State, matrix: Tensor) -> Tensor:
        """M P = (M - M S^T (ridge I + S S^T)^-1 S) / ridge."""
        rows = state["consolidated"].to(matrix.dtype)
        inner = rows @ rows.mT
        inner.diagonal(dim1=-2, dim2=-1).add_(self.ridge)
        answer = torch.cholesky_solve(rows @ matrix.mT, torch.linalg.cholesky(inner))
        return (matrix - answer.mT @ rows) / self.ridge


def thin_rows(keys: Tensor, most: int, *, turn: int = 0) -> Tensor:
    """At most so many of the rows [G, n, K], evenly spaced and scaled up so that X^T X keeps its size.

    Args:
        keys: [G, n, K].
        most: >= 1.
        turn: the spaced rows move on by so many, around the end: with 0, 1, 2, ... at successive steps, places in a
            window or an image take turns.
    """
    count = keys.shape[1]
    if count <= most:
        return keys
    chosen = (torch.arange(most, device=keys.device) * count // most + turn) % count
    return keys[:, chosen] * (count / most) ** 0.5


def strongest_rows(rows: Tensor, rank: int) -> Tensor:
    """`rank` orthogonal rows [G, rank, K] whose Gram matrix is the best of that rank for X [G, n, K], n >= rank."""
    wide = rows.double()
    _, vectors = torch.linalg.eigh(wide @ wide.mT)
    return (vectors[..., -rank:].mT @ wide).to(rows.dtype)
