"""Keys, values, objective and rule of what a model and an optimizer hold, in the words of the paper."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nestling.optim import M3, OPTIMIZERS, Muon
from nestling.rules import RULES

__all__ = [
    "ANCHOR",
    "ATTENTION",
    "NOT_KNOWN",
    "PENDING",
    "RECURRENT",
    "RNN",
    "SELF_MODIFYING",
    "SLIDING_WINDOW",
    "START_OF_CONTEXT",
    "STATISTICS",
    "Words",
    "rule_words",
    "state_words",
    "weight_rule",
    "weight_words",
]


@dataclass(frozen=True, kw_only=True)
class Words:
    """An associative memory in words.

    title:   for people.
    needs:   entries of the same parameter whose new value this one's update contains.
    period:  option of the parameter group that holds its update period in steps; "" is every step.
    aside:   whether the step of the weight does not contain it.
    by_task: whether it changes once per task where the optimizer's mode is "task".
    """

    title: str = ""
    keys: str
    values: str
    objective: str
    rule: str
    equations: str = ""
    needs: tuple[str, ...] = ()
    period: str = ""
    aside: bool = False
    by_task: bool = False


SURPRISE = "local surprise -dL/dy"
WEIGHT_OBJECTIVE = "<W x, dL/dy> + |W - W_t|^2 / (2 lr)"
GRADIENT = "gradient g"


def rule_words(name: str, keys: str = "k_t", values: str = "v_t") -> Words:
    """The words of a rule of the table of rules."""
    rule = RULES[name]
    return Words(
        keys=keys, values=values, objective=rule.objective_text, rule=rule.update_text, equations=rule.equations
    )


ATTENTION = rule_words("attention", "k_i of every token", "v_i of every token")
SLIDING_WINDOW = rule_words("sliding_window", "k_i in the window", "v_i in the window")

# Recurrent layers of other packages, by the name of their class; the first that fits.
RECURRENT: tuple[tuple[str, Words], ...] = (
    (r"GatedDelta", rule_words("gated_delta")),
    (r"DeltaNet", rule_words("delta")),
    (r"Mamba.*Mixer|^Mamba2?$|Retention|LinearAttention", rule_words("hebbian")),
)
SELF_MODIFYING = Words(
    keys="k_t = M_k(x_t)",
    values="own target of each memory",
    objective="L(M; k, target), and 1/2 |M k|^2 for the erase",
    rule="M <- M (alpha I - eta k k^T) - eta grad L(M; k, target)",
    equations="NL 83-93",
)
RNN = Words(
    keys="constant 1",
    values="candidate of x_t and h_(t-1)",
    objective="1/2 |h - candidate|^2, gated",
    rule="h <- gate h + (1 - gate) candidate",
)
STATISTICS = Words(
    keys="constant 1",
    values="statistics of the batch",
    objective="1/2 |r - statistics|^2",
    rule="r <- (1 - momentum) r + momentum * statistics",
)
START_OF_CONTEXT = Words(
    keys="start of a context",
    values="first state",
    objective="loss of the whole context",
    rule="",
    equations="NL 28",
)

_KEYS: tuple[tuple[type[nn.Module] | str, str], ...] = (
    (nn.Embedding, "token (one-hot)"),
    (nn.modules.conv._ConvNd, "patch of the input"),
    (r"Norm$|Norm\dd$|LayerNorm", "normalised input, entry by entry"),
)


def weight_words(module: nn.Module) -> Words:
    """Trained weights of a layer: backpropagation stores the layer's surprise under its input.

    Source: NL eq. 8, 29-31.
    """
    name = type(module).__name__
    keys = "layer input x"
    for kind, found in _KEYS:
        if re.search(kind, name) if isinstance(kind, str) else isinstance(module, kind):
            keys = found
            break
    return Words(keys=keys, values=SURPRISE, objective=WEIGHT_OBJECTIVE, rule="", equations="NL 8, 29-31")


_TORCH_RULES = {
    "Adam": "W <- W - lr m / (sqrt v + eps)",
    "SGD": "W <- W - lr (g or m)",
    "Adagrad": "W <- W - lr g / (sqrt s + eps)",
    "RMSprop": "W <- W - lr g / (sqrt v + eps)",
    "Adadelta": "W <- W - lr (sqrt u / sqrt v) g",
    "Muon": "W <- (1 - lr wd) W - lr r NewtonSchulz(m)",
}


def weight_rule(optimizer: Optimizer, *, elementwise: bool = False) -> str:
    """How the optimizer moves the weights, in one line: the last part of what its row says.

    Args:
        optimizer: any.
        elementwise: of a vector, or of a matrix that shall be taken as one; Muon and M3 then take Adam's step.
    """
    if elementwise and type(optimizer) in (Muon, M3):
        return _TORCH_RULES["Adam"]
    for row in OPTIMIZERS.values():
        if type(optimizer) is row.optimizer:
            written = [part for part in row.update.split("; ") if part.startswith("W <-")]
            return written[-1] if written else row.update
    name = type(optimizer).__name__
    return _TORCH_RULES.get(name, f"step of {name}")


def _average(title: str, values: str, letter: str, decay: str, equations: str, **more: Any) -> Words:
    return Words(
        title=title,
        keys="weight (its place)",
        values=values,
        objective=f"1/2 |{letter} - {values.split()[-1]}|^2",
        rule=f"{letter} <- {decay} {letter} + (1 - {decay}) {values.split()[-1]}",
        equations=equations,
        **more,
    )


def _sum(title: str, values: str, letter: str, rule: str, equations: str, **more: Any) -> Words:
    return Words(
        title=title,
        keys="weight (its place)",
        values=values,
        objective=f"-<{letter}, {values.split()[-1]}>",
        rule=rule,
        equations=equations,
        **more,
    )


def _deep_map(which: str) -> Words:
    return Words(
        title=f"MLP memory m, {which} map",
        keys="row u of the gradient",
        values="gain u",
        objective="1/2 |m(u) - gain u|^2",
        rule="m <- alpha m - eta grad L(m; u)",
        equations="NL 50",
        needs=("mean_square",),
    )


_SQUARE = "squared gradient g^2"
_COUNTER = Words(title="step counter", keys="none", values="1", objective="none: a count", rule="t <- t + 1")
_ENTRIES: Mapping[str, Words] = {
    "exp_avg": _average("first moment m", GRADIENT, "m", "b1", "cf. NL 101-105"),
    "exp_avg_sq": _average("second moment v", _SQUARE, "v", "b2", "cf. NL 101-105"),
    "max_exp_avg_sq": Words(
        title="largest second moment",
        keys="weight (its place)",
        values="second moment v",
        objective="not stated",
        rule="u <- max(u, v)",
        needs=("exp_avg_sq",),
    ),
    "momentum_buffer": _sum("momentum m", GRADIENT, "m", "m <- mu m + g", "NL 10-13, 33-37"),
    "square_avg": _average("second moment v", _SQUARE, "v", "alpha", "cf. NL 101-105"),
    "sum": _sum("sum of squares s", _SQUARE, "s", "s <- s + g^2", "NL 106-107"),
    "step": _COUNTER,
    "count": replace(_COUNTER, title="samples of this task", rule="n <- n + 1", aside=True),
    "num_lengths": _COUNTER,
    "memory": _sum("memory m", GRADIENT, "m", "", "", needs=("square", "mean_square")),
    "square": _average("second moment v", _SQUARE, "v", "beta", "cf. NL 101-105"),
    "mean_square": _average("usual length of g", "squared length |g|^2", "s", "beta", "NL 48-49"),
}
_OF_CLASS: Mapping[tuple[str, str], Words] = {
    ("Muon", "momentum_buffer"): _average("momentum m", GRADIENT, "m", "mu", "NL 42-44, 52"),
    ("Muon", "memory"): _average("momentum m", GRADIENT, "m", "mu", "NL 42-44, 52"),
    ("M3", "memory"): _average("first moment m of vectors", GRADIENT, "m", "b1", "cf. NL 101-105"),
    ("M3", "fast"): _average("fast momentum m1", GRADIENT, "m1", "b1", "NL 75, Algorithm 1"),
    ("M3", "slow"): _average("slow momentum m2", "sum of f gradients G", "m2", "b3", "NL 75", period="update_period"),
    ("M3", "slow_answer"): Words(
        title="answer of m2",
        keys="weight (its place)",
        values="m2",
        objective="|O^T O - I|^2",
        rule="o <- NewtonSchulz(m2)",
        equations="NL 43-44",
        needs=("slow",),
        period="update_period",
    ),
    ("DeepMomentum", "first_map"): _deep_map("first"),
    ("DeepMomentum", "second_map"): _deep_map("second"),
    ("RecursiveDGD", "consolidated"): Words(
        title="input memory P",
        keys="layer input x",
        values="how often x was seen",
        objective="least squares of all inputs",
        rule="P <- (P^-1 + X^T X)^-1",
        equations="NL 45, 59-60",
        by_task=True,
    ),
    ("RecursiveDGD", "recent"): Words(
        title="recent inputs R",
        keys="layer input x",
        values="layer input x",
        objective="-<R, x x^T>",
        rule="R <- R + x x^T",
        equations="NL 5, 16",
        aside=True,
    ),
    ("RecursiveDGD", "momentum"): _sum("momentum S", GRADIENT, "S", "S <- mu S + G", "NL 10-13, 33-37"),
    ("M3", "pending"): _sum("pending sum for m2", GRADIENT, "G", "G <- G + g", "NL 75", aside=True),
}
PENDING = _sum("pending sum G", GRADIENT, "G", "G <- G + g, 0 after an update", "NL 70-71")
ANCHOR = Words(
    title="anchor A",
    keys="weight (its place)",
    values="weight at the start",
    objective="1/2 |W - A|^2",
    rule="fixed",
    equations="NL 59-60",
)
NOT_KNOWN = Words(
    title="state",
    keys="not known",
    values="not known",
    objective="not stated",
    rule="known after a step, when it has seen the layers at work",
)


def state_words(optimizer: Optimizer, entry: str) -> Words:
    """What an optimizer's state entry is; of one that is not known here, the name and nothing more."""
    name = type(optimizer).__name__
    found = _OF_CLASS.get((name, entry)) or _ENTRIES.get(entry)
    if found is None:
        return Words(title=entry, keys="not known", values="not known", objective="not stated", rule=f"see {name}")
    if found.rule:
        return found
    for row in OPTIMIZERS.values():
        if type(optimizer) is row.optimizer:
            first = next((part for part in row.update.split("; ") if part.startswith("m <-")), row.update)
            return Words(**{**vars(found), "rule": first, "equations": row.equations})
    return found
