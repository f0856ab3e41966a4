"""From one lesson to the associations that hold it: forward passes only, no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nestling.errors import InputError
from nestling.memory.association import Association, Form
from nestling.models.nested_lm.calibration_texts import ABOUT
from nestling.models.nested_lm.corrections import Corrections
from nestling.models.nested_lm.frames import Frames
from nestling.models.nested_lm.taps import States, Taps
from nestling.models.nested_lm.wording import Message, Wording, words

__all__ = ["Draft", "Writer"]

SUBJECT_SHARE = 0.5
_SURPRISING = 5.0
_TARGET_SHARE = 0.3
_WINDOW = 256


@dataclass(frozen=True)
class Draft:
    """A lesson before it is stored. Args: associations.   before, after: surprise in nats per token.
    asked: states of the question, None for running text.
    """

    associations: tuple[Association, ...]
    before: float
    after: float
    asked: States | None


class Writer:
    """Makes associations of a frozen model.

    Whom a text speaks of is found by surprise: the words whose tokens were least expected, the most surprising one and
    all with at least half its surprise. Names nobody has heard stand out; so does the one rare word of a common
    sentence.

    Args: taps, wording, frames, corrections: of the model.
    """

    def __init__(self, taps: Taps, wording: Wording, frames: Frames, corrections: Corrections) -> None:
        self.taps, self.wording, self.frames, self.corrections = taps, wording, frames, corrections

    def question(self, messages: Sequence[Message], answer: str) -> Draft:
        """Associate a conversation that ends with a question with its answer: two passes, and two about its subject."""
        asked = self.wording.ask(messages)
        plain = self.wording.raw(messages[-1]["content"])
        forms: list[Form] = []
        places: list[Tensor] = []
        frames: list[int] = []
        surprises: list[tuple[Tensor, Tensor]] = []
        seen: list[States] = []
        for prompt, ids in ((asked, self.wording.answer(answer)), (plain, self.wording.continued(answer))):
            states = self._observe(prompt + ids[:-1])
            place, frame = self.frames.late(states.late[0, len(prompt) - 1])
            form, surprise = self._form(states, len(prompt), ids)
            forms.append(form)
            places.append(place)
            frames.append(int(frame))
            surprises.append(surprise)
            seen.append(states)
        start = _find(asked, plain)
        states, begin = (seen[1], 0) if start is None else (seen[0], start)
        ids = asked if start is not None else plain
        chosen = self._subject(states, ids, begin, begin + len(plain))
        who = self.frames.early(states.early[0, chosen])
        who_ids = [ids[position] for position in chosen]
        about = self._about(messages, who_ids)
        association = Association(
            _half(who), _half(torch.stack(places)), tuple(frames), _half(about), (forms[0], forms[1])
        )
        return Draft((association,), float(surprises[0][0].mean()), float(surprises[0][1].mean()), seen[0])

    def text(self, text: str) -> Draft:
        """Associate the surprising words of a running text with the most surprising word before each: one pass per
        256 tokens.

        Raises: InputError when nothing in it is surprising enough to be learned.
        """
        ids = self.wording.raw(text)
        made: list[Association] = []
        before: list[Tensor] = []
        after: list[Tensor] = []
        for begin in range(0, len(ids), _WINDOW):
            for association, (old, new) in self._window(ids[begin : begin + _WINDOW]):
                made.append(association)
                before.append(old)
                after.append(new)
        if not made:
            raise InputError(
                "nothing in this text is new to the model behind a word that names what it is about: teach a question "
                "with its answer instead"
            )
        return Draft(tuple(made), float(torch.cat(before).mean()), float(torch.cat(after).mean()), None)

    def _window(self, ids: list[int]) -> list[tuple[Association, tuple[Tensor, Tensor]]]:
        if len(ids) < 3:
            return []
        states = self._observe(ids)
        groups, surprise = self._words(states, ids, 0, len(ids))
        least = SUBJECT_SHARE * max(surprise)
        found: list[tuple[Association, tuple[Tensor, Tensor]]] = []
        for number, group in enumerate(groups):
            earlier = [n for n in range(number) if surprise[n] >= least]
            if not earlier or surprise[number] < max(_SURPRISING, _TARGET_SHARE * max(surprise)):
                continue
            subject = groups[max(earlier, key=lambda n: surprise[n])]
            start = group[0]
            place, frame = self.frames.late(states.late[0, start - 1])
            form, change = self._form(states, start, [ids[position] for position in group])
            who = self.frames.early(states.early[0, subject])
            found.append(
                (
                    Association(_half(who), _half(place[None]), (int(frame),), torch.zeros_like(place), (form, form)),
                    change,
                )
            )
        return found

    def _observe(self, ids: list[int]) -> States:
        return self.taps.observe(torch.tensor([ids], device=self.corrections.device))

    def _form(self, states: States, start: int, ids: list[int]) -> tuple[Form, tuple[Tensor, Tensor]]:
        """Corrections for the tokens of an answer that begins at `start`, and its surprise without and with them."""
        last = states.last[0, start - 1 : start - 1 + len(ids)]
        targets = torch.tensor(ids, device=last.device)
        values = _half(self.corrections.solve(last, targets))
        pieces = _half(self.frames.early(states.early[0, start : start - 1 + len(ids)]))
        surprise = self.corrections.surprise(last, targets), self.corrections.surprise(last + values, targets)
        return Form(values, pieces), surprise

    def _about(self, messages: Sequence[Message], subject: list[int]) -> Tensor:
        """Unit direction [D] of the late keys of questions that ask nothing in particular about a subject."""
        name = self.wording.tokenizer.decode(subject).strip()
        keys: list[Tensor] = []
        for text in ABOUT:
            asked = self.wording.ask([*messages[:-1], {"role": "user", "content": text.format(s=name)}])
            keys.append(self.frames.late(self._observe(asked).late[0, -1])[0])
        return normalize(torch.stack(keys).mean(0), dim=0)

    def _subject(self, states: States, ids: list[int], begin: int, end: int) -> list[int]:
        """Positions of the tokens of the words that name whom a question speaks of."""
        groups, surprise = self._words(states, ids, begin, end)
        return [
            position
            for group, size in zip(groups, surprise, strict=True)
            if size >= SUBJECT_SHARE * max(surprise)
            for position in group
        ]

    def _words(self, states: States, ids: list[int], begin: int, end: int) -> tuple[list[list[int]], list[float]]:
        """Words between two positions and the surprise of each in nats: 0 for marks and where nothing comes before."""
        tokens = ids[begin:end]
        first = max(begin, 1)
        targets = torch.tensor(ids[first:end], device=states.last.device)
        nats = [0.0] * (first - begin)
        if len(targets):
            nats += self.corrections.surprise(states.last[0, first - 1 : end - 1], targets).tolist()
        tokenizer = self.wording.tokenizer
        groups = words(tokenizer, tokens)
        letters = [any(each.isalnum() for each in tokenizer.decode([tokens[p] for p in group])) for group in groups]
        sizes = [sum(nats[p] for p in g) if ok else 0.0 for g, ok in zip(groups, letters, strict=True)]
        return [[begin + position for position in group] for group in groups], sizes


def _find(whole: list[int], part: list[int]) -> int | None:
    """Where `part` stands in `whole`, the last time."""
    for start in range(len(whole) - len(part), -1, -1):
        if whole[start : start + len(part)] == part:
            return start
    return None


def _half(tensor: Tensor) -> Tensor:
    """Rounded to what is saved, so that a memory that was saved and loaded is the same one."""
    return tensor.half().float()
