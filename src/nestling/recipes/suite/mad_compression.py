"""MAD: compression. A random sequence must be read off the state at its last token alone, by a small decoder.

Source: MAD, arXiv 2403.17844, section 3.1 and appendix B; sizes of its baseline; the decoder is a two-layer MLP that
is told the place by sines and cosines.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nestling.recipes.suite.synthetic import Batch, SyntheticTask

__all__ = ["COMPRESSION", "Decoder"]

LENGTH, NUM_TOKENS = 32, 15
END = NUM_TOKENS


def _draw(batch: int, part: str, generator: torch.Generator) -> Batch:
    del part
    tokens = torch.randint(NUM_TOKENS, (batch, LENGTH), generator=generator)
    tokens[:, -1] = END
    asked = torch.ones_like(tokens, dtype=torch.bool)
    asked[:, -1] = False
    return Batch(tokens, tokens.clone(), asked)


class Decoder(nn.Module):
    """logits_t = W MLP(h_T + place_t): every answer from the hidden state at the last token.

    Args:
        model: a causal language model of transformers.
        dim: its width D, even.
        num_answers: S.
    """

    def __init__(self, model: Any, *, dim: int, num_answers: int) -> None:
        super().__init__()
        self.model = model
        self.layers = nn.Sequential(
            nn.RMSNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.RMSNorm(dim), nn.Linear(dim, dim), nn.GELU()
        )
        self.output = nn.Linear(dim, num_answers)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T, S] from [B, T]."""
        hidden = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[:, -1:]
        return self.output(self.layers(hidden + _places(tokens.shape[1], hidden.shape[-1]).to(hidden)))


def _places(length: int, dim: int) -> Tensor:
    """[T, D]: sines, then cosines, of wavelengths from 2 pi to 20,000 pi."""
    frequency = torch.exp(-math.log(10_000) * torch.arange(dim // 2) / (dim // 2 - 1))
    angle = torch.arange(length).unsqueeze(1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


COMPRESSION = SyntheticTask(
    name="compression",
    summary="31 random tokens, all to be read off the state at the last token",
    source="MAD, arXiv 2403.17844",
    vocab_size=NUM_TOKENS + 1,
    kind="token",
    num_answers=NUM_TOKENS,
    draw=_draw,
    chance={"place": 1 / NUM_TOKENS},
    decoder="compression",
)
