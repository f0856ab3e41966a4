"""From what is said to tokens: questions as a model expects them, running text, and the words in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nestling.errors import InputError

__all__ = ["Message", "Wording", "check_text", "question_and_answer", "words"]

Message = dict[str, str]

_WORD_MARKS = ("Ġ", "▁", " ")
_CONTROL_SHARE = 0.05


class Wording:
    """How one tokenizer asks.

    With a chat template a question is asked with it, and an answer ends with the end-of-text token; without one it is
    asked as "Question: ...\\nAnswer:" and ends with the end of the line.

    Args: tokenizer: of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.has_template = bool(getattr(tokenizer, "chat_template", None))

    def ask(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to where the answer begins."""
        if self.has_template:
            text = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
            return self._ids(text)
        names = {"user": "Question", "assistant": "Answer"}
        lines = [f"{names.get(each['role'], each['role'])}: {each['content']}" for each in messages]
        return self._ids("\n".join([*lines, "Answer:"]))

    def start(self) -> list[int]:
        """Ids that every question without earlier messages begins with."""
        one, two = (self.ask([{"role": "user", "content": letter}]) for letter in ("A", "Z"))
        same = [a == b for a, b in zip(one, two, strict=False)]
        return one[: same.index(False) if False in same else 0]

    def prompt(self, prompt: str | Sequence[Message], raw: bool) -> list[int]:
        """Ids of a question, of messages, or with `raw` of a text to go on with."""
        if raw:
            if not isinstance(prompt, str):
                raise InputError("raw=True goes on with a text: expected text, got messages")
            return self.raw(check_text("the prompt", prompt))
        if isinstance(prompt, str | bytes | bytearray):
            return self.ask([{"role": "user", "content": check_text("the prompt", prompt)}])
        return self.ask(prompt)

    def raw(self, text: str) -> list[int]:
        """Ids of running text."""
        return self._ids(text)

    def answer(self, answer: str) -> list[int]:
        """Ids of an answer to a question, with the mark of its end where that is one token."""
        ids = self._ids(answer if self.has_template else f" {answer}")
        if self.has_template:
            end = [] if self.tokenizer.eos_token_id is None else [int(self.tokenizer.eos_token_id)]
        else:
            end = self._ids("\n")
        return ids + end if len(end) == 1 else ids

    def continued(self, answer: str) -> list[int]:
        """Ids of an answer inside running text."""
        return self._ids(f" {answer}")

    def line_ends(self) -> list[int]:
        """Tokens that end an answer where there is no chat template: the end of text, and of the line."""
        line = self._ids("\n")
        end = self.tokenizer.eos_token_id
        return [*([] if end is None else [int(end)]), *(line if len(line) == 1 else [])]

    def pad(self) -> int:
        """A token that fills up rows: any, where the tokenizer has none for it."""
        for name in ("pad_token_id", "eos_token_id"):
            if (found := getattr(self.tokenizer, name, None)) is not None:
                return int(found)
        return 0

    def _ids(self, text: str) -> list[int]:
        return [int(each) for each in self.tokenizer(text, add_special_tokens=False)["input_ids"]]


def words(tokenizer: Any, ids: Sequence[int]) -> list[list[int]]:
    """Positions of the tokens of each word; marks that are no letters or digits stand by themselves."""
    groups: list[list[int]] = []
    inside = False
    for position, token in enumerate(tokenizer.convert_ids_to_tokens(list(ids))):
        begins = token is None or token.startswith(_WORD_MARKS)
        letters = bool(token) and any(each.isalnum() or ord(each) > 255 for each in token.lstrip("Ġ▁ "))
        if begins or not inside or not letters:
            groups.append([])
        groups[-1].append(position)
        inside = letters
    return groups


def check_text(what: str, text: object) -> str:
    """The text, if somebody could have written it. Raises InputError for other types, nothing, and binary content."""
    if isinstance(text, (bytes, bytearray)):
        raise InputError(f"{what}: expected text, got {len(text)} bytes: decode them first")
    if not isinstance(text, str):
        raise InputError(f"{what}: expected text, got {type(text).__name__}")
    if not text.strip():
        raise InputError(f"{what} is empty: expected words")
    control = sum(not each.isprintable() and not each.isspace() for each in text)
    if "\0" in text or control > _CONTROL_SHARE * len(text):
        raise InputError(f"{what}: expected text, got {control} control characters: is it a binary file?")
    return text.strip()


def question_and_answer(taught: Any) -> tuple[list[Message], str]:
    """Messages up to the question, and the answer. Raises InputError for anything else."""
    if isinstance(taught, tuple) and len(taught) == 2:
        question = check_text("the question", taught[0])
        return [{"role": "user", "content": question}], check_text("the answer", taught[1])
    try:
        messages = [{"role": str(each["role"]), "content": each["content"]} for each in taught]
    except (TypeError, KeyError) as error:
        raise InputError("expected a text, (question, answer), or messages of role and content") from error
    if len(messages) < 2 or messages[-1]["role"] != "assistant" or messages[-2]["role"] != "user":
        raise InputError("expected messages that end with the user's question and the assistant's answer")
    for each in messages:
        each["content"] = check_text(f"the message of {each['role']}", each["content"])
    return messages[:-1], messages[-1]["content"]
