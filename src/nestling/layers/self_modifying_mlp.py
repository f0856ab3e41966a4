"""The memories of self-modifying Titans as residual MLPs of two maps.

M_b(x) = x + W_2 silu(W_1 x) for key, value (query) and the memory that is read. The memories of eta and alpha answer
with one number, which cannot be added to a vector, and stay single rows. All first maps and the rows see the same key
with the same rates, so they are stacked and solved at once; second maps see silu(W_1 k) of their own memory.

Gradients are taken at the anchor. DGD acts on every map with its own input (`rules.deep_dgd`).

Source: NL eq. 88-93.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestling.errors import InputError
from nestling.layers.self_modifying_options import Options, Rates, limited, shares
from nestling.memory.base import state_dtype
from nestling.memory.state import Weights
from nestling.ops.activations import activation_named
from nestling.ops.spans import Spans, advance, pushes, read, spans

__all__ = ["MlpMemories"]

SILU = activation_named("silu")


class Maps(NamedTuple):
    """Static projections as right factors for R rows and heads; an adaptive name has None.

    vectors: per vector [R, K, K] or None.
    rates:   [R, K, rates] of the static rates, zero in the columns of adaptive ones.
    moving:  [rates] 1 for adaptive rates, else 0.
    """

    vectors: list[Tensor | None]
    rates: Tensor
    moving: Tensor


class MlpMemories(nn.Module):
    """Memories for key, value (query) and reading as MLPs, for eta and alpha as rows.

    The state of R rows and heads is two stacks: the first maps [nets F + rates, K], nets in the order of the adaptive
    vectors, then the memory that is read, then the rows; and the second maps [nets, K, F].

    Args:
        num_heads: H.
        width: K, of keys and values.
        hidden: F; None is K.
        how: the options.
        two_anchors: accepted for the interface of all kinds; anchors are kept per memory in any case.
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
        del two_anchors
        if how.keeps_start:
            raise InputError("decay_to: expected 'zero' for mlp memories, got 'initial': only matrix memories have it")
        if how.gradient != "anchor":
            raise InputError(f"gradient: expected 'anchor' for mlp memories, got {how.gradient!r}: leave it out")
        self.num_heads, self.width, self.how = num_heads, width, how
        self.hidden = width if hidden is None else hidden
        self.nets = (*(name for name in how.vectors if name in how.adaptive), "memory")
        self.surprise_limit = how.limit

        def normal(rows: int, columns: int, scale: float) -> nn.Parameter:
            return nn.Parameter(scale * columns**-0.5 * torch.randn(num_heads, rows, columns, generator=generator))

        self.initial = nn.ParameterDict()
        for name in self.nets:
            self.initial[f"{name}_first"] = normal(self.hidden, width, 1.0)
            self.initial[f"{name}_second"] = normal(width, self.hidden, 0.1)
        for name in how.vectors:
            if name not in self.nets:
                self.initial[name] = normal(width, width, 1.0)
        self.initial["rates"] = normal(len(how.rates), width, 0.1 / how.rate_gain)

    def start(self, batch: int) -> Weights:
        """Both stacks before the first token, [B, H, ...]."""
        dtype = state_dtype(self.initial["rates"])
        rates = self.how.rate_gain * self.initial["rates"]
        first = torch.cat([*(self.initial[f"{name}_first"] for name in self.nets), rates], dim=1)
        second = torch.stack([self.initial[f"{name}_second"] for name in self.nets], dim=1)
        return tuple(stack.to(dtype).expand(batch, *stack.shape) for stack in (first, second))

    def initial_memories(self) -> dict[str, Weights]:
        """The initial weights by name, each [H, out, in]."""
        found: dict[str, Weights] = {name: (self.initial[name],) for name in self.how.vectors if name not in self.nets}
        for name in self.nets:
            found[name] = (self.initial[f"{name}_first"], self.initial[f"{name}_second"])
        for row, name in enumerate(self.how.rates):
            found[name] = (self.how.rate_gain * self.initial["rates"][:, row : row + 1],)
        return found

    def whole(self, memory: Weights) -> Weights:
        """The stacks of a state, as they are."""
        return memory

    def materialise(self, memory: Weights) -> dict[str, Weights]:
        """The weights of every memory by name, each [B, H, out, in]; static projections as they are."""
        first, second = memory
        found: dict[str, Weights] = {
            name: tuple(weight.to(first.dtype).expand(len(first), *weight.shape) for weight in weights)
            for name, weights in self.initial_memories().items()
        }
        for i, name in enumerate(self.nets):
            found[name] = (first[..., i * self.hidden : (i + 1) * self.hidden, :], second[..., i, :, :])
        for row, name in enumerate(self.how.rates):
            if name in self.how.adaptive:
                place = len(self.nets) * self.hidden + row
                found[name] = (first[..., place : place + 1, :],)
        return found

    def maps(self, batch: int, dtype: torch.dtype) -> Maps:
        """The static projections ready for `project`."""

        def factor(name: str) -> Tensor:
            return self.initial[name].to(dtype).mT.expand(batch, -1, -1, -1).flatten(0, 1)

        rates = self.how.rate_gain * factor("rates")
        moving = torch.tensor([float(name in self.how.adaptive) for name in self.how.rates]).to(rates)
        vectors = [None if name in self.nets else factor(name) for name in self.how.vectors]
        return Maps(vectors, rates * (1 - moving), moving)

    def project(self, view: Tensor, anchor: Weights, maps: Maps) -> Tensor:
        """M_b(x_t) of every projected name at the anchor: view [R, C, K] to [R, C, columns]."""
        first, second = anchor
        count = len(self.nets) - 1
        answers = list(self._answers(view, first[:, : count * self.hidden], second[:, :count]).unbind(1))
        parts = [answers.pop(0) if static is None else torch.bmm(view, static) for static in maps.vectors]
        rows = first[:, len(self.nets) * self.hidden :]
        return torch.cat([*parts, torch.bmm(view, rows.mT) * maps.moving + torch.bmm(view, maps.rates)], dim=-1)

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
            memory: both stacks, [R, ...].
            anchor: the same at the anchor.
            surprise: the accumulators, or empty.

        Returns:
            the answers [R, C, K], the new stacks and the new accumulators.
        """
        nets, first_share = len(self.nets), shares(key, rates, self.how)
        scale = 1.0 if first_share.gradient_scale is None else first_share.gradient_scale
        seen, errors, back = self._surprises(key, value, anchor, scale)
        past = surprise if surprise else (None, None)
        coefficients = spans(rates.log_alpha, rates.momentum)
        push = pushes(key, -first_share.write * back, first_share.erase, memory[0], past[0], coefficients)

        many = _repeated(coefficients, nets)
        second_share = shares(seen, _repeated_rates(rates, nets), self.how)
        seconds, past_seconds = memory[1].flatten(0, 1), None if past[1] is None else past[1].flatten(0, 1)
        second_push = pushes(seen, -second_share.write * errors, second_share.erase, seconds, past_seconds, many)

        if self.how.read == "anchor":
            place = slice((nets - 1) * self.hidden, nets * self.hidden)
            answer = self._answers(query, anchor[0][:, place], anchor[1][:, -1:])[:, 0]
        else:
            answer = self._read(query, key, seen, (push, second_push), memory, past, coefficients)
        new_first, kept_first = advance(key, push, memory[0], past[0], coefficients)
        new_second, kept_second = advance(seen, second_push, seconds, past_seconds, many)
        new = (new_first, new_second.unflatten(0, (-1, nets)))
        if kept_first is None or kept_second is None:
            return answer, new, ()
        return answer, new, (kept_first, kept_second.unflatten(0, (-1, nets)))

    def move(self, ended: Tensor, memory: Weights, anchor: Weights) -> Weights:
        """Anchors that follow the memory in rows [R, 2] whose chunk (of the projections, of the memory) has ended."""
        nets = [0] * (len(self.nets) - 1) + [1]
        rows = [which for which in nets for _ in range(self.hidden)] + [0] * len(self.how.rates)
        chosen = (ended[:, rows].unsqueeze(-1), ended[:, nets, None, None])
        return tuple(map(torch.where, chosen, memory, anchor))

    def complete(self, found: Tensor) -> Tensor:
        """What is found as it is, for answers are complete."""
        return found

    def fold(self, output: Tensor) -> Tensor:
        """The output map as it is, for answers are complete."""
        return output

    def _answers(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """M(x) of stacked memories: [R, C, K] to [R, nets, C, K]."""
        nets = second.shape[1]
        hidden = F.silu(torch.bmm(x, first.mT)).unflatten(-1, (nets, self.hidden)).transpose(1, 2)
        return x.unsqueeze(1) + hidden @ second.mT

    def _surprises(
        self, key: Tensor, value: Tensor, anchor: Weights, scale: Tensor | float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs [R nets, C, F] and surprises [R nets, C, K] of the second maps, surprises of the first stack.

        Backpropagation by hand of 1/2 |M_b(k) - M_b(v)|^2, the target held fixed.
        """
        first, second = anchor
        nets, rows = len(self.nets), len(self.how.rates)
        first, row = first.split((nets * self.hidden, rows), dim=1)
        target = limited(self._answers(value, first, second), self.how.limit)
        row_target = limited(torch.bmm(value, row.mT).unsqueeze(-1), self.how.limit).squeeze(-1)
        row_error = scale * torch.bmm(key, row.mT) - row_target

        below = (scale * torch.bmm(key, first.mT)).unflatten(-1, (nets, -1)).transpose(1, 2)
        scale = scale.unsqueeze(1) if isinstance(scale, Tensor) else scale
        hidden = F.silu(below)
        error = key.unsqueeze(1) + scale * (hidden @ second.mT) - target
        back = SILU.derivative(below) * scale * (error @ second)
        if self.surprise_limit is not None:
            error = _within(error, hidden, self.surprise_limit)
            back = _within(back, key.unsqueeze(1), self.surprise_limit)
        stacked = torch.cat([back.transpose(1, 2).flatten(-2), row_error], dim=-1)
        return hidden.flatten(0, 1), error.flatten(0, 1), stacked

    def _read(
        self,
        query: Tensor,
        key: Tensor,
        seen: Tensor,
        push: tuple[Tensor, Tensor],
        memory: Weights,
        past: tuple[Tensor | None, ...],
        coefficients: Spans,
    ) -> Tensor:
        """The memory's answers with all writes up to each token."""
        nets = len(self.nets)
        place = slice((nets - 1) * self.hidden, nets * self.hidden)
        behind = None if past[0] is None else past[0][:, place]
        below = read(query, key, push[0][..., place], memory[0][:, place], behind, coefficients)
        own_seen, own_push = (part.unflatten(0, (-1, nets))[:, -1] for part in (seen, push[1]))
        behind = None if past[1] is None else past[1][:, -1]
        return query + read(F.silu(below), own_seen, own_push, memory[1][:, -1], behind, coefficients)


def _within(surprise: Tensor, seen: Tensor, limit: float) -> Tensor:
    """Scaled down where |surprise| |input| exceeds the limit."""
    size = torch.linalg.vector_norm(surprise, dim=-1, keepdim=True)
    size = size * torch.linalg.vector_norm(seen, dim=-1, keepdim=True)
    return surprise * (limit / size.clamp(min=limit))


def _repeated(coefficients: Spans, times: int) -> Spans:
    return Spans(*(None if part is None else part.repeat_interleave(times, dim=0) for part in coefficients))  # pyright: ignore[reportArgumentType]


def _repeated_rates(rates: Rates, times: int) -> Rates:
    return Rates(*(None if part is None else part.repeat_interleave(times, dim=0) for part in rates))  # pyright: ignore[reportArgumentType]
