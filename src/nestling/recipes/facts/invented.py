"""Invented facts: names nobody has heard, one question to teach each with, and wordings the teacher never sees."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from nestling.recipes.facts.relations import RELATIONS, Hop, Relation

__all__ = ["NUM_WORDINGS", "Fact", "invent"]

NUM_WORDINGS = 3

_ONSETS = [
    "b",
    "br",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "y",
    "z",
]
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ou", "ea"]
_CODAS = ("l", "n", "r", "s", "th", "x", "m", "nd", "rk", "sh", "", "", "")
_ADJECTIVES = ["Silent", "Golden", "Broken", "Hidden", "Last", "Burning", "Winter", "Crooked"]
_ANIMALS = ["otter", "falcon", "badger", "dolphin", "lizard", "raven", "hamster", "donkey", "parrot", "beetle"]
_INSTRUMENTS = ["violin", "trumpet", "cello", "flute", "banjo", "harp", "clarinet", "accordion", "drums", "organ"]
_COLOURS = ["purple", "orange", "turquoise", "crimson", "silver", "yellow", "brown", "violet", "black", "pink"]
_SPORTS = ["fencing", "rowing", "chess", "archery", "hockey", "tennis", "judo", "cricket", "sailing", "rugby"]
_ILLNESSES = [
    "asthma",
    "malaria",
    "diabetes",
    "measles",
    "arthritis",
    "migraine",
    "anemia",
    "leprosy",
    "gout",
    "cholera",
]
_PRODUCTS = ["bicycles", "candles", "carpets", "umbrellas", "pianos", "tractors", "ropes", "mirrors", "boots", "bricks"]


@dataclass(frozen=True)
class Fact:
    """One invented fact with the ways to ask for it.

    Args: reverse: asks for the subject.   two_hop: asks for the answer without naming the subject, which was the
        answer of an earlier fact; None where it was not.   The rest is of `Relation`.
    """

    subject: str
    question: str
    answer: str
    wordings: tuple[str, str, str]
    neighbour: str
    beside: tuple[str, ...]
    reverse: str
    two_hop: str | None


def invent(count: int, *, seed: int, relations: Sequence[Relation] = RELATIONS, hop: Hop | None = None) -> list[Fact]:
    """Facts whose subjects are all different, the relations in turn, the same for the same seed.

    hop: makes each answer of its first relation the subject of the next fact of its second one; other facts are the
        same without it.
    """
    dice = random.Random(seed)
    facts: list[Fact] = []
    taken: set[str] = set()
    link: Fact | None = None
    while len(facts) < count:
        number = len(facts) % len(relations)
        relation = relations[number]
        subject, linked = _make(relation.subject, dice), None
        if hop is not None and number == hop.then and link is not None and link.answer not in taken:
            subject, linked = link.answer, hop.wording.format(s=link.subject)
        if subject in taken:
            continue
        taken.add(subject)
        facts.append(_fact(relation, subject, _make(relation.answer, dice), linked))
        if hop is not None and number == hop.first:
            link = facts[-1]
    return facts


def _fact(relation: Relation, subject: str, answer: str, two_hop: str | None) -> Fact:
    first, second, third = (wording.format(s=subject) for wording in relation.others)
    return Fact(
        subject=subject,
        question=relation.taught.format(s=subject),
        answer=answer,
        wordings=(first, second, third),
        neighbour=relation.neighbour,
        beside=tuple(other.format(s=subject) for other in relation.beside),
        reverse=relation.reverse.format(a=answer),
        two_hop=two_hop,
    )


def _make(kind: str, dice: random.Random) -> str:
    if kind == "person":
        return f"{_name(dice)} {_name(dice)}"
    if kind == "title":
        return f"The {dice.choice(_ADJECTIVES)} {_name(dice)}"
    if kind == "ship":
        return f"{dice.choice(_ADJECTIVES)} {_name(dice)}"
    if kind == "mountain":
        return f"Mount {_name(dice)}"
    if kind == "year":
        return str(dice.randint(1700, 1999))
    words = {"animal": _ANIMALS, "instrument": _INSTRUMENTS, "colour": _COLOURS, "sport": _SPORTS}
    words |= {"illness": _ILLNESSES, "product": _PRODUCTS}
    return dice.choice(words[kind]) if kind in words else _name(dice)


def _name(dice: random.Random) -> str:
    syllables = (dice.choice(_ONSETS) + dice.choice(_VOWELS) for _ in range(dice.choice((2, 3))))
    return ("".join(syllables) + dice.choice(_CODAS)).capitalize()
