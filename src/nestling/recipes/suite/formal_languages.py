"""The six formal languages of the paper, as prediction of the set of symbols that may come next.

After every prefix of a word the model must say, for every symbol and for the end of the word, whether it may come next.
For a language that is the same as asking for membership of every prefix (whether the word may end here), and more. A
word counts as right when all its prefixes are. Words have length 1 to N in part "1x", N + 1 to 2 N in "2x" and
2 N + 1 to 4 N in "4x"; the length is drawn first, uniformly from those that the language has.

Source: Bhattamishra, Ahuja, Goyal, arXiv 2009.11264 (languages and next-symbol sets); the same six in NL.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nestling.recipes.suite.synthetic import Batch, SyntheticTask

__all__ = ["FORMAL_LANGUAGES", "LANGUAGES", "Language"]

LONGEST = 40
PARTS = {"1x": (1, LONGEST), "2x": (LONGEST + 1, 2 * LONGEST), "4x": (2 * LONGEST + 1, 4 * LONGEST)}
END = "."  # in sets of symbols: the word may end here

State = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Language:
    """A language as a machine with counters.

    name:     as printed in the paper.
    alphabet: one character per symbol.
    start:    state before the first symbol.
    step:     (state, symbol) -> state, for symbols that may come next.
    allowed:  state -> the symbols that may come next, END among them where the word may end.
    word:     (length, generator) -> a random word of that length.
    multiple: words have a length that is a multiple of this, >= 1.
    """

    name: str
    alphabet: str
    start: State
    step: Callable[[State, str], State]
    allowed: Callable[[State], str]
    word: Callable[[int, torch.Generator], str]
    multiple: int = 1

    def next_sets(self, word: str) -> list[str]:
        """What may come after each prefix, the empty one and the whole word included."""
        state, found = self.start, []
        for symbol in word:
            found.append(self.allowed(state))
            state = self.step(state, symbol)
        return [*found, self.allowed(state)]

    def draw(self, batch: int, part: str, generator: torch.Generator) -> Batch:
        """Words behind a start token, padded with it on the right."""
        least, most = PARTS[part]
        lengths = [length for length in range(least, most + 1) if length % self.multiple == 0]
        chosen = torch.randint(len(lengths), (batch,), generator=generator).tolist()
        words = [self.word(lengths[place], generator) for place in chosen]
        symbols = self.alphabet + END
        begin, width = len(symbols), max(map(len, words)) + 1
        tokens = torch.full((batch, width), begin)
        target = torch.zeros(batch, width, len(symbols), dtype=torch.bool)
        asked = torch.zeros(batch, width, dtype=torch.bool)
        for row, word in enumerate(words):
            tokens[row, 1 : len(word) + 1] = torch.tensor([symbols.index(symbol) for symbol in word])
            sets = [[symbol in allowed for symbol in symbols] for allowed in self.next_sets(word)]
            target[row, : len(word) + 1] = torch.tensor(sets)
            asked[row, : len(word) + 1] = True
        return Batch(tokens, target, asked)


def _parity_word(length: int, generator: torch.Generator) -> str:
    """Uniform over the words with an even number of ones."""
    bits = torch.randint(2, (length,), generator=generator)
    bits[-1] = bits[:-1].sum() % 2
    return "".join(map(str, bits.tolist()))


def _shuffle_word(length: int, generator: torch.Generator) -> str:
    """Two balanced words of random lengths, each uniform over those of its length, shuffled."""
    first = 2 * int(torch.randint(2, (length // 2,), generator=generator).sum())
    words = [iter(_balanced(first, "()", generator)), iter(_balanced(length - first, "[]", generator))]
    which = torch.zeros(length, dtype=torch.int64)
    which[torch.randperm(length, generator=generator)[first:]] = 1
    return "".join(next(words[place]) for place in which.tolist())


def _balanced(length: int, pair: str, generator: torch.Generator) -> str:
    """Uniform over balanced words: turn a random balanced count to where it never falls below 0 (cycle lemma)."""
    half = length // 2
    steps = torch.cat([torch.ones(half), -torch.ones(half + 1)])[torch.randperm(length + 1, generator=generator)]
    lowest = int(steps.cumsum(0).argmin())  # the first of the lowest
    turned = torch.cat([steps[lowest + 1 :], steps[:lowest]]).tolist()
    return "".join(pair[0] if step > 0 else pair[1] for step in turned)


def _shuffle_step(state: State, symbol: str) -> State:
    round_depth, square_depth = state
    change = 1 if symbol in "([" else -1
    return (round_depth + change, square_depth) if symbol in "()" else (round_depth, square_depth + change)


def _shuffle_allowed(state: State) -> str:
    return "([" + (")" if state[0] else "") + ("]" if state[1] else "") + ("" if any(state) else END)


def _blocks(symbols: str) -> tuple[Callable[[State, str], State], Callable[[State], str]]:
    """a^n b^n ..., n >= 1: the state counts each symbol."""

    def step(state: State, symbol: str) -> State:
        return tuple(count + (symbol == other) for count, other in zip(state, symbols))

    def allowed(state: State) -> str:
        size = state[0]
        if not any(state[1:]):
            return symbols[:2] if size else symbols[0]
        for place in range(1, len(symbols)):
            if state[place] < size:
                return symbols[place]
        return END

    return step, allowed


def _repeats(unit: str, times: int) -> tuple[Callable[[State, str], State], Callable[[State], str]]:
    """(unit^times)*: the state is the place inside."""
    whole = unit * times
    return (
        lambda state, _: ((state[0] + 1) % len(whole),),
        lambda state: whole[state[0]] + ("" if state[0] else END),
    )


def _fixed(unit: str) -> Callable[[int, torch.Generator], str]:
    """The only word of a length: every symbol repeated, block by block, or the unit over and over."""
    return lambda length, _: unit * (length // len(unit))


def _block_word(symbols: str) -> Callable[[int, torch.Generator], str]:
    return lambda length, _: "".join(symbol * (length // len(symbols)) for symbol in symbols)


def _language(
    name: str,
    alphabet: str,
    machine: tuple[Callable[[State, str], State], Callable[[State], str]],
    word: Callable[[int, torch.Generator], str],
    *,
    start: State = (0,),
    multiple: int = 1,
) -> Language:
    step, allowed = machine
    return Language(name=name, alphabet=alphabet, start=start, step=step, allowed=allowed, word=word, multiple=multiple)


_PARITY = (
    lambda state, symbol: ((state[0] + int(symbol)) % 2,),
    lambda state: "01" + ("" if state[0] else END),
)
LANGUAGES: dict[str, Language] = {
    "parity": _language("parity", "01", _PARITY, _parity_word),
    "aa": _language("(aa)*", "a", _repeats("a", 2), _fixed("aa"), multiple=2),
    "abab": _language("(abab)*", "ab", _repeats("ab", 2), _fixed("abab"), multiple=4),
    "anbn": _language("a^n b^n", "ab", _blocks("ab"), _block_word("ab"), start=(0, 0), multiple=2),
    "anbncn": _language("a^n b^n c^n", "abc", _blocks("abc"), _block_word("abc"), start=(0, 0, 0), multiple=3),
    "shuffle2": _language(
        "shuffle-2", "()[]", (_shuffle_step, _shuffle_allowed), _shuffle_word, start=(0, 0), multiple=2
    ),
}

FORMAL_LANGUAGES: tuple[SyntheticTask, ...] = tuple(
    SyntheticTask(
        name=key,
        summary=f"{language.name}: which symbols may come next, after every prefix",
        source="arXiv 2009.11264",
        vocab_size=len(language.alphabet) + 2,
        kind="set",
        num_answers=len(language.alphabet) + 1,
        draw=language.draw,
        parts=tuple(PARTS),
    )
    for key, language in LANGUAGES.items()
)
