"""The matrix memories of self-modifying Titans, all of them in one matrix per head.

Key, eta and alpha are shared, so every memory b takes the same step

    M_b <- M_b (alpha I - 2 eta k k^T) + eta (M_b v) k^T = M_b A_t,    A_t = alpha I + eta (v - 2 k) k^T

(and likewise for the other forms and with momentum). A_t does not depend on b, so M_b,t = M_b,0 G_t with one matrix
G_t = G_{t-1} A_t, G_0 = I, for all memories. Only G is carried and solved; M_b,0 are ordinary parameters. With two
chunk sizes there are two G, one for the projections and one for the memory that is read, which see the same keys and
rates and are solved together.

With decay_to "initial" the deviation M_b - M_b,0 = M_b,0 U_t is what decays and is erased,

    U_t = U_{t-1} (alpha I - 2 eta k k^T) + eta ((I + U) v - k) k^T,    U_0 = 0,

and U is carried in place of G = I + U.

Source: NL eq. 83-90; the common factor is ours (docstring above is the proof). `self_modifying_reference` writes each
memory by itself.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nestling.errors import InputError
from nestling.layers.self_modifying_options import Options, Rates, limited, shares
from nestling.memory.base import state_dtype
from nestling.memory.state import Weights
from nestling.ops.spans import advance, pushes, read, spans

__all__ = ["MatrixMemories"]


class Maps(NamedTuple):
    """Initial memories as the right factors of products, for R rows and heads; None where there are none.

    adaptive: [R, K, columns] of all memories of the view G z, zero in the columns of static ones.
    static:   [R, K, columns] the rest, of the view z.
    """

    adaptive: Tensor | None
    static: Tensor | None


class MatrixMemories(nn.Module):
    """Memories for key, value (query), eta, alpha and the memory that is read, as matrices.

    Args:
        num_heads: H.
        width: K, of keys and values.
        hidden: must be None.
        how: the options.
        two_anchors: whether the memory that is read has a chunk size of its own.
        generator: of the initial memories.
    """

    def __init__(
        self,
        *,
        num_heads: int,
        width: int,
        hidden: int | None,
        how: Options,
        two_anchors: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if hidden is not None:
            raise InputError(f"hidden: expected None for matrix memories, got {hidden}: it is the width inside an mlp")
        self.num_heads, self.width, self.how = num_heads, width, how
        self.num_factors = 2 if two_anchors else 1
        self.surprise_limit: float | None = None

        def normal(rows: int, scale: float) -> nn.Parameter:
            return nn.Parameter(scale * torch.randn(num_heads, rows, width, generator=generator))

        self.initial = nn.ParameterDict({name: normal(width, width**-0.5) for name in how.vectors})
        self.initial["rates"] = normal(len(how.rates), 0.1 * width**-0.5 / how.rate_gain)
        self.initial["memory"] = normal(width, 1.0)

    def start(self, batch: int) -> Weights:
        """The common factors before the first token: identities, or their deviations 0, [B, H, factors K, K]."""
        weight = self.initial["memory"]
        one = torch.eye(self.width, dtype=state_dtype(weight), device=weight.device)
        one = torch.zeros_like(one) if self.how.keeps_start else one
        return (one.repeat(self.num_factors, 1).expand(batch, self.num_heads, -1, -1),)

    def initial_memories(self) -> dict[str, Weights]:
        """The initial matrices by name, each [H, rows, K]."""
        start = self.how.rate_gain * self.initial["rates"]
        rates = {name: start[:, row : row + 1] for row, name in enumerate(self.how.rates)}
        vectors = {name: self.initial[name] for name in self.how.vectors}
        return {name: (weight,) for name, weight in {**vectors, **rates, "memory": self.initial["memory"]}.items()}

    def whole(self, memory: Weights) -> Weights:
        """The common factors G of a state, which may hold U = G - I."""
        if not self.how.keeps_start:
            return memory
        one = torch.eye(self.width, dtype=memory[0].dtype, device=memory[0].device)
        return (memory[0] + one.repeat(self.num_factors, 1),)

    def materialise(self, memory: Weights) -> dict[str, Weights]:
        """M_b,0 G of common factors G for every memory: [B, H, rows, K] by name; static projections as they are."""
        factor = memory[0]
        found: dict[str, Weights] = {}
        for name, (weight,) in self.initial_memories().items():
            weight = weight.to(factor.dtype)
            place = slice(-self.width, None) if name == "memory" else slice(self.width)
            moved = name == "memory" or name in self.how.adaptive
            found[name] = (weight @ factor[..., place, :] if moved else weight.expand(len(factor), -1, -1, -1),)
        return found

    def columns(self, batch: int, dtype: torch.dtype) -> Tensor:
        """The initial memories of all projections as right factors, [R, K, columns]."""
        vectors = [self.initial[name].to(dtype) for name in self.how.vectors]
        columns = torch.cat([*vectors, self.how.rate_gain * self.initial["rates"].to(dtype)], dim=1).mT
        return columns.expand(batch, -1, -1, -1).flatten(0, 1)

    def maps(self, batch: int, dtype: torch.dtype) -> Maps:
        """The initial memories ready for `project`."""
        columns = self.columns(batch, dtype)
        adaptive = [name in self.how.adaptive for name in self.how.vectors for _ in range(self.width)]
        adaptive += [name in self.how.adaptive for name in self.how.rates]
        if all(adaptive):
            return Maps(columns, None)
        if not any(adaptive):
            return Maps(None, columns)
        mask = torch.tensor(adaptive, device=columns.device)
        return Maps(columns * mask, columns * ~mask)

    def project(self, view: Tensor, anchor: Weights, maps: Maps) -> Tensor:
        """M_b(x_t) of every projected name at the anchor: view [R, C, K] to [R, C, columns]."""
        parts = []
        if maps.adaptive is not None:
            parts.append(torch.bmm(self._through(view, anchor[0][:, : self.width]), maps.adaptive))
        if maps.static is not None:
            parts.append(torch.bmm(view, maps.static))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def write(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rates: Rates,
        memory: Weights,
        anchor: Weights,
        surprise: Weights,
    ) -> tuple[Tensor, Weights, Weights]:
        """Write and read one chunk or a part of one.

        Args:
            query: [R, C, K].
            key: [R, C, K].
            value: [R, C, K].
            rates: of the tokens.
            memory: common factors [R, factors K, K].
            anchor: the same at the anchor.
            surprise: the accumulators, or empty.

        Returns:
            G q [R, C, K], the new factors and the new accumulators.
        """
        how, width = self.how, self.width
        share = shares(key, rates, how)
        target = self._through(value, anchor[0])
        target = limited(target.unflatten(-1, (-1, width)), how.limit).flatten(-2)
        if share.gradient_scale is not None:
            target = target - share.gradient_scale * torch.bmm(key, anchor[0].mT)
        if how.keeps_start:
            target = target - key.repeat(1, 1, self.num_factors)
        coefficients = spans(rates.log_alpha, rates.momentum)
        past = surprise[0] if surprise else None
        push = pushes(key, share.write * target, share.erase, memory[0], past, coefficients)
        if how.read == "anchor":
            answer = self._through(query, anchor[0][:, -width:])
        else:
            behind = None if past is None else past[:, -width:]
            answer = read(query, key, push[..., -width:], memory[0][:, -width:], behind, coefficients)
            answer = answer + query if how.keeps_start else answer
        new, accumulated = advance(key, push, memory[0], past, coefficients)
        return answer, (new,), () if accumulated is None else (accumulated,)

    def _through(self, vectors: Tensor, factors: Tensor) -> Tensor:
        """G x of vectors [R, C, K] and one or two stacked factors: [R, C, factors K]."""
        found = torch.bmm(vectors, factors.mT)
        return found + vectors.repeat(1, 1, found.shape[-1] // self.width) if self.how.keeps_start else found

    def move(self, ended: Tensor, memory: Weights, anchor: Weights) -> Weights:
        """Anchors that follow the memory in rows [R, 2] whose chunk (of the projections, of the memory) has ended."""
        chosen = ended[:, : self.num_factors].repeat_interleave(self.width, dim=1).unsqueeze(-1)
        return (torch.where(chosen, memory[0], anchor[0]),)

    def complete(self, found: Tensor) -> Tensor:
        """M_memory,0 G q of what is found [..., H K]."""
        start = self.initial["memory"].to(found.dtype)
        return torch.einsum("...hk,hvk->...hv", found.unflatten(-1, (self.num_heads, -1)), start).flatten(-2)

    def fold(self, output: Tensor) -> Tensor:
        """The output map [D, H K] together with M_memory,0, for what is found is G q."""
        weight = output.unflatten(1, (self.num_heads, -1)).transpose(0, 1)
        return torch.bmm(weight, self.initial["memory"].to(weight.dtype)).transpose(0, 1).flatten(1)
