"""A layer as a linear memory: its weights as one matrix, what it reads as keys.

    y = [W b] (x, 1)        W is the memory, the layer's input x its key, minus the output gradient its value

Source: NL eq. 8, 29-31. A layer with groups, a convolution for example, is that many memories beside each other: G.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LayerMap", "is_embedding", "is_linear_map"]


def is_embedding(module: nn.Module) -> bool:
    """Whether the keys are one-hot."""
    return isinstance(module, nn.Embedding)


def is_linear_map(module: nn.Module) -> bool:
    """Whether the layer is a linear memory known here: Linear, Conv1d, Conv2d, Embedding, transformers' Conv1D."""
    return isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)) or _is_turned(module)


def _is_turned(module: nn.Module) -> bool:
    """transformers' Conv1D, a linear layer whose weight is [in, out]; told by name so that it need not be installed."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and getattr(module, "weight", None) is not None


@dataclass(frozen=True, kw_only=True)
class LayerMap:
    """One layer whose weight is trained, perhaps with its bias.

    name:      as in named_modules.
    module:    the layer.
    has_bias:  whether the bias is trained too; it is then the last column of the memory, with the key 1.
    """

    name: str
    module: Any
    has_bias: bool

    @property
    def weight(self) -> Tensor:
        """The layer's weight."""
        return self.module.weight

    @property
    def groups(self) -> int:
        """Memories beside each other."""
        return self.module.groups if isinstance(self.module, (nn.Conv1d, nn.Conv2d)) else 1

    @property
    def key_width(self) -> int:
        """Width of a key, with the constant 1 for the bias."""
        if is_embedding(self.module):
            return self.module.num_embeddings
        width = self.weight.shape[0] if _is_turned(self.module) else self.weight[0].numel()
        return width + self.has_bias

    def parameters(self) -> list[Tensor]:
        """Weight, and bias if it is trained."""
        return [self.weight, self.module.bias] if self.has_bias else [self.weight]

    def pack(self, tensors: list[Tensor]) -> Tensor:
        """What has the shapes of `parameters` as one matrix [G, out, K]. For an embedding this is [1, rows, width]."""
        weight = tensors[0]
        weight = (
            weight.mT.unsqueeze(0) if _is_turned(self.module) else weight.reshape(self.groups, -1, weight[0].numel())
        )
        if self.has_bias:
            weight = torch.cat([weight, tensors[1].view(self.groups, -1, 1)], dim=-1)
        return weight

    def unpack(self, matrix: Tensor) -> list[Tensor]:
        """The inverse of `pack`."""
        weight = matrix[..., :-1] if self.has_bias else matrix
        weight = weight[0].mT if _is_turned(self.module) else weight
        parts = [weight.reshape(self.weight.shape)]
        return [*parts, matrix[..., -1].flatten()] if self.has_bias else parts

    def keys(self, inputs: Tensor) -> Tensor:
        """Keys [G, n, K] of one call of the layer; for an embedding how often each row was read, [rows]."""
        if is_embedding(self.module):
            return self._counts(inputs)
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        if isinstance(self.module, (nn.Conv1d, nn.Conv2d)):
            keys = self._patches(inputs.to(dtype))
        else:
            keys = inputs.to(dtype).reshape(1, -1, inputs.shape[-1])
        return F.pad(keys, (0, 1), value=1.0) if self.has_bias else keys

    def _counts(self, inputs: Tensor) -> Tensor:
        rows = inputs.flatten()
        if self.module.padding_idx is not None:
            rows = rows[rows != self.module.padding_idx]
        counts = torch.bincount(rows, minlength=self.module.num_embeddings)
        return counts.to(torch.promote_types(self.weight.dtype, torch.float32))

    def _patches(self, images: Tensor) -> Tensor:
        conv = self.module
        axes = conv.weight.ndim - 2
        images = images if images.ndim == axes + 2 else images.unsqueeze(0)
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        images = F.pad(images, conv._reversed_padding_repeated_twice, mode=mode)
        kernel, dilation, stride = conv.kernel_size, conv.dilation, conv.stride
        if axes == 1:
            images = images.unsqueeze(-2)
            kernel, dilation, stride = (1, *kernel), (1, *dilation), (1, *stride)
        patches = F.unfold(images, kernel, dilation=dilation, stride=stride)  # [B, in * kernel, places]
        patches = patches.unflatten(1, (conv.groups, -1))
        return patches.permute(1, 0, 3, 2).flatten(1, 2)
