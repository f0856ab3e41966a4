"""A small causal model of bytes, the default module of text streams."""

from __future__ import annotations

from torch import Tensor, nn

BYTES = 256


class ByteModel(nn.Module):
    """Embedding, `torch.nn.GRU`, linear head: logits of the next byte.

    h_t = GRU(h_{t-1}, E[x_t]),   logits_t = W h_t + b,   h_0 = 0 for every window

    Args:
        width: width of the embedding.   hidden: width of the recurrent state.   layers: of the GRU.
    """

    def __init__(self, *, width: int = 64, hidden: int = 256, layers: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BYTES, width)
        self.recurrent = nn.GRU(width, hidden, num_layers=layers, batch_first=True)
        self.head = nn.Linear(hidden, BYTES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [N, L, 256] for bytes [N, L] int64; position t sees bytes up to t only."""
        states, _ = self.recurrent(self.embedding(inputs))
        return self.head(states)


def make_byte_model() -> nn.Module:
    """A fresh ByteModel of about 0.33 million parameters; seed torch before."""
    return ByteModel()
