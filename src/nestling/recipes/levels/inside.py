"""Components inside a model that change while it reads: attention, memories with a state, running statistics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from nestling.memory import AttentionMemory, DeepMemory, MatrixMemory, Memory
from nestling.recipes.levels.system import Component, Frequency, StatePer
from nestling.recipes.levels.words import (
    ATTENTION,
    RECURRENT,
    RNN,
    SELF_MODIFYING,
    SLIDING_WINDOW,
    STATISTICS,
    Words,
    rule_words,
)

__all__ = ["inside_components"]

_QUERY, _TOKEN, _STEP, _NEVER = (Frequency(per=per) for per in ("query", "token", "step", "never"))
# Fused or split projections that tell attention from a layer that only bears its name.
_PAIRS = re.compile(
    r"^(q|k|q_?proj|k_?proj|q_lin|wq|query|key|query_key_value|qkv(_proj)?|Wqkv|c_attn|in_proj_weight|q_a_proj|kv_b_proj)$"
)
_DEEP = {"gradient": "deep", "momentum": "deep_momentum", "dgd": "deep_dgd", "dgd_explicit": "deep_dgd"}


def _simple(keys: str, values: str, objective: str, rule: str) -> Words:
    return Words(keys=keys, values=values, objective=objective, rule=rule)


_OTHER_PART = _simple("time", "what came last", "none: kept", "carried on")
_PARTS: dict[str, tuple[str, Words]] = {
    "surprise": (
        "surprise S",
        _simple("key k_t", "surprise -grad L", "-<S, -grad L>", "S <- momentum S - eta grad L"),
    ),
    "window": ("last pairs", _simple("k_i", "v_i", "none: kept", "append, evict")),
    "anchor": ("anchor A", _simple("place", "M at the end of the chunk", "none: a copy", "A <- M after a chunk")),
}
_BOOKKEEPING = ("position",)


def inside_components(module: nn.Module, *, training: bool) -> list[Component]:
    """What changes within a context, or with every batch seen in training.

    Args:
        module: any.
        training: whether there is an optimizer; statistics of batches change in training only.
    """
    found: list[Component] = []
    for path, part in module.named_modules():
        place, first = path or type(part).__name__, len(found)
        if isinstance(part, AttentionMemory):
            found.append(_attention(place, part.window, 2 * part.num_heads * part.head_dim))
        elif isinstance(part, Memory):
            found += _memory(place, part)
        elif isinstance(part, nn.RNNBase):
            found.append(_carried(place, RNN, _hidden(part)))
        elif isinstance(part, nn.RNNCellBase):
            found.append(_carried(place, RNN, part.hidden_size * (2 if isinstance(part, nn.LSTMCell) else 1)))
        elif isinstance(part, nn.modules.batchnorm._NormBase):
            found += _statistics(place, part, training)
        elif (words := _recurrent(part)) is not None:
            found.append(_carried(place, words, None))
        elif _is_attention(part):
            window = getattr(part, "sliding_window", None)
            found.append(_attention(place, window if isinstance(window, int) else None, _pair_width(part)))
        found[first:] = [replace(component, type_name=type(part).__name__) for component in found[first:]]
    return found


def _memory(place: str, memory: Memory[Any]) -> Iterator[Component]:
    """The state of one of our memories; its parts may change at different times."""
    sizes: dict[str, int] = {}
    for name, tensor in memory.initial_state(1).state_dict().items():
        part = name.split(".")[0]
        sizes[part] = sizes.get(part, 0) + tensor.numel()
    chunk = getattr(memory, "chunk_size", 0) or min(getattr(memory, "chunk_sizes", (1,)))
    surprise = (f"{place}: {_PARTS['surprise'][0]}",) if sizes.get("surprise") else ()
    for part, size in sizes.items():
        if part == "memory":
            yield _component(f"{place}: memory M", _memory_words(memory), _TOKEN, size, needs=surprise)
        elif size and part not in _BOOKKEEPING:
            title, words = _PARTS.get(part, (part, _OTHER_PART))
            updates = Frequency(per="token", period=chunk) if part == "anchor" else _TOKEN
            yield _component(f"{place}: {title}", words, updates, size)


def _memory_words(memory: Memory[Any]) -> Words:
    if isinstance(memory, MatrixMemory):
        return rule_words(memory.rule)
    if isinstance(memory, DeepMemory):
        return rule_words(_DEEP[memory.rule])
    if type(memory).__name__ == "SelfModifyingTitans":
        return SELF_MODIFYING
    return _simple("k_t", "v_t", "not stated", f"see {type(memory).__name__}")


def _attention(place: str, window: int | None, width: int | None) -> Component:
    """All pairs, or the last `window` with the query's own; `width` numbers for each."""
    words = ATTENTION if window is None else SLIDING_WINDOW
    per: StatePer = "token" if window is None else "sequence"
    size = width if window is None or width is None else width * (window - 1)
    return _component(f"{place}: attention", words, _QUERY, size, per=per, kind="attention")


def _carried(place: str, words: Words, size: int | None) -> Component:
    return _component(f"{place}: state", words, _TOKEN, size)


def _statistics(place: str, norm: nn.modules.batchnorm._NormBase, training: bool) -> Iterator[Component]:
    tensors = [tensor for tensor in (norm.running_mean, norm.running_var) if tensor is not None]
    if tensors:
        yield _component(
            f"{place}: running statistics",
            STATISTICS,
            _STEP if training else _NEVER,
            sum(tensor.numel() for tensor in tensors) + 1,  # and how many batches there were
            per="model",
            kind="statistics",
        )


def _component(
    name: str,
    words: Words,
    updates: Frequency,
    size: int | None,
    *,
    per: StatePer = "sequence",
    kind: Any = "memory",
    needs: tuple[str, ...] = (),
) -> Component:
    return Component(
        name=name,
        kind=kind,
        keys=words.keys,
        values=words.values,
        objective=words.objective,
        rule=words.rule,
        equations=words.equations,
        updates=updates,
        num_state=size,
        state_per=per,
        needs=needs,
    )


def _recurrent(part: nn.Module) -> Words | None:
    name = type(part).__name__
    if not any(True for _ in part.children()):
        return None
    return next((words for pattern, words in RECURRENT if re.search(pattern, name)), None)


def _is_attention(part: nn.Module) -> bool:
    """By name and by projections of its own: LlamaAttention, BertSelfAttention, GPT2Attention, MultiheadAttention."""
    if not re.search(r"attention|attn", type(part).__name__, re.IGNORECASE):
        return False
    own = [name for name, _ in part.named_children()] + [name for name, _ in part.named_parameters(recurse=False)]
    return any(_PAIRS.match(name) for name in own)


def _pair_width(part: nn.Module) -> int | None:
    """Numbers in one key and one value of all heads; None where the layer does not tell."""
    if isinstance(part, nn.MultiheadAttention):
        return 2 * part.embed_dim
    for names in (("k_proj", "v_proj"), ("key", "value"), ("k_lin", "v_lin"), ("k", "v"), ("wk", "wv")):
        maps = [getattr(part, name, None) for name in names]
        if all(isinstance(each, nn.Linear) for each in maps):
            return sum(each.out_features for each in maps if isinstance(each, nn.Linear))
    config, head = getattr(part, "config", None), getattr(part, "head_dim", None)
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None)
    return 2 * heads * head if isinstance(heads, int) and isinstance(head, int) else None


def _hidden(rnn: nn.RNNBase) -> int:
    """Numbers of the state, over layers and directions; an LSTM has a cell too."""
    own = (rnn.proj_size or rnn.hidden_size) + (rnn.hidden_size if isinstance(rnn, nn.LSTM) else 0)
    return own * rnn.num_layers * (2 if rnn.bidirectional else 1)
