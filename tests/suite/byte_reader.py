"""A tokenizer of bytes, and readers that answer by rule."""

import random

from nestling.recipes.suite import Reader


class Bytes:
    """One token per byte."""

    def encode(self, text, *, add_special_tokens=True):
        return list(text.encode())

    def decode(self, token_ids, *, skip_special_tokens=False):
        return bytes(token_ids).decode(errors="replace")


class Scripted(Reader):
    """Answers what `answer(prompt)` says, and finds a continuation likely that begins with it."""

    def __init__(self, answer):
        self.answer, self.tokenizer, self.prompts = answer, Bytes(), []

    def go_on(self, prompt, *, max_new_tokens):
        self.prompts.append(prompt)
        return self.answer(prompt)[:max_new_tokens]

    def log_likelihood(self, context, continuation):
        right = continuation == self.answer(context)
        return (-0.5 if right else -3.5), right

    def likeliest(self, context, continuations):
        self.prompts.append(context)
        answer = self.answer(context)
        return continuations.index(answer) if answer in continuations else 0


def write_book(folder, words=6000, seed=0):
    """A book of random words as books/en_random.txt."""
    generator = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    made = ["".join(generator.choices(letters, k=generator.randint(2, 9))) for _ in range(words)]
    sentences = [" ".join(made[start : start + 8]).capitalize() + "." for start in range(0, words, 8)]
    (folder / "books").mkdir(parents=True, exist_ok=True)
    (folder / "books" / "en_random.txt").write_text("\n".join(sentences))
    (folder / "books" / "ORIGIN.txt").write_text("Not a book.")
