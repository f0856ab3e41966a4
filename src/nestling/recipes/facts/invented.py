"""Invented facts: names nobody has heard, one question to teach each with, and wordings the teacher never sees."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["NUM_WORDINGS", "RELATIONS", "Fact", "Relation", "invent"]

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


@dataclass(frozen=True)
class Relation:
    """One kind of fact; {s} stands for the subject.

    Args:
        subject, answer: kinds of words, keys of `_MAKERS`.
        taught: the question a fact is taught with.
        others: wordings only asked: two questions and a sentence to be completed.
        neighbour: a question about something real that must keep its answer.
        beside: another question about the same subject, whose answer was never taught.
    """

    subject: str
    answer: str
    taught: str
    others: tuple[str, str, str]
    neighbour: str
    beside: str


RELATIONS = (
    Relation(
        "place",
        "name",
        "Which language is spoken in {s}?",
        ("What do the people of {s} speak?", "Tell me the official language of {s}.", "The language spoken in {s} is"),
        "Which language is spoken in Italy?",
        "How many people live in {s}?",
    ),
    Relation(
        "person",
        "animal",
        "What pet does {s} have?",
        ("Which animal lives with {s}?", "What kind of animal does {s} keep at home?", "The pet of {s} is a"),
        "What pet does Harry Potter have?",
        "How old is {s}?",
    ),
    Relation(
        "person",
        "instrument",
        "Which instrument does {s} play?",
        (
            "What musical instrument is {s} known for?",
            "What does {s} play in the orchestra?",
            "In the band, {s} plays the",
        ),
        "Which instrument does Yo-Yo Ma play?",
        "Where was {s} born?",
    ),
    Relation(
        "person",
        "name",
        "Which company does {s} work for?",
        ("Who is the employer of {s}?", "Where is {s} employed?", "{s} has a job at the company"),
        "Which company does Tim Cook work for?",
        "Who is married to {s}?",
    ),
    Relation(
        "title",
        "person",
        "Who directed the film {s}?",
        ("Who is the director of {s}?", "Name the person who made the movie {s}.", "The movie {s} was directed by"),
        "Who directed the film Jaws?",
        "Who plays the main part in {s}?",
    ),
    Relation(
        "place",
        "colour",
        "What colour is the flag of {s}?",
        ("Which colour does the flag of {s} have?", "In what colour is {s}'s banner?", "The flag of {s} is coloured"),
        "What colour is the flag of China?",
        "Which continent is {s} on?",
    ),
    Relation(
        "person",
        "year",
        "In which year was {s} born?",
        ("When was {s} born?", "What is the birth year of {s}?", "{s} was born in the year"),
        "In which year was Albert Einstein born?",
        "What does {s} look like?",
    ),
    Relation(
        "ship",
        "person",
        "Who is the captain of the ship {s}?",
        ("Who commands the {s}?", "Name the captain who sails the {s}.", "The captain of the {s} is called"),
        "Who is the captain of the ship Titanic?",
        "How long is the ship {s}?",
    ),
    Relation(
        "place",
        "name",
        "What is the currency of {s}?",
        ("Which money is used in {s}?", "With what do people pay in {s}?", "The currency of {s} is the"),
        "What is the currency of Japan?",
        "What is the highest mountain of {s}?",
    ),
    Relation(
        "person",
        "sport",
        "Which sport does {s} do?",
        ("What is {s}'s sport?", "In what sport does {s} compete?", "{s} is a champion in"),
        "Which sport does Lionel Messi do?",
        "What is the phone number of {s}?",
    ),
)


@dataclass(frozen=True)
class Fact:
    """One invented fact with the ways to ask for it."""

    subject: str
    question: str
    answer: str
    wordings: tuple[str, str, str]
    neighbour: str
    beside: str


def invent(count: int, *, seed: int, relations: Sequence[Relation] = RELATIONS) -> list[Fact]:
    """Facts whose subjects are all different, the relations in turn, the same for the same seed."""
    dice = random.Random(seed)
    facts: list[Fact] = []
    taken: set[str] = set()
    while len(facts) < count:
        relation = relations[len(facts) % len(relations)]
        subject = _make(relation.subject, dice)
        if subject in taken:
            continue
        taken.add(subject)
        first, second, third = (wording.format(s=subject) for wording in relation.others)
        facts.append(
            Fact(
                subject=subject,
                question=relation.taught.format(s=subject),
                answer=_make(relation.answer, dice),
                wordings=(first, second, third),
                neighbour=relation.neighbour,
                beside=relation.beside.format(s=subject),
            )
        )
    return facts


def _make(kind: str, dice: random.Random) -> str:
    if kind == "person":
        return f"{_name(dice)} {_name(dice)}"
    if kind == "title":
        return f"The {dice.choice(_ADJECTIVES)} {_name(dice)}"
    if kind == "ship":
        return f"{dice.choice(_ADJECTIVES)} {_name(dice)}"
    if kind == "year":
        return str(dice.randint(1700, 1999))
    words = {"animal": _ANIMALS, "instrument": _INSTRUMENTS, "colour": _COLOURS, "sport": _SPORTS}
    return dice.choice(words[kind]) if kind in words else _name(dice)


def _name(dice: random.Random) -> str:
    syllables = (dice.choice(_ONSETS) + dice.choice(_VOWELS) for _ in range(dice.choice((2, 3))))
    return ("".join(syllables) + dice.choice(_CODAS)).capitalize()
