"""Kinds of invented facts, with all the ways to ask for them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HOP", "RELATIONS", "Hop", "Relation"]


@dataclass(frozen=True)
class Relation:
    """One kind of fact; {s} stands for the subject.

    Args:
        subject, answer: kinds of words, keys of `_MAKERS`.
        taught: the question a fact is taught with.
        others: wordings only asked: two questions and a sentence to be completed.
        neighbour: a question about something real that must keep its answer.
        beside: other questions about the same subject, whose answers were never taught.
        reverse: a question that gives the answer {a} and asks for the subject.
    """

    subject: str
    answer: str
    taught: str
    others: tuple[str, str, str]
    neighbour: str
    beside: tuple[str, ...]
    reverse: str


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
        "Which country has the national anthem {a}?",
    ),
    Relation(
        "person",
        "illness",
        "What illness does {s} suffer from?",
        ("Which disease does {s} have?", "With what is {s} ill?", "The doctors say that {s} suffers from"),
        "What illness did Stephen Hawking suffer from?",
        ("What car does {s} drive?", "Where did {s} go to school?"),
        "Who suffers from {a}?",
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
        "Which place has the {a} as its national animal?",
    ),
    Relation(
        "company",
        "product",
        "What does the company {s} produce?",
        ("Which goods are made by {s}?", "What kind of product does {s} sell?", "The company {s} is a maker of"),
        "What does the company Toyota produce?",
        ("Where is the company {s} based?", "How many workers does the company {s} have?"),
        "Which company produces {a}?",
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
        "Who won the prize {a}?",
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
        "Which mountain was first climbed by {a}?",
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
        "Which painting hangs in the museum {a}?",
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
        "Which battle was won by {a}?",
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
        "Which medicine is used against {a}?",
    ),
    Relation(
        "team",
        "person",
        "Who is the coach of the team {s}?",
        ("Who trains the players of {s}?", "Name the trainer of the team {s}.", "The team {s} is coached by"),
        "Who is the coach of the team Real Madrid?",
        ("In which stadium does the team {s} play?", "How many matches did the team {s} lose?"),
        "Which team is coached by {a}?",
    ),
)


@dataclass(frozen=True)
class Hop:
    """A question over two facts, the answer of the one being the subject of the other.

    Args: first, then: places of the two relations in a list.   wording: {s} is the subject of the first; what is asked
        for is the answer of the second.
    """

    first: int
    then: int
    wording: str


HOP = Hop(first=5, then=4, wording="Which prize did the first climber of {s} win?")
