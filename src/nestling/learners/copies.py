"""Several copies of a module that answer together: the same network with more parameters, as a control."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from nestling.errors import InputError


class AverageOfCopies(nn.Module):
    """f(x) = 1/K sum_k f_k(x), all f_k of one architecture, each with initial weights of its own.

    Trained as one module, on the loss of the average. It has K times the parameters of one copy, which makes it a
    control for strategies that read many numbers: is it their size that helps?

    Source: the average of a deep ensemble (Lakshminarayanan et al. 2017, arXiv 1612.01474), there with members
    trained apart and probabilities averaged; here logits (numbers for regression) and one loss.

    Args:
        copies: K >= 1 modules from inputs [N, ...] to outputs of one shape.
    """

    def __init__(self, copies: list[nn.Module]) -> None:
        super().__init__()
        self.copies = nn.ModuleList(copies)

    def forward(self, inputs: Tensor) -> Tensor:
        """The mean output of all copies."""
        return torch.stack([each(inputs) for each in self.copies]).mean(dim=0)


def average_of_copies(module: nn.Module, num_copies: int, seed: int) -> nn.Module:
    """`module` itself for one copy, else an average of it and of `num_copies - 1` others with weights drawn anew.

    Args:
        module: its weights are those of the first copy; it is trained in place.
        num_copies: >= 1, K.
        seed: the weights of copy k derive from it and from k. Torch's global generator is left as it was.
    Raises: InputError for fewer than one copy, and for a part that cannot draw its weights anew.
    """
    if num_copies < 1:
        raise InputError(f"expected num_copies >= 1, got {num_copies}; 1 is the module itself")
    if num_copies == 1:
        return module
    others = [drawn_anew(module, _seed_of_copy(seed, index)) for index in range(1, num_copies)]
    return AverageOfCopies([module, *others])


def drawn_anew(module: nn.Module, seed: int) -> nn.Module:
    """A copy of `module` whose trainable weights are initial ones drawn from `seed`; frozen weights are kept.

    Every part with trainable weights of its own is asked to `reset_parameters()`, as the layers of torch can; weights
    that the constructor changed after that are therefore not those of a new construction.

    Raises: InputError naming a part that has no `reset_parameters`.
    """
    fresh = copy.deepcopy(module)
    frozen = [(weight, weight.detach().clone()) for weight in fresh.parameters() if not weight.requires_grad]
    devices = sorted({weight.device.index or 0 for weight in fresh.parameters() if weight.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        for reset in _resets(fresh):
            reset()
        for weight, before in frozen:
            weight.copy_(before)
    return fresh


def _resets(module: nn.Module) -> Iterator[Callable[[], object]]:
    for name, part in module.named_modules():
        if not any(weight.requires_grad for weight in part.parameters(recurse=False)):
            continue
        reset = getattr(part, "reset_parameters", None)
        if not callable(reset):
            place = f"its part {name!r}, a {type(part).__name__}," if name else f"{type(part).__name__}"
            raise InputError(
                f"num_copies above 1 needs initial weights to draw anew, but the model cannot: {place} has weights and "
                "no reset_parameters(); give it that method, or leave num_copies at 1"
            )
        yield reset


def _seed_of_copy(seed: int, index: int) -> int:
    digest = hashlib.sha256(f"copy {index} of seed {seed}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
