"""As many parameters for every model of a size, counted on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from nestling.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["count_parameters", "fit_number", "fit_width"]

Make = Callable[[int], "PreTrainedConfig"]


def count_parameters(config: PreTrainedConfig) -> int:
    """Trainable parameters of a model with this configuration, tied ones once. No memory is taken for them."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def fit_number(make: Make, *, target: int, granule: int) -> int:
    """The multiple of `granule`, at least one, with which `make` comes nearest to `target` parameters.

    The count must grow along a straight line with the number, as it does with the width of an MLP.

    Raises:
        InputError: the rest of the model alone has far more parameters than wanted.
    """
    low, high = granule, 2 * granule
    at_low, at_high = count_parameters(make(low)), count_parameters(make(high))
    slope = (at_high - at_low) / granule
    found = low + (target - at_low) / slope
    if found < 0:
        raise InputError(
            f"expected a model of about {target:,} parameters, but without its MLPs it has {at_low - slope * low:,.0f} "
            "already: choose a larger size or smaller memories"
        )
    return max(1, round(found / granule)) * granule


def fit_width(make: Make, *, target: int, granule: int) -> PreTrainedConfig:
    """`make` at the width of MLPs that gives about `target` parameters; see `fit_number`."""
    return make(fit_number(make, target=target, granule=granule))
