"""Levels on a model's own MLP blocks (ad-hoc level stacking), mixed token by token by what a text looks like."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from nestling.errors import InputError
from nestling.memory.key_gate import KeyGate
from nestling.memory.token_memory import mixed
from nestling.models.nested_lm.contexts import Context, Delta, ReadState
from nestling.models.nested_lm.frames import SINK, Frames
from nestling.models.nested_lm.taps import Taps, find_blocks

__all__ = ["SHARPNESS", "LevelMap", "Levels"]

START = 0.6
RANK = 16
SHARE, SHARPNESS = 0.15, 17.0
_MLP_NAMES = ("mlp", "feed_forward", "ffn")


@dataclass(frozen=True)
class LevelMap:
    """A linear map of an MLP block that a level changes. Args: level: 0 for the upper half of the blocks, 1 below."""

    name: str
    module: nn.Module
    num_in: int
    num_out: int
    level: int


class Levels:
    """Hooks that add what was read to what a model answers.

    y = W x + sum_k w_k(t) B_k A_k x                        in the MLP blocks of the upper two fifths
    p = (1 - sum_k a_k w_k) p_model + sum_k a_k w_k p_k     behind the head, p_k from the context's exact memory

    w_k(t) are the weights of contexts from early states (`KeyGate`), which lie below all levels and are the frozen
    model's. Keys of the exact memory are states just below the lowest level, frozen too. Where no context has a weight
    nothing is added and the outputs are the model's, bit for bit; so it is before anything was read.

    Source: levels from a pretrained model's MLP blocks NL 7.3, with low-rank changes; NL eq. 62-63 for the memory.

    Args: model: of transformers.   taps: on the same model.   early: the block whose output tells the context.
    """

    def __init__(self, model: nn.Module, taps: Taps, early: int) -> None:
        blocks = find_blocks(model)
        self.start = min(len(blocks) - 1, max(early, round(START * len(blocks))))
        self.maps = _level_maps(blocks, self.start)
        self.state = ReadState()
        self.keys: Tensor | None = None
        self.early: Tensor | None = None
        self._taps = taps
        self._frames: Frames | None = None
        self._gate: KeyGate | None = None
        self._before: Tensor | None = None
        self._weights: Tensor | None = None
        self._learning: dict[str, Delta] | None = None
        self._watching = False
        self._handles = [
            blocks[early - 1].register_forward_hook(self._see_early),
            blocks[self.start - 1].register_forward_hook(self._see_key),
            taps.head.register_forward_hook(self._after_head),
            *(each.module.register_forward_hook(partial(self._add, each.name)) for each in self.maps),
        ]

    def replace(self, state: ReadState, frames: Callable[[], Frames]) -> None:
        """Use this from now on. Args: frames: keys of the model, asked for when something was read."""
        self.state, self._before, self._weights = state, None, None
        self._frames = frames() if state.contexts else None
        self._gate = KeyGate([each.keys for each in state.contexts], state.background) if state.contexts else None

    def weights(self) -> Tensor | None:
        """Of contexts in the last pass, [B, T, K]; None where none was used."""
        return self._weights

    @contextlib.contextmanager
    def learning(self, deltas: dict[str, Delta]) -> Iterator[None]:
        """Passes inside use these changes alone, everywhere, and keep their gradients; the exact memory is silent."""
        self._learning, self._watching = deltas, True
        try:
            yield
        finally:
            self._learning, self._watching = None, False

    @property
    def busy(self) -> bool:
        """Whether a chunk is being learned, which lessons keep out of."""
        return self._watching

    def widen(self, rows: int) -> None:
        """Go on with `rows` copies of the one text read so far."""
        if self._before is not None and len(self._before) == 1:
            self._before = self._before.expand(rows, -1).clone()

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _see_early(self, module: nn.Module, args: Any, output: Any) -> None:
        del module, args
        self._weights = None
        if self._taps.observing:
            return
        states = (output[0] if isinstance(output, tuple) else output).detach()
        if self._watching:
            self.early = states
        elif self._gate is not None and self._frames is not None:
            fresh = self._taps.fresh or self._before is None or len(self._before) != len(states)
            keys = self._frames.early(states)
            found, self._before = self._gate.weights(keys, None if fresh else self._before, SINK if fresh else 0)
            self._weights = found if bool((found > 0).any()) else None

    def _see_key(self, module: nn.Module, args: Any, output: Any) -> Any:
        del module, args
        if self._taps.observing or not (self._watching or self._weights is not None):
            return None
        self.keys = (output[0] if isinstance(output, tuple) else output).detach()
        if not self._watching:
            return None
        return (self.keys, *output[1:]) if isinstance(output, tuple) else self.keys  # no gradient goes below

    def _add(self, name: str, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        del module
        if self._taps.observing:
            return None
        if self._learning is not None:
            return output + self._learning[name](args[0])
        if self._weights is None:
            return None
        added = torch.zeros_like(output)
        for number in self._heard():
            added = added + self._weights[..., number, None].to(output.dtype) * self._delta(number, name)(args[0])
        return output + added

    @torch.no_grad()
    def _after_head(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        del module, args
        if self._weights is None or self._taps.observing or self._watching:
            return None
        assert self.keys is not None
        rows, length = output.shape[:2]
        weights = self._weights[:, -length:].reshape(rows * length, -1).float()
        query = self.memory_keys(self.keys[:, -length:]).reshape(rows * length, -1)
        answer = output.float().reshape(rows * length, -1).log_softmax(-1)
        left = torch.ones(len(weights), device=output.device)  # share not given away yet, so that shares add up
        for number in reversed(self._heard()):
            context = self.state.contexts[number]
            if len(context.memory) == 0:
                continue
            share = context.share * weights[:, number]
            answer = self.recall(context, answer, query, share / left.clamp_min(1e-6))
            left = left + share
        heard = (weights > 0).any(-1).unsqueeze(-1)
        answer = torch.where(heard, answer, output.float().reshape(rows * length, -1))
        return answer.reshape(rows, length, -1).to(output.dtype)

    def recall(self, context: Context, log_probs: Tensor, query: Tensor, share: Tensor) -> Tensor:
        """Log-probabilities [P, V] with a share [P] of what a context's exact memory answers to keys [P, W]."""
        tokens, probs = context.memory.read(query, sharpness=SHARPNESS)
        return mixed(log_probs, share.clamp(0, 0.99), tokens, probs)

    def memory_keys(self, states: Tensor) -> Tensor:
        """Unit keys [..., D] of the exact memory, of states just below the levels: sign(h) sqrt|h|, normalised, so that
        the few large coordinates such states have do not rule the likeness.
        """
        wide = states.float()
        return normalize(wide.sign() * wide.abs().sqrt(), dim=-1)

    def _heard(self) -> list[int]:
        assert self._weights is not None
        return (self._weights > 0).any(0).any(0).nonzero().flatten().tolist()

    def _delta(self, number: int, name: str) -> Delta:
        return self.state.contexts[number].deltas[name]

    def fresh_deltas(self, generator: torch.Generator) -> dict[str, Delta]:
        """Changes of nothing for every map."""
        return {each.name: Delta.fresh(each.num_in, each.num_out, RANK, generator=generator) for each in self.maps}


def _level_maps(blocks: nn.ModuleList, start: int) -> list[LevelMap]:
    """Linear maps of the MLPs of the blocks from `start` on; of the whole block where it has no MLP."""
    found: list[LevelMap] = []
    middle = start + (len(blocks) - start) // 2
    for number in range(start, len(blocks)):
        maps: list[tuple[str, Any]] = [
            (name, each) for name, each in blocks[number].named_modules() if _is_linear(each)
        ]
        own = [(name, each) for name, each in maps if any(part in _MLP_NAMES for part in name.split("."))]
        for name, each in own or maps:
            rows, columns = each.weight.shape
            sizes = (rows, columns) if type(each).__name__ == "Conv1D" else (columns, rows)
            found.append(LevelMap(f"{number}.{name}", each, *sizes, level=0 if number >= middle else 1))
    if not found:
        raise InputError("this model shows no linear maps in its upper blocks: it cannot read")
    return found


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
