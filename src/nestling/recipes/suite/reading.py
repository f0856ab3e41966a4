"""What the tasks ask of a trained language model: go on with a text, and say how likely a text is."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from nestling.errors import InputError

__all__ = ["Reader", "Tokenizer"]


class Tokenizer(Protocol):
    """What is needed of a tokenizer; those of transformers have it."""

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]:
        """Token numbers of a text."""
        ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = ...) -> str:
        """The text of token numbers."""
        ...


class Reader:
    """A causal language model of transformers with its tokenizer, read without gradients.

    Args:
        model: of AutoModelForCausalLM.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def tokens(self, text: str) -> list[int]:
        """Token numbers, without special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def num_tokens(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self.tokens(text))

    @torch.no_grad()
    def go_on(self, prompt: str, *, max_new_tokens: int) -> str:
        """The text that the model adds, the likeliest token every time.

        Raises:
            InputError: an empty prompt.
        """
        ids = torch.tensor([self._some(prompt)], device=self.device)
        pad = getattr(self.model.generation_config, "pad_token_id", None)
        made = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=0 if pad is None else pad,
        )
        return self.tokenizer.decode(made[0, ids.shape[1] :].tolist(), skip_special_tokens=True)

    @torch.no_grad()
    def log_likelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        """Sum of the log probabilities of the continuation's tokens in nats, and whether each was the likeliest.

        The continuation's tokens are those that the whole text has beyond the context's.

        Raises:
            InputError: an empty context or continuation.
        """
        before, whole = self._some(context), self.tokens(context + continuation)
        if len(whole) <= len(before):
            raise InputError(f"continuation: expected at least one token, got {continuation!r}")
        ids = torch.tensor([whole], device=self.device)
        logits = self.model(input_ids=ids[:, :-1]).logits[0, len(before) - 1 :].float()
        wanted = ids[0, len(before) :]
        found = F.log_softmax(logits, dim=-1).gather(1, wanted.unsqueeze(1))
        return found.sum().item(), bool((logits.argmax(-1) == wanted).all())

    @torch.no_grad()
    def likeliest(self, context: str, continuations: Sequence[str]) -> int:
        """Which continuation has the highest log-likelihood; the first of equals.

        The context is read once where the model returns its cache as `past_key_values`.

        Raises:
            InputError: an empty context, no continuation, or an empty one.
        """
        if not continuations:
            raise InputError("continuations: expected at least one, got none")
        before = self._some(context)
        wholes = [self.tokens(context + continuation) for continuation in continuations]
        cache = self._read(before[:-1]) if len(before) > 1 else None
        if cache is None or any(whole[: len(before)] != before for whole in wholes):
            scores = [self.log_likelihood(context, continuation)[0] for continuation in continuations]
        else:
            scores = [self._score_after(cache, whole[len(before) - 1 :]) for whole in wholes]
        return scores.index(max(scores))

    @torch.no_grad()
    def _read(self, ids: list[int]) -> Any:
        read = self.model(input_ids=torch.tensor([ids], device=self.device), use_cache=True)
        return getattr(read, "past_key_values", None)

    @torch.no_grad()
    def _score_after(self, cache: Any, ids: list[int]) -> float:
        """Log-likelihood of ids[1:] after the cache and ids[0]; the cache is left as it is."""
        if len(ids) < 2:
            raise InputError("continuations: expected at least one token each")
        tokens = torch.tensor([ids], device=self.device)
        read = self.model(input_ids=tokens[:, :-1], past_key_values=copy.deepcopy(cache), use_cache=True)
        found = F.log_softmax(read.logits[0].float(), dim=-1)
        return found.gather(1, tokens[0, 1:, None]).sum().item()

    @torch.no_grad()
    def losses(self, ids: Tensor) -> Tensor:
        """Loss in nats of every token but the first, [T - 1] from [T]."""
        logits = self.model(input_ids=ids[None, :-1].to(self.device)).logits[0].float()
        return F.cross_entropy(logits, ids[1:].to(self.device), reduction="none").double().cpu()

    def _some(self, text: str) -> list[int]:
        ids = self.tokens(text)
        if not ids:
            raise InputError("expected a text of at least one token, got an empty one")
        return ids
