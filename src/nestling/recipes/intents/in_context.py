"""In-context learning: examples with their intents in the prompt, and the name that the model goes on with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.errors import DataError, InputError
from nestling.models.nested_lm.passes import plain_cache

__all__ = ["InContext"]

_ROOM = 320  # tokens left for a question and its answer

Trie = dict[int, Any]
Example = tuple[str, int]


class InContext:
    """A frozen language model that reads examples as "Request: ...", "Intent: ..." and names the intent of another.

    The answer is decoded greedily among the names of the intents: at each token only those that go on with a name
    are compared. What is the same in every prompt is read once.

    Args: model, tokenizer: of transformers.   classes: names of the intents.
    """

    def __init__(self, model: Any, tokenizer: Any, classes: Sequence[str]) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.room = getattr(model.config, "max_position_embeddings", 2048) - _ROOM
        self.end = self._ids("\n\n")
        self.names = [self._ids(" " + name.replace("_", " ").strip()) for name in classes]
        self.trie = _trie([[*name, self.end[0]] for name in self.names])
        self.begin = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
        self.begin += self._ids("What does each request ask for?\n\n")
        self._prompt: list[int] = []
        self._read: tuple[Any, list[int]] = (None, [])

    def show(self, examples: Sequence[Example]) -> int:
        """Put as many of the examples as there is room for into the prompt; returns how many.

        Raises: InputError when there is room for none.
        """
        prompt, shown = list(self.begin), 0
        for text, label in examples:
            said = [*self._question(text), *self.names[label], *self.end]
            if len(prompt) + len(said) > self.room:
                break
            prompt += said
            shown += 1
        if not shown:
            raise InputError(
                f"no example fits into a prompt of {max(0, self.room)} tokens: take a model that reads more"
            )
        self._prompt = prompt
        self._read = plain_cache(self.model.config), []
        return shown

    @property
    def prompt_tokens(self) -> int:
        """Before the question."""
        return len(self._prompt)

    def choose(self, text: str) -> int:
        """Number of the intent that the model names."""
        said = [*self._prompt, *self._question(text)[-_ROOM:]]
        logits = self._logits(said)
        node, waiting = self.trie, False
        while isinstance(node, dict):
            if len(node) > 1 and waiting:
                logits = self._logits(said)
            tokens = list(node)
            token = tokens[int(logits[tokens].argmax())] if len(tokens) > 1 else tokens[0]
            said, node, waiting = [*said, token], node[token], True
        return node

    @torch.no_grad()
    def _logits(self, ids: list[int]) -> Tensor:
        """Logits [V] behind a text; of what was read before, the common start is not read again."""
        cache, had = self._read
        device = next(self.model.parameters()).device
        if cache is None:
            return self.model(input_ids=torch.tensor([ids], device=device), logits_to_keep=1).logits[0, -1]
        same = next((n for n, pair in enumerate(zip(had, ids, strict=False)) if pair[0] != pair[1]), len(had))
        same = min(same, len(ids) - 1)
        if same < len(had):
            cache.crop(same - len(had))
        new = torch.tensor([ids[same:]], device=device)
        logits = self.model(input_ids=new, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        self._read = cache, ids
        return logits[0, -1]

    def _question(self, text: str) -> list[int]:
        return [*self._ids("Request: " + text), *self._ids("\nIntent:")]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _trie(names: Sequence[Sequence[int]]) -> Trie:
    """Tokens to what may follow, and the number of the name at its end."""
    root: Trie = {}
    for number, name in enumerate(names):
        node = root
        for token in name[:-1]:
            node = node.setdefault(token, {})
        if name[-1] in node:
            raise DataError("two intents have the same name: an answer would not tell them apart; rename one")
        node[name[-1]] = number
    return root
