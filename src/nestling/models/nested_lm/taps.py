"""Hooks on any causal language model: read two of its layers, and add to what its head receives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nestling.errors import InputError

__all__ = ["States", "Taps", "find_blocks"]

Corrector = Callable[[Tensor, Tensor, bool], Tensor | None]


class States:
    """What one forward pass of the frozen model shows: early, late and last states, each [B, T, D]."""

    def __init__(self, early: Tensor, late: Tensor, last: Tensor) -> None:
        self.early, self.late, self.last = early.float(), late.float(), last.float()


class Taps:
    """Hooks that stay on a model.

    Args:
        model: a causal language model of transformers.   early, late: which block's output to read, from 1.
        correct: (early, late, fresh) -> what to add to the last states [B, T, D], or None; fresh says that a new text
            begins. Not called within `observe`.
    Raises: InputError for a model without a list of blocks or without an output head.
    """

    def __init__(self, model: nn.Module, early: int, late: int, correct: Corrector) -> None:
        blocks = find_blocks(model)
        head: Any = model.get_output_embeddings()  # pyright: ignore[reportCallIssue]
        if not isinstance(head, nn.Module):
            raise InputError(f"{type(model).__name__} has no output head: expected a causal language model")
        self.head, self._model, self._correct = head, model, correct
        self._early = self._late = self._last = None
        self._observing, self._fresh, self._within = False, True, False
        self._handles = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            blocks[early - 1].register_forward_hook(self._see_early),
            blocks[late - 1].register_forward_hook(self._see_late),
            head.register_forward_pre_hook(self._before_head),
        ]

    @torch.no_grad()
    def observe(self, ids: Tensor, cache: Any = None) -> States:
        """One pass of the model as it was pretrained over ids [B, T]; the head sees the last position only.

        cache: of transformers, with what came before these ids; it is filled on.
        """
        self._observing = True
        options = {"use_cache": False} if cache is None else {"use_cache": True, "past_key_values": cache}
        try:
            self._model(input_ids=ids, **options)
        finally:
            self._observing = False
        early, late, last = self._early, self._late, self._last
        assert early is not None
        assert late is not None
        assert last is not None
        return States(early, late, last)

    @contextlib.contextmanager
    def one_text(self) -> Iterator[None]:
        """All passes inside are one text that goes on, however the model names its cache."""
        self._within, self._fresh = True, True
        try:
            yield
        finally:
            self._within = False

    @property
    def observing(self) -> bool:
        """Whether the pass that runs is one of the model as it was pretrained."""
        return self._observing

    @property
    def fresh(self) -> bool:
        """Whether the pass that runs begins a text."""
        return self._fresh

    @property
    def config(self) -> Any:
        """Of the model, None where it has none."""
        return getattr(self._model, "config", None)

    def remove(self) -> None:
        """Take the hooks off; the model is as it came."""
        for handle in self._handles:
            handle.remove()

    def _begin(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        del module, args
        if not self._within:
            self._fresh = not _goes_on(kwargs)

    def _see_early(self, module: nn.Module, args: Any, output: Any) -> None:
        del module, args
        self._early = (output[0] if isinstance(output, tuple) else output).detach()

    def _see_late(self, module: nn.Module, args: Any, output: Any) -> None:
        del module, args
        self._late = (output[0] if isinstance(output, tuple) else output).detach()

    def _before_head(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        del module
        hidden = args[0]
        if self._observing:
            self._last = hidden.detach()
            return (hidden[:, -1:], *args[1:])
        assert self._early is not None
        assert self._late is not None
        added = self._correct(self._early, self._late, self._fresh)
        self._fresh = False
        if added is None:
            return None
        return ((hidden.float() + added[:, -hidden.shape[1] :]).to(hidden.dtype), *args[1:])


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """The list of blocks that a token passes one after another."""
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == depth]
    if not lists:
        raise InputError(f"{type(model).__name__} shows no list of num_hidden_layers blocks: expected a causal LM")
    return lists[0]


def _goes_on(kwargs: dict[str, Any]) -> bool:
    """Whether a call continues a text: its cache holds something already."""
    cache = kwargs.get("past_key_values", kwargs.get("cache_params"))
    if cache is None:
        return False
    if hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length()) > 0
    return bool(getattr(cache, "has_previous_state", True))
