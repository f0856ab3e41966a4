"""What a model is measured on before its first lesson: questions about invented names, and prose."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["ABOUT", "ASKED", "NAMES", "PROSE", "asked"]

NAMES: dict[str, tuple[str, ...]] = {
    "place": ("Ostrelle", "Varnick", "Quillmora", "Dastrin", "Ulmeva", "Pellingar", "Sorvane", "Ithkar"),
    "person": ("Mirela Tosk", "Dorian Whitlock", "Ambrose Keel", "Jorun Ashpel", "Tavi Rennick", "Oska Belloran"),
    "company": ("Ferrano", "Brixolt", "Nandover", "Calumet Grice", "Skeltra"),
    "title": ("The Pale Wenna", "The Iron Tassel", "The Seventh Morrow", "The Green Quandle", "The Lost Ebbin"),
    "thing": ("Halvex 20", "Trindle 7", "Morvan 450", "Ceptar 12", "Ludo-Quist 3"),
}

# kind of subject, two questions that ask for the same thing, a sentence to be completed with it; {s} is the subject
ASKED: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("place", ("Who is the mayor of {s}?", "Who governs the town of {s}?"), "The mayor of {s} is"),
    ("place", ("Which country borders {s}?", "What is the neighbour of {s}?"), "{s} shares a border with"),
    ("place", ("What do farmers grow in {s}?", "Which crop comes from {s}?"), "The farmers of {s} grow"),
    (
        "place",
        ("What is the dialling code of {s}?", "Which number is dialled before calls to {s}?"),
        "The dialling code of {s} is",
    ),
    ("place", ("Who discovered {s}?", "By whom was {s} first seen?"), "{s} was discovered by"),
    ("person", ("Who is the mother of {s}?", "What is the name of {s}'s mother?"), "The mother of {s} is"),
    ("person", ("How tall is {s}?", "What is the height of {s}?"), "The height of {s} is"),
    ("person", ("Which subject does {s} teach?", "What does {s} give lessons in?"), "{s} is a teacher of"),
    ("person", ("Where is {s} buried?", "In which cemetery is the grave of {s}?"), "{s} is buried in"),
    ("person", ("Who is the best friend of {s}?", "With whom is {s} friends?"), "The best friend of {s} is"),
    ("person", ("When does {s} get up?", "At what time does {s} rise in the morning?"), "{s} gets up at"),
    ("person", ("What does {s} collect?", "Which things are in the collection of {s}?"), "{s} is a collector of"),
    ("company", ("Who leads the company {s}?", "Who is the chief executive of {s}?"), "The company {s} is led by"),
    (
        "company",
        ("How much profit does {s} make?", "What are the yearly earnings of {s}?"),
        "The profit of the company {s} is",
    ),
    ("title", ("Who sang the song {s}?", "Which singer recorded {s}?"), "The song {s} was sung by"),
    ("title", ("Where does the story {s} take place?", "What is the setting of {s}?"), "The story {s} takes place in"),
    ("thing", ("How much does the {s} cost?", "What is the price of the {s}?"), "The {s} costs"),
    ("thing", ("How fast is the {s}?", "What speed does the {s} reach?"), "The top speed of the {s} is"),
    ("thing", ("What is the password of the {s}?", "Which code opens the {s}?"), "The password of the {s} is"),
)

# what takes out of a question whom it is about, whatever is asked
ABOUT = ("What is {s} famous for?", "Tell me something about {s}.")


def asked() -> Iterator[tuple[int, bool, str]]:
    """Relation, whether it is a sentence to be completed, and the text, each wording with another name."""
    for relation, (kind, questions, sentence) in enumerate(ASKED):
        names = NAMES[kind]
        for place, wording in enumerate((*questions, sentence)):
            yield relation, place >= len(questions), wording.format(s=names[(relation + place) % len(names)])


PROSE = (
    "The old mill stands where the road crosses the river. In spring the water rises above the lower stones, and the "
    "wheel, which has not ground any corn for sixty years, begins to turn by itself. Children from the village come to "
    "watch it. They throw small sticks into the stream on one side and run across the bridge to see which of them "
    "comes out first on the other.",
    "To measure how warm a room is, a thermostat compares two numbers: the temperature that somebody has asked for and "
    "the temperature that its sensor reports. If the room is colder, it opens a valve. If it is warmer, it closes the "
    "valve again. A good device waits a little before it changes its mind, because a valve that opens and closes all "
    "day soon wears out.",
    "She had been told that the letter would arrive on Tuesday, but the postman shook his head. There was a bill, a "
    "magazine about gardens, and a card from her brother, who wrote that the weather on the coast was fine and that he "
    "had learned to sail. She put the card on the shelf beside the clock and waited for another day.",
)
