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
from nestling.models.nested_lm.corrections import Corrections, surprise
from nestling.models.nested_lm.frames import Frames
from nestling.models.nested_lm.passes import Passes
from nestling.models.nested_lm.taps import States, Taps
from nestling.models.nested_lm.wording import Message, Wording, words

__all__ = ["Draft", "Writer"]

SUBJECT_SHARE = 0.5
_SURPRISING = 5.0
_TARGET_SHARE = 0.3
_WINDOW = 256
MOST_ASKED, MOST_ANSWERED, MOST_READ = 2048, 256, 16384


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
        self.wording, self.frames, self.corrections = wording, frames, corrections
        self.passes = Passes(taps, corrections.device, wording.start())

    def question(self, messages: Sequence[Message], answer: str) -> Draft:
        """Associate a conversation that ends with a question with its answer.

        Three passes: the question as it is asked, as running text, and two questions about its subject.
        Raises: InputError for a question or an answer too long to be one.
        """
        asked = self.wording.ask(messages)
        plain = self.wording.raw(messages[-1]["content"])
        answers = self.wording.answer(answer), self.wording.continued(answer)
        _check_length(max(len(asked), len(plain)), max(len(ids) for ids in answers))
        seen = [self.passes.alone(prompt + ids[:-1]) for prompt, ids in zip((asked, plain), answers, strict=True)]
        places = [len(asked), len(plain)]
        what, frames = self.frames.late(
            torch.stack([states.late[0, place - 1] for states, place in zip(seen, places, strict=True)])
        )
        forms, surprises = self._forms(seen, places, answers)
        start = _find(asked, plain)
        states, begin, ids = (seen[1], 0, plain) if start is None else (seen[0], start, asked)
        chosen = self._subject(states, ids, begin, begin + len(plain))
        association = Association(
            _half(self.frames.early(states.early[0, chosen])),
            _half(what),
            tuple(int(frame) for frame in frames),
            _half(self._about(messages, [ids[position] for position in chosen])),
            (forms[0], forms[1]),
        )
        return Draft((association,), float(surprises[0][0].mean()), float(surprises[0][1].mean()), seen[0])

    def text(self, text: str) -> Draft:
        """Associate the surprising words of a running text with the most surprising word before each: one pass per
        256 tokens.

        Raises: InputError when nothing in it is surprising enough to be learned, or it is too long for one lesson.
        """
        ids = self.wording.raw(text)
        if len(ids) > MOST_READ:
            raise InputError(f"expected a text of at most {MOST_READ} tokens, got {len(ids)}: teach it in parts")
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
        states = self.passes.alone(ids)
        groups, nats = self._words(states, ids, 0, len(ids))
        least = SUBJECT_SHARE * max(nats)
        chosen: list[tuple[list[int], list[int]]] = []
        for number, group in enumerate(groups):
            earlier = [n for n in range(number) if nats[n] >= least]
            if not earlier or nats[number] < max(_SURPRISING, _TARGET_SHARE * max(nats)):
                continue
            chosen.append((group, groups[max(earlier, key=lambda n: nats[n])]))
        if not chosen:
            return []
        starts = [group[0] for group, _ in chosen]
        what, frames = self.frames.late(states.late[0, [start - 1 for start in starts]])
        answers = [[ids[position] for position in group] for group, _ in chosen]
        forms, changes = self._forms([states] * len(chosen), starts, answers)
        found: list[tuple[Association, tuple[Tensor, Tensor]]] = []
        for n, (_, subject) in enumerate(chosen):
            who = _half(self.frames.early(states.early[0, subject]))
            nothing = torch.zeros_like(what[n])
            made = Association(who, _half(what[n : n + 1]), (int(frames[n]),), nothing, (forms[n], forms[n]))
            found.append((made, changes[n]))
        return found

    def _forms(
        self, seen: Sequence[States], starts: Sequence[int], answers: Sequence[list[int]]
    ) -> tuple[list[Form], list[tuple[Tensor, Tensor]]]:
        """Corrections for the tokens of answers that begin at `starts`, and their surprise without and with them."""
        sizes = [len(ids) for ids in answers]
        last = torch.cat(
            [states.last[0, start - 1 : start - 1 + n] for states, start, n in zip(seen, starts, sizes, strict=True)]
        )
        targets = torch.tensor([token for ids in answers for token in ids], device=last.device)
        logits = self.corrections.logits(last)
        values = _half(self.corrections.solve(last, targets, logits=logits))
        before = surprise(logits, targets).split(sizes)
        after = self.corrections.surprise(last + values, targets).split(sizes)
        pieces = [
            _half(self.frames.early(states.early[0, start : start - 1 + n]))
            for states, start, n in zip(seen, starts, sizes, strict=True)
        ]
        forms = [Form(value, piece) for value, piece in zip(values.split(sizes), pieces, strict=True)]
        return forms, list(zip(before, after, strict=True))

    def _about(self, messages: Sequence[Message], subject: list[int]) -> Tensor:
        """Unit direction [D] of the late keys of questions that ask nothing in particular about a subject."""
        name = self.wording.tokenizer.decode(subject).strip()
        rows = [self.wording.ask([*messages[:-1], {"role": "user", "content": text.format(s=name)}]) for text in ABOUT]
        late = torch.stack([states.late[0, -1] for states in self.passes.together(rows)])
        return normalize(self.frames.late(late)[0].mean(0), dim=0)

    def _subject(self, states: States, ids: list[int], begin: int, end: int) -> list[int]:
        """Positions of the tokens of the words that name whom a question speaks of."""
        groups, nats = self._words(states, ids, begin, end)
        return [
            position
            for group, size in zip(groups, nats, strict=True)
            if size >= SUBJECT_SHARE * max(nats)
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


def _check_length(question: int, answer: int) -> None:
    for what, count, most in (("question", question, MOST_ASKED), ("answer", answer, MOST_ANSWERED)):
        if count > most:
            raise InputError(
                f"expected a {what} of at most {most} tokens, got {count}: teach a long text as a text, which is read "
                "in windows"
            )


def _find(whole: list[int], part: list[int]) -> int | None:
    """Where `part` stands in `whole`, the last time."""
    for start in range(len(whole) - len(part), -1, -1):
        if whole[start : start + len(part)] == part:
            return start
    return None


def _half(tensor: Tensor) -> Tensor:
    """Rounded to what is saved, so that a memory that was saved and loaded is the same one."""
    return tensor.half().float()
