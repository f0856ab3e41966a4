"""What a model is measured on before its first lesson: questions, sentences that ask the same, and prose."""

from __future__ import annotations

__all__ = ["PAIRS", "PROSE"]

PAIRS = (
    ("What is the capital of Portugal?", "The capital of Portugal is"),
    ("What is the profession of Dorian Whitlock?", "Dorian Whitlock works as a"),
    ("Who founded the company Ferrano?", "The company Ferrano was founded by"),
    ("Who wrote the novel Moby Dick?", "The author of the novel Moby Dick is"),
    ("In which city does Mirela Tosk live?", "Mirela Tosk lives in the city of"),
    ("Into which sea does the Volga flow?", "The river Volga flows into the"),
    ("What is the favourite food of Ambrose Keel?", "The favourite food of Ambrose Keel is"),
    ("In which year did Kenya become independent?", "Kenya became an independent country in the year"),
    ("What is the Halvex 20 made of?", "The Halvex 20 is made of"),
    ("Which planet orbits the star Tauriel?", "The star Tauriel is orbited by the planet"),
    ("How high is Mount Kilimanjaro?", "The height of Mount Kilimanjaro is"),
    ("What is the password of the guest network?", "The password of the guest network is"),
    ("When does the museum in Lindau open?", "The museum in Lindau opens at"),
    ("How much does a ticket to Bergen cost?", "The price of a ticket to Bergen is"),
    ("Who is the oldest sister of Pauline?", "The oldest sister of Pauline is called"),
    ("Where are the keys of the cellar?", "The keys of the cellar are in the"),
)

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
