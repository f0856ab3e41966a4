"""The neural memory of Titans as a layer: reading and writing in one call, or reading alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nestling.errors import UnknownNameError
from nestling.memory.base import Memory
from nestling.memory.deep import DeepMemory
from nestling.memory.matrix import MatrixMemory
from nestling.memory.output import answer
from nestling.memory.state import WeightState
from nestling.ops.activations import activation_named

__all__ = ["NeuralMemory"]

KINDS = ("mlp", "matrix")


class NeuralMemory(Memory[WeightState]):
    """Titans' long-term memory (LMM): surprise with momentum and forgetting, deep or as a matrix.

    S <- mu S - eta grad |M(k) - v|^2 / 2,   M <- alpha M + S,   y = W_out M(q)

    Source: Titans (arXiv 2501.00663) section 3, eq. 8-15. An adapter of `memory.DeepMemory` and `memory.MatrixMemory`.

    Args:
        dim: width D of the tokens.
        num_heads: H.
        head_dim: None is dim / num_heads.
        kind: "mlp" (residual) or "matrix".
        hidden: width inside an mlp; None is 4 * head_dim.
        depth: maps of an mlp, >= 2.
        chunk_size: tokens that share one anchor.
        conv_width: of the short convolutions on q, k and v; 1 leaves them out.
        output: "linear", "normed" or "gated", see `memory.output`.
        seed: of the initial mlp.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        head_dim: int | None = None,
        kind: str = "mlp",
        hidden: int | None = None,
        depth: int = 2,
        chunk_size: int = 64,
        conv_width: int = 1,
        output: str = "linear",
        seed: int = 0,
    ) -> None:
        super().__init__(dim=dim, num_heads=num_heads, head_dim=head_dim)
        if kind not in KINDS:
            raise UnknownNameError("kind of memory", kind, KINDS)
        common: dict[str, Any] = {"dim": dim, "num_heads": num_heads, "head_dim": head_dim}
        common |= {"chunk_size": chunk_size, "conv_width": conv_width, "output": output}
        self.kind, self.chunk_size = kind, chunk_size
        if kind == "matrix":
            self.inner: DeepMemory | MatrixMemory = MatrixMemory("momentum", **common)
        else:
            self.inner = DeepMemory("momentum", hidden=hidden, depth=depth, seed=seed, **common)

    def initial_state(self, batch: int) -> WeightState:
        """The learned memory in every row."""
        return self.inner.initial_state(batch)

    def mix(self, x: Tensor, state: WeightState) -> tuple[Tensor, WeightState]:
        """Write and read [B, T, D]; see `Memory.forward`."""
        return self.inner.mix(x, state)

    def recall(self, x: Tensor, state: WeightState) -> Tensor:
        """Read without writing, from the anchor: what was known at the end of the last full chunk.

        M*(q), Titans eq. 15 and 21.

        Args:
            x: [B, T, D], from which queries are made.
            state: of this memory; unchanged.

        Returns:
            [B, T, D] in the type of x.
        """
        query = self.inner.project.stream(x, state.tail)[0].query.transpose(1, 2)
        found = query.to(state.memory[0].dtype)
        activate = None
        if isinstance(self.inner, DeepMemory):
            activate = activation_named(self.inner.anchoring.activation).function
        for layer, weight in enumerate(state.anchor):
            found = torch.matmul(found if layer == 0 or activate is None else activate(found), weight.mT)
        if activate is not None:
            found = query + found
        return answer(self.inner.output, found.transpose(1, 2).flatten(2), x)
