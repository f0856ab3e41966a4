"""Self-modifying Titans: memories that make their own keys, values, rates and targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nestling.errors import InputError, UnknownNameError
from nestling.layers.self_modifying_matrix import MatrixMemories
from nestling.layers.self_modifying_mlp import MlpMemories
from nestling.layers.self_modifying_options import Options, lowest_retention, rate_bias, token_rates
from nestling.layers.self_modifying_pieces import joined, pieces, split_tokens
from nestling.layers.self_modifying_sequence import MatrixSequence, MlpSequence
from nestling.layers.self_modifying_state import SelfModifyingState
from nestling.layers.self_modifying_token import write_and_read_token
from nestling.memory.base import Memory, state_dtype, unit
from nestling.memory.output import NormedOutput, answer, make_output
from nestling.memory.short_convolution import convolve, random_taps
from nestling.memory.state import Weights

# Its logarithm must be finite.
SMALLEST_MOMENTUM = 1e-6

KINDS: dict[str, type[MatrixMemories | MlpMemories]] = {"matrix": MatrixMemories, "mlp": MlpMemories}


class SelfModifyingTitans(Memory[SelfModifyingState]):
    """The self-modifying memories of Hope.

    z_t = x_t W_in,   q_t = x_t W_q
    k_t = M_k(z_t), v_t = M_v(z_t), eta_t = M_eta(z_t), alpha_t = M_alpha(z_t)             (83, 86)
    vhat_b,t = M_b(v_t) for every memory b                                                 (84, 87)
    M_b <- M_b (alpha_t I - eta_t k_t k_t^T) - eta_t grad L(M_b; k_t, vhat_b,t)            (88)
    y_t = W_out M_memory(q_t)

    L is the L2 objective. Projections, targets and (for memories that are not linear, or on request) gradients are
    taken at the end of the last full chunk (90); writes, decay, erase and momentum act token by token. With
    chunk_size 1 this is (88) exactly. Gradients of an outer loss run through all writes.

    What the paper leaves open, and what is chosen here:
    - A head's memories read its own learned view z of the token, for writes act on keys of width K.
    - q and k are scaled to length 1 after the convolution.
    - Momentum is S <- mu S + (what a write changes besides the decay), M <- alpha M + S, with eta (1 - mu) for eta.
    - Targets longer than `limit` are scaled down: idle in ordinary use, and memories stay finite on any input.
    - L2 with DGD erases twice, so a pair seen again and again settles half way: at vhat / 2 for a matrix, at
      (k + vhat) / 2 for a residual memory. Explicit rates are at most alpha / 2, so that alpha - 2 eta >= 0.
    - Matrix memories have no source but their initial state, so a new layer writes and forgets slowly: head h keeps
      about 1 / e of its start for span * span_ratio^(h / (H - 1)) tokens, and learns its rates from there.
    - decay_to "initial" decays and erases the deviation from the initial memory, M - M_0, in place of M. The start is
      then never lost, so heads may forget within a few tokens.

    Source: NL 8, eq. 83-93.

    Args:
        dim: width D of the tokens.
        num_heads: H.
        head_dim: K; None is dim / num_heads.
        kind: "matrix" or "mlp" (2-layer residual, NL 89).
        hidden: width F inside an mlp memory; None is K.
        chunk_size: tokens that share one anchor of the projections, >= 1.
        memory_chunk_size: the same for the memory that is read; None is chunk_size.
        dgd: "implicit", "explicit" (as printed) or "off".
        gradient: "current" or "anchor", see `Options`; None is "current" for matrices and "anchor" for mlp.
        read: "causal" or "anchor".
        momentum: whether writes have momentum.
        weight_decay: whether there is alpha.
        adaptive: projections that are memories, of key, value, query, eta, alpha; the others are static.
        conv_width: of the short convolutions on q, k and v; 1 leaves them out.
        output: "linear", "normed" or "gated", see `memory.output`.
        limit: largest length of a target, in front of the common initial factor for matrices; None does not limit.
        span: tokens that the fastest head remembers at the start, > 1.
        negative_eigenvalues: whether a write may turn what stands along its key around, see `Options`; matrix only.
        decay_to: "zero" as printed, or "initial", see `Options`; matrix only.
        span_ratio: how many times as long the slowest head remembers at the start, >= 1; one head alone is between.
        gate: share of a token's own direction that is written at the start, in (0, 1); None is what keeps a head's
            start for its span.
        span_floor: bound on how fast a head may forget, in (0, 1): decay takes at most 1 / (span_floor * its first
            span) per token; None lets every head wipe its memory with one token. For weight_decay.
        rate_gain: how much faster Adam learns eta and alpha, > 0, see `Options`.
        seed: of the initial memories.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        head_dim: int | None = None,
        kind: str = "matrix",
        hidden: int | None = None,
        chunk_size: int = 64,
        memory_chunk_size: int | None = None,
        dgd: str = "implicit",
        gradient: str | None = None,
        read: str = "causal",
        momentum: bool = False,
        weight_decay: bool = True,
        adaptive: Sequence[str] = ("key", "value", "eta", "alpha"),
        conv_width: int = 4,
        output: str = "linear",
        limit: float | None = 4.0,
        span: float = 2.0**15,
        negative_eigenvalues: bool = False,
        decay_to: str = "zero",
        span_ratio: float = 8.0,
        gate: float | None = None,
        span_floor: float | None = None,
        rate_gain: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        if kind not in KINDS:
            raise UnknownNameError("kind of memory", kind, KINDS)
        self.kind, self.chunk_sizes = kind, (chunk_size, memory_chunk_size or chunk_size)
        if min(self.chunk_sizes) < 1 or conv_width < 1 or not span > 1:
            raise InputError(
                f"expected chunk sizes >= 1, conv_width >= 1 and span > 1, got {self.chunk_sizes}, {conv_width}, {span}"
            )
        self.how = Options(
            dgd=dgd,
            gradient=gradient or ("current" if kind == "matrix" else "anchor"),
            read=read,
            momentum=momentum,
            weight_decay=weight_decay,
            adaptive=tuple(adaptive),
            limit=limit,
            negative_eigenvalues=negative_eigenvalues,
            decay_to=decay_to,
            rate_gain=rate_gain,
        )
        self.conv_width, self.width = conv_width, num_heads * self.head_dim
        self.memories = KINDS[kind](
            num_heads=num_heads,
            width=self.head_dim,
            hidden=hidden,
            how=self.how,
            two_anchors=self.chunk_sizes[0] != self.chunk_sizes[1],
            generator=torch.Generator().manual_seed(seed),
        )
        static_query = not self.how.adaptive_query
        self.input = nn.Linear(dim, (1 + static_query) * self.width, bias=False)
        self.momentum = nn.Linear(dim, num_heads) if momentum else None
        if not span_ratio >= 1 or (gate is not None and not 0 < gate < 1):
            raise InputError(f"expected span_ratio >= 1 and gate None or in (0, 1), got {span_ratio} and {gate}")
        if span_floor is not None and not 0 < span_floor < 1:
            raise InputError(f"span_floor: expected None or a share in (0, 1), got {span_floor}")
        place = [head / (num_heads - 1) for head in range(num_heads)] if num_heads > 1 else [0.5]
        spans = [span * span_ratio**part for part in place]
        self.lowest = lowest_retention(spans, span_floor)
        self.rate_bias = nn.Parameter(rate_bias(spans, self.head_dim, gate, self.how, self.lowest) / rate_gain)
        convolved = conv_width > 1
        taps = random_taps(conv_width, num_heads, 3 * self.head_dim).transpose(0, 1).contiguous()
        self.taps = nn.Parameter(taps) if convolved else None
        usual = self.how.is_plain if kind == "matrix" else self.how.is_plain_mlp
        self.is_fused = convolved and self.chunk_sizes[0] == self.chunk_sizes[1] and usual
        self.output = make_output(output, dim=dim, num_heads=num_heads, head_dim=self.head_dim)
        with torch.no_grad():
            # Views of length about 1, the length of keys; answers of a residual memory have it too.
            self.input.weight[: self.width].mul_((3 / self.head_dim) ** 0.5)
            if kind == "mlp" and output == "linear":
                self.output.weight.mul_(self.head_dim**0.5)

    def initial_state(self, batch: int) -> SelfModifyingState:
        """The learned memories in every row."""
        memory = self.memories.start(batch)
        shape = (batch, self.num_heads, self.conv_width - 1, 3 * self.head_dim)
        return SelfModifyingState(
            memory=memory,
            anchor=memory,
            position=torch.zeros(batch, 2, dtype=torch.int64),
            tail=memory[0].new_zeros(shape),
            surprise=tuple(torch.zeros_like(weight) for weight in memory) if self.how.momentum else (),
        )

    def mix(self, x: Tensor, state: SelfModifyingState) -> tuple[Tensor, SelfModifyingState]:
        """Write and read [B, T, D]; see `Memory.forward`."""
        if self.is_fused and self.kind == "matrix" and x.shape[1] == 1 and not torch.is_grad_enabled():
            return self._one_token(x, state)
        mapped = self.input(x)
        logits = None if self.momentum is None else self.momentum(x)
        with torch.autocast(x.device.type, enabled=False):
            answers, state = self._run(mapped, logits, state)
            if isinstance(self.output, NormedOutput):
                answers = self.memories.complete(answers)
            else:
                weight = self.memories.fold(self.output.weight)
                return F.linear(answers.to(x.dtype), weight.to(x.dtype)), state
        return self.output(answers, x), state

    def _run(
        self, mapped: Tensor, logits: Tensor | None, state: SelfModifyingState
    ) -> tuple[Tensor, SelfModifyingState]:
        """From W_in x, W_q x and the logits of the momentum to what memories find [B, T, H K], chunk by chunk."""
        (batch, length), dtype = mapped.shape[:2], state_dtype(self.rate_bias)
        momentum = None
        if logits is not None:
            momentum = torch.sigmoid(logits.to(dtype)).clamp(min=SMALLEST_MOMENTUM).mT.reshape(-1, length)
        view, *query = (self._by_head(part) for part in mapped.to(dtype).split(self.width, dim=-1))
        steps, aligned = pieces(length, state.position.tolist(), self.chunk_sizes), not state.position.any()
        steps = joined(steps, aligned) if self.is_fused else steps
        lengths = [step for step, _ in steps]
        maps: Any = self.memories.maps(batch, dtype)
        bias, lowest = self._bias(batch, dtype), self._lowest(batch, dtype)
        taps = None if self.taps is None else _rows(self.taps.to(dtype), batch)
        memory, anchor, surprise = (
            tuple(weight.flatten(0, 1) for weight in weights)
            for weights in (state.memory, state.anchor, state.surprise)
        )
        tail, found, cut = state.tail.flatten(0, 1), [], (self.chunk_sizes[0], torch.is_grad_enabled())
        parts = zip(*(split_tokens(part, lengths) for part in (view, query[0] if query else None, momentum)), steps)
        for z, q, mu, (_, position) in parts:
            if aligned and self.is_fused and self.kind == "matrix":
                given = (z, q, memory[0].mT, maps.adaptive, bias, taps, tail, lowest)
                read, after, tail = MatrixSequence.apply(*given, self.how, *cut)
                memory = (after.mT,)
            elif aligned and self.is_fused:
                given = (z, q, *memory, bias, taps, tail, lowest)
                read, first, second, tail = MlpSequence.apply(*given, self.how.limit, *cut)
                memory = (first, second)
            else:
                raw = self.memories.project(z, anchor, maps)
                key, value, q, rates = self._parts(raw, q)
                if taps is not None:
                    vectors, tail = convolve(torch.cat([key, q, value], dim=-1), tail, taps)
                    key, q, value = vectors.split(self.head_dim, dim=-1)
                tokens = (unit(q), unit(key), value, token_rates(rates + bias, mu, self.how, lowest))
                read, memory, surprise = self.memories.write(*tokens, memory, anchor, surprise)
            aligned, anchor = not any(map(any, position)), self._move_anchor(anchor, memory, position)
            found.append(read)
        answers = torch.cat(found, dim=1) if found else view
        memory, anchor, surprise = (
            tuple(weight.unflatten(0, (batch, -1)) for weight in weights) for weights in (memory, anchor, surprise)
        )
        last = state.position if not steps else state.position.new_tensor(steps[-1][1])
        after = SelfModifyingState(memory, anchor, last, tail.unflatten(0, (batch, -1)), surprise)
        return answers.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2), after

    def _one_token(self, x: Tensor, state: SelfModifyingState) -> tuple[Tensor, SelfModifyingState]:
        """One token [B, 1, D] of matrix memories with the usual options, without gradients."""
        batch, dtype = len(x), state_dtype(self.rate_bias)
        mapped = self.input(x).to(dtype).view(batch, 2, self.num_heads, self.head_dim)
        view, query = mapped.transpose(0, 1).reshape(2, -1, 1, self.head_dim).unbind()
        memory, anchor, tail = (part.flatten(0, 1) for part in (state.memory[0], state.anchor[0], state.tail))
        assert self.taps is not None
        assert isinstance(self.memories, MatrixMemories)
        maps = self.memories.columns(batch, dtype)
        bias, taps = self._bias(batch, dtype), _rows(self.taps.to(dtype), batch)
        with torch.autocast(x.device.type, enabled=False):
            tokens = view, query, memory, anchor, maps, bias, taps, tail, self._lowest(batch, dtype)
            found, after, tail = write_and_read_token(*tokens, self.how)
            found = torch.matmul(found.unflatten(0, (batch, -1)), self.memories.initial["memory"].to(dtype).mT)
        y = answer(self.output, found.flatten(1).unsqueeze(1), x)
        ((_, position),) = pieces(1, state.position.tolist(), self.chunk_sizes)
        (anchor,) = self._move_anchor((anchor,), (after,), position)
        return y, SelfModifyingState(
            memory=(after.unflatten(0, (batch, -1)),),
            anchor=(anchor.unflatten(0, (batch, -1)),),
            position=state.position.new_tensor(position),
            tail=tail.unflatten(0, (batch, -1)),
        )

    def _bias(self, batch: int, dtype: torch.dtype) -> Tensor:
        """What is added to the logits of the rates, [R, 1, rates]."""
        return _rows(self.how.rate_gain * self.rate_bias.unsqueeze(1).to(dtype), batch)

    def _lowest(self, batch: int, dtype: torch.dtype) -> Tensor | None:
        """What alpha cannot go below, [R, 1, 1]."""
        if self.lowest is None:
            return None
        return _rows(torch.tensor(self.lowest, dtype=dtype, device=self.rate_bias.device).view(-1, 1, 1), batch)

    def _parts(self, raw: Tensor, query: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Key, value, query and the logits of the rates of what was projected and, if it is static, the query."""
        key, value, *made, rates = raw.split([self.head_dim] * len(self.how.vectors) + [len(self.how.rates)], dim=-1)
        return key, value, made[0] if query is None else query, rates

    def named_memories(self, state: SelfModifyingState) -> dict[str, Weights]:
        """The weights of every memory of a state by name (key, value, eta, alpha, memory), each [B, H, out, in]."""
        return self.memories.materialise(self.memories.whole(state.memory))

    def _by_head(self, tokens: Tensor) -> Tensor:
        """[B, T, H K] to [R, T, K]."""
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2).flatten(0, 1)

    def _move_anchor(self, anchor: Weights, memory: Weights, position: list[list[int]]) -> Weights:
        """The memories become the anchor of the rows whose chunk has ended."""
        if not any(map(any, position)):
            return memory
        if all(map(all, position)):
            return anchor
        ended = torch.tensor(position, device=memory[0].device) == 0
        return self.memories.move(ended.repeat_interleave(self.num_heads, dim=0), memory, anchor)

    def extra_repr(self) -> str:
        """For print."""
        return f"kind={self.kind!r}, dim={self.dim}, num_heads={self.num_heads}, chunk_sizes={self.chunk_sizes}"


def _rows(parameter: Tensor, batch: int) -> Tensor:
    """[H, ...] to [R, ...]."""
    return parameter.expand(batch, *parameter.shape).flatten(0, 1)
