"""One row of the table of optimizers: what it is, in words, and how it is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from nestling.errors import InputError

Needs = Literal["parameters", "module"]


@dataclass(frozen=True, kw_only=True)
class OptimizerRow:
    """An optimizer of the table.

    name:       as in commands and files.
    optimizer:  the class.
    summary:    one line for people.
    update:     the update in one line.
    equations:  of the paper NL (arXiv 2512.24695).
    needs:      "parameters": an iterable of them or of groups is enough. "module": also `module=`, whose layers are
                watched for their inputs.
    reference:  torch's own class, without this package's fault handling.
    """

    name: str
    optimizer: type[torch.optim.Optimizer]
    summary: str
    update: str
    equations: str
    needs: Needs = "parameters"
    reference: bool = False

    def build(self, params: Iterable[Any], *, module: nn.Module | None = None, **options: Any) -> torch.optim.Optimizer:
        """The optimizer on these parameters or groups.

        Args:
            params: parameters, (name, parameter) pairs or group dictionaries, as every torch optimizer takes them.
            module: the module the parameters belong to; only used when the row needs it.
            options: of the class, such as lr.

        Raises:
            InputError: the row needs a module and none came, or an option out of range.
        """
        make: Callable[..., torch.optim.Optimizer] = self.optimizer
        if self.needs == "module":
            options["module"] = module
        if self.needs == "module" and module is None:
            raise InputError(f"{self.name}: expected module=, the module whose layer inputs it watches, got none")
        return make(params, **options)
