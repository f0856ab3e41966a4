"""Formal languages against regular expressions and counting, letter by letter."""

import itertools
import re

import pytest
import torch

from nestling.errors import InputError, UnknownNameError
from nestling.recipes.suite import SYNTHETIC_TASKS, score
from nestling.recipes.suite.formal_languages import END, LANGUAGES, LONGEST, PARTS


def equal_blocks(word, symbols):
    count = len(word) // len(symbols)
    return count >= 1 and word == "".join(symbol * count for symbol in symbols)


def balanced(word, pair):
    kept = "".join(symbol for symbol in word if symbol in pair)
    while pair in kept:
        kept = kept.replace(pair, "")
    return not kept


# Who is in a language, said in another way than by a machine with counters.
MEMBER = {
    "parity": lambda word: re.fullmatch(r"(0*10*1)*0*", word) is not None,
    "aa": lambda word: re.fullmatch(r"(aa)*", word) is not None,
    "abab": lambda word: re.fullmatch(r"(abab)*", word) is not None,
    "anbn": lambda word: equal_blocks(word, "ab"),
    "anbncn": lambda word: equal_blocks(word, "abc"),
    "shuffle2": lambda word: balanced(word, "()") and balanced(word, "[]"),
}
# Words up to this length decide what may come next after prefixes of up to half of it.
LIMIT = {"parity": 8, "aa": 20, "abab": 14, "anbn": 12, "anbncn": 9, "shuffle2": 6}


@pytest.mark.parametrize("name", LANGUAGES)
def test_next_symbols_are_those_that_some_word_of_the_language_has(name):
    language, limit = LANGUAGES[name], LIMIT[name]
    words = [
        "".join(letters)
        for length in range(limit + 1)
        for letters in itertools.product(language.alphabet, repeat=length)
        if MEMBER[name]("".join(letters))
    ]
    after = {}
    for word in words:
        for place in range(len(word)):
            after.setdefault(word[:place], set()).add(word[place])
        after.setdefault(word, set()).add(END)
    checked = [word for word in words if len(word) <= limit // 2]
    assert len(checked) > 1 or name == "anbncn"
    for word in checked or words:
        sets = language.next_sets(word)
        assert len(sets) == len(word) + 1
        for place, allowed in enumerate(sets):
            if place <= limit // 3:  # longer prefixes need longer words than were listed
                assert set(allowed) == after[word[:place]], (word, place)


@pytest.mark.parametrize("name", LANGUAGES)
@pytest.mark.parametrize("part", PARTS)
def test_drawn_words_are_in_the_language_and_have_the_lengths_of_the_part(name, part):
    language, task = LANGUAGES[name], SYNTHETIC_TASKS[name]
    batch = task.batch(40, part, torch.Generator().manual_seed(1))
    symbols, lengths = language.alphabet + END, set()
    for tokens, target, asked in zip(batch.tokens, batch.target, batch.asked):
        word = "".join(symbols[number] for number in tokens[1 : int(asked.sum())].tolist())
        lengths.add(len(word))
        assert MEMBER[name](word), word
        assert tokens[0] == len(symbols)
        assert (tokens[len(word) + 1 :] == len(symbols)).all()
        assert asked[: len(word) + 1].all()
        shown = ["".join(s for s, yes in zip(symbols, row) if yes) for row in target[: len(word) + 1].tolist()]
        assert [set(row) for row in shown] == [set(allowed) for allowed in language.next_sets(word)]
        assert shown[-1].endswith(END)
    least, most = PARTS[part]
    assert least <= min(lengths)
    assert max(lengths) <= most
    assert len(lengths) > 4
    if part == "1x":
        assert most == LONGEST


def test_balanced_words_are_uniform():
    """Five words of three pairs, each as often as the others."""
    from nestling.recipes.suite.formal_languages import _balanced

    generator, counts = torch.Generator().manual_seed(0), {}
    for _ in range(2000):
        word = _balanced(6, "()", generator)
        assert balanced(word, "()")
        counts[word] = counts.get(word, 0) + 1
    assert len(counts) == 5
    assert all(300 < count < 500 for count in counts.values())


@pytest.mark.parametrize("name", LANGUAGES)
def test_an_oracle_scores_one_and_a_constant_does_not(name):
    task, language = SYNTHETIC_TASKS[name], LANGUAGES[name]
    batch = task.batch(64, "2x", torch.Generator().manual_seed(2))
    symbols = language.alphabet + END

    def oracle(tokens):
        logits = torch.full((*tokens.shape, len(symbols)), -1.0)
        for row, numbers in enumerate(tokens.tolist()):
            word = "".join(symbols[number] for number in numbers[1:] if number < len(language.alphabet))
            for place, allowed in enumerate(language.next_sets(word)):
                for symbol in allowed:
                    logits[row, place, symbols.index(symbol)] = 1.0
        return logits

    assert score(oracle, batch, task.kind) == {"place": 1.0, "sequence": 1.0}
    always = score(lambda tokens: torch.ones(*tokens.shape, len(symbols)), batch, task.kind)
    assert always["sequence"] == 0.0
    assert always["place"] < 0.75


def test_the_wrong_part_or_size_is_refused():
    with pytest.raises(UnknownNameError, match="4x"):
        SYNTHETIC_TASKS["parity"].batch(2, "5x", torch.Generator())
    with pytest.raises(InputError, match="size"):
        SYNTHETIC_TASKS["parity"].batch(0, "1x", torch.Generator())
