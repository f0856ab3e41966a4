"""The docs page of all optimizers, made from the table."""

from __future__ import annotations

from nestling.optim import OPTIMIZERS
from nestling.optim.row import OptimizerRow
from nestling.optim.which_when import WHICH_WHEN

INTRODUCTION = """\
<!-- Made by `python -m nestling.optim`; do not edit. -->
# Optimizers

An optimizer is an associative memory of gradients (*Nested Learning*, arXiv 2512.24695, section 4; `NL` below). All are
`torch.optim.Optimizer`s: parameter groups, `state_dict`, closures, schedulers, gradient scaling. A step whose gradients
hold NaN or infinity is left out and counted (`num_skipped`); it never enters a memory.

    from nestling.optim import M3, RecursiveDGD, optimizer_named
    optimizer = M3(model.parameters(), lr=1e-3)
    optimizer = RecursiveDGD(model.parameters(), module=model)       # watches the inputs of the model's layers
    optimizer = optimizer_named("dgd").build(model.parameters(), module=model, lr=0.1)

Those that need the module must be built before a compiled model is first called. `NestedOptimizer` makes levels of
parameter groups, each with its own update period, optimizer, accumulation and retention; `nestling levels`
([levels.md](levels.md)) shows what comes of it.

In several processes: those that need only parameters take sharded ones (FSDP2; in Muon and M3 every rank then iterates
on the whole matrix). Those that need the module refuse sharded ones; give them the DistributedDataParallel module, and
the inputs of all ranks count.

"""


CHOICE = """\
## When to use which

Small models, short runs, one CPU thread; a lower loss is better. Commands, budgets and spreads:
[training](results/optimizer_training.md), [tasks and step cost](results/optimizers.md).
"""


def overview() -> str:
    """One table row per optimizer."""
    lines = ["| name | what it is | equations | needs |", "|---|---|---|---|"]
    lines += [f"| `{row.name}` | {row.summary} | {row.equations} | {row.needs} |" for row in OPTIMIZERS.values()]
    return "\n".join(lines)


def section(row: OptimizerRow) -> str:
    """The update in full, and where the options are explained."""
    update = row.update.replace("; ", "\n    ")
    place = f"{row.optimizer.__module__}.{row.optimizer.__qualname__}"
    return f"\n## {row.name}\n\n`{place}`. Source: {row.equations}.\n\n    {update}\n"


def choice() -> str:
    """When to use which."""
    lines = ["| you want | take | evidence |", "|---|---|---|"]
    lines += [f"| {wish} | {take} | {evidence} |" for wish, take, evidence in WHICH_WHEN]
    return "\n".join([CHOICE, *lines, "", "## All of them", ""])


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join([INTRODUCTION, choice(), overview(), *(section(row) for row in OPTIMIZERS.values())])
