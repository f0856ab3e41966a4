"""Which context an input belongs to: a least-squares memory from keys to the number of the context."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nestling.memory.cosine_features import CosineFeatures
from nestling.rules import least_squares

RIDGE = 1e-3


class ContextGate(nn.Module):
    """Sums of random keys, from which the context of an input is read by least squares.

    A = sum over all inputs of phi phi^T,   B[c] = sum over context c of phi
    context of x = argmax_c B[c] (A + ridge I)^-1 phi(x)

    The value of a pair is one-hot, so a context is one more row of B: contexts can be added at any time, order does not
    matter and no input is stored.

    Source: NL eq. 59-60 with retention over all inputs.

    Args:
        num_inputs: D.
        num_features: random cosines of a key.
        seed: of the keys.
    """

    gram: Tensor
    sums: Tensor

    def __init__(self, *, num_inputs: int, num_features: int, seed: int) -> None:
        super().__init__()
        self.keys = CosineFeatures(num_inputs=num_inputs, num_features=num_features, bandwidths=(1.0,), seed=seed)
        self.register_buffer("gram", torch.zeros(self.keys.width, self.keys.width, dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(0, self.keys.width, dtype=torch.float64))
        self._weight: Tensor | None = None

    @torch.no_grad()
    def write(self, inputs: Tensor, context: int) -> None:
        """Inputs [N, D] belong to `context`, at most the number of contexts so far (that begins the next one)."""
        self.keys.fit(inputs)
        keys = self.keys(inputs).double()
        if context == len(self.sums):
            self.sums = torch.cat([self.sums, torch.zeros_like(keys[:1])])
        self.sums[context] += keys.sum(dim=0)
        self.gram.addmm_(keys.T, keys)
        self._weight = None

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Index [N] int64 of the context of each input [N, D]."""
        if self._weight is None:
            ridge = RIDGE * self.gram.diagonal().mean()
            self._weight = least_squares.solve(self.gram, self.sums.T, ridge=ridge).float()
        return (self.keys(inputs) @ self._weight.T).argmax(dim=1)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Load what `state_dict` returned, with however many contexts it had."""
        self.sums = torch.zeros_like(state["sums"])
        self.load_state_dict(state)
        self._weight = None
