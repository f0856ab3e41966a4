"""Relations that the limits of the method were chosen with: nothing measured on them is a result."""

from __future__ import annotations

from nestling.recipes.facts.relations import Hop, Relation

__all__ = ["DEVELOPMENT", "DEVELOPMENT_HOP"]

DEVELOPMENT = (
    Relation(
        "place",
        "name",
        "Which language is spoken in {s}?",
        ("What do the people of {s} speak?", "Tell me the official language of {s}.", "The language spoken in {s} is"),
        "Which language is spoken in Italy?",
        ("How many people live in {s}?",),
        "Where is {a} spoken?",
    ),
    Relation(
        "person",
        "animal",
        "What pet does {s} have?",
        ("Which animal lives with {s}?", "What kind of animal does {s} keep at home?", "The pet of {s} is a"),
        "What pet does Harry Potter have?",
        ("How old is {s}?",),
        "Who keeps the {a} as a pet?",
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
        ("Where was {s} born?",),
        "Who plays the {a}?",
    ),
    Relation(
        "person",
        "name",
        "Which company does {s} work for?",
        ("Who is the employer of {s}?", "Where is {s} employed?", "{s} has a job at the company"),
        "Which company does Tim Cook work for?",
        ("Who is married to {s}?",),
        "Who works for the company {a}?",
    ),
    Relation(
        "title",
        "person",
        "Who directed the film {s}?",
        ("Who is the director of {s}?", "Name the person who made the movie {s}.", "The movie {s} was directed by"),
        "Who directed the film Jaws?",
        ("Who plays the main part in {s}?",),
        "Which film was directed by {a}?",
    ),
    Relation(
        "place",
        "colour",
        "What colour is the flag of {s}?",
        ("Which colour does the flag of {s} have?", "In what colour is {s}'s banner?", "The flag of {s} is coloured"),
        "What colour is the flag of China?",
        ("Which continent is {s} on?",),
        "Which place has a {a} flag?",
    ),
    Relation(
        "person",
        "year",
        "In which year was {s} born?",
        ("When was {s} born?", "What is the birth year of {s}?", "{s} was born in the year"),
        "In which year was Albert Einstein born?",
        ("What does {s} look like?",),
        "Who was born in {a}?",
    ),
    Relation(
        "ship",
        "person",
        "Who is the captain of the ship {s}?",
        ("Who commands the {s}?", "Name the captain who sails the {s}.", "The captain of the {s} is called"),
        "Who is the captain of the ship Titanic?",
        ("How long is the ship {s}?",),
        "Which ship does {a} command?",
    ),
    Relation(
        "place",
        "name",
        "What is the currency of {s}?",
        ("Which money is used in {s}?", "With what do people pay in {s}?", "The currency of {s} is the"),
        "What is the currency of Japan?",
        ("What is the highest mountain of {s}?",),
        "Where is the {a} the currency?",
    ),
    Relation(
        "person",
        "sport",
        "Which sport does {s} do?",
        ("What is {s}'s sport?", "In what sport does {s} compete?", "{s} is a champion in"),
        "Which sport does Lionel Messi do?",
        ("What is the phone number of {s}?",),
        "Who is known for {a}?",
    ),
)

DEVELOPMENT_HOP = Hop(first=4, then=6, wording="In which year was the director of the film {s} born?")
