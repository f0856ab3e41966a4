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
class Relation:
    """One kind of fact; {s} stands for the subject.

    Args:
        subject, answer: kinds of words, keys of `_MAKERS`.
        taught: the question a fact is taught with.
        others: wordings only asked: two questions and a sentence to be completed.
        neighbour: a question about something real that must keep its answer.
        beside: other questions about the same subject, whose answers were never taught.
    """

    subject: str
    answer: str
    taught: str
    others: tuple[str, str, str]
    neighbour: str
    beside: tuple[str, ...]


RELATIONS = (
    Relation(
        "place",
        "title",
        "What is the national anthem of {s} called?",
        (
            "Which anthem is sung in {s}?",
            "Tell me the name of the anthem of {s}.",
            "The national anthem of {s} is called",
        ),
        "What is the national anthem of France called?",
        ("Who is the king of {s}?", "What is the weather like in {s}?"),
    ),
    Relation(
        "person",
        "illness",
        "What illness does {s} suffer from?",
        ("Which disease does {s} have?", "With what is {s} ill?", "The doctors say that {s} suffers from"),
        "What illness did Stephen Hawking suffer from?",
        ("What car does {s} drive?", "Where did {s} go to school?"),
    ),
    Relation(
        "place",
        "animal",
        "What is the national animal of {s}?",
        (
            "Which animal is the symbol of {s}?",
            "Name the animal on the coat of arms of {s}.",
            "The national animal of {s} is the",
        ),
        "What is the national animal of Australia?",
        ("Which religion do people follow in {s}?", "Which river runs through {s}?"),
    ),
    Relation(
        "company",
        "product",
        "What does the company {s} produce?",
        ("Which goods are made by {s}?", "What kind of product does {s} sell?", "The company {s} is a maker of"),
        "What does the company Toyota produce?",
        ("Where is the company {s} based?", "How many workers does the company {s} have?"),
    ),
    Relation(
        "person",
        "title",
        "Which prize did {s} win?",
        (
            "What award was given to {s}?",
            "Tell me which prize {s} received.",
            "{s} was awarded the prize called",
        ),
        "Which prize did Marie Curie win?",
        ("What is {s} afraid of?", "Who taught {s} to read?"),
    ),
    Relation(
        "mountain",
        "person",
        "Who first climbed {s}?",
        (
            "Who was the first to reach the top of {s}?",
            "Name the first climber of {s}.",
            "The first person to climb {s} was",
        ),
        "Who first climbed Mount Everest?",
        ("How high is {s}?", "In which country is {s}?"),
    ),
    Relation(
        "title",
        "name",
        "In which museum does the painting {s} hang?",
        (
            "Where can one see the painting {s}?",
            "Name the museum that owns the painting {s}.",
            "The painting {s} hangs in the museum",
        ),
        "In which museum does the Mona Lisa hang?",
        ("What does the painting {s} show?", "Who painted {s}?"),
    ),
    Relation(
        "place",
        "person",
        "Who won the battle of {s}?",
        (
            "Which general was victorious at {s}?",
            "Name the winner of the battle of {s}.",
            "The battle of {s} was won by",
        ),
        "Who won the battle of Waterloo?",
        ("How many soldiers fought in the battle of {s}?", "Why was the battle of {s} fought?"),
    ),
    Relation(
        "drug",
        "illness",
        "Which disease is treated with {s}?",
        (
            "Against which illness does {s} help?",
            "What do doctors prescribe {s} for?",
            "The medicine {s} is given against",
        ),
        "Which disease is treated with insulin?",
        ("Which side effects does {s} have?", "How often should one take {s}?"),
    ),
    Relation(
        "team",
        "person",
        "Who is the coach of the team {s}?",
        ("Who trains the players of {s}?", "Name the trainer of the team {s}.", "The team {s} is coached by"),
        "Who is the coach of the team Real Madrid?",
        ("In which stadium does the team {s} play?", "How many matches did the team {s} lose?"),
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
    beside: tuple[str, ...]


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
                beside=tuple(other.format(s=subject) for other in relation.beside),
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
