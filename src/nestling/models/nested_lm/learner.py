"""A pretrained language model with a memory in its weights that can be taught, corrected and made to forget."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nestling.errors import InputError
from nestling.models.nested_lm.corrections import Corrections
from nestling.models.nested_lm.frames import Frames, calibrate
from nestling.models.nested_lm.guard import Guard, compare
from nestling.models.nested_lm.lesson import Capacity, Lesson, Recall, Receipt, Snapshot, Stored, fingerprint
from nestling.models.nested_lm.lessons import Lessons
from nestling.models.nested_lm.level_saving import levels_path
from nestling.models.nested_lm.measured import measured, model_hash
from nestling.models.nested_lm.reader import Reader
from nestling.models.nested_lm.reading import Reading
from nestling.models.nested_lm.saving import read_memory, write_memory
from nestling.models.nested_lm.study import Reads, Study
from nestling.models.nested_lm.taps import Taps, find_blocks
from nestling.models.nested_lm.wording import Message, Wording, check_text, question_and_answer
from nestling.models.nested_lm.writing import Draft, Writer

__all__ = ["NestedLM"]

EARLY, LATE = 0.2, 0.93

Taught = str | tuple[str, str] | Sequence[Message]
Prompt = str | Sequence[Message]


class NestedLM(Reads):
    """Levels of a nested system: the model's own weights, frozen, and a memory that changes with every lesson.

    Keys are states of the frozen model and values act behind its last block, so no lesson changes another one's keys:
    lessons commute, merge by union, and are forgotten exactly.

    Args:
        model: a causal language model of transformers; it keeps its weights, and hooks are put on it.
        tokenizer: its tokenizer.
        memory: a file that lessons are read from now and saved to after each change; None keeps them in the process.
        max_associations: >= 1, how many taught answers it takes (each is compared at every token).
        max_drift: nats per token that a lesson may cost on ordinary prose before it is refused.
    Raises: InputError for a model it cannot be put on; CheckpointError for an unusable memory file.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        memory: str | Path | None = None,
        max_associations: int = 10_000,
        max_drift: float = 0.02,
    ) -> None:
        if max_associations < 1:
            raise InputError(f"max_associations: expected at least 1, got {max_associations}")
        depth = len(find_blocks(model))
        self.model, self.tokenizer = model, tokenizer
        self._wording = Wording(tokenizer)
        early = min(depth, max(1, round(EARLY * depth)))
        self._taps = Taps(model, early, max(early, round(LATE * depth)), self._correct)
        self._corrections = Corrections(self._taps.head)
        self._frames: Frames | None = None
        self._reader: Reader | None = None
        self._writer: Writer | None = None
        self._rails = Guard(self._taps, self._wording, self._corrections, max_drift)
        self._lessons = Lessons(limit=max_associations)
        self._path = None if memory is None else Path(memory).expanduser()
        self._study = Study(
            model,
            self._taps,
            early,
            wording=self._wording,
            frames=lambda: self._ready().frames,
            model_hash=self.model_hash,
            memory=self._path,
        )
        if self._path is not None and (self._path.exists() or levels_path(self._path).exists()):
            self.load(self._path)

    @torch.no_grad()
    def teach(self, taught: Taught, *, tags: Sequence[str] = ()) -> Lesson:
        """Learn something at once; it is written before this returns, to the memory file too where there is one.

        Args:
            taught: (question, answer), or messages that end with the assistant's answer, or a running text.
            tags: words of yours to find the lesson by; they are stored as they are.
        Returns: the lesson; its `warnings` say what it contradicts. A new answer to the same question replaces the
            old one.
        Raises: InputError for nothing, binary content, a text with nothing to learn, a lesson that costs ordinary
            prose more than max_drift, and when the memory is full.
        """
        self.prepare()
        began = time.perf_counter()
        draft = self._draft(taught)
        self._rails.check(draft, self._ready().frames)
        replaced, warnings = compare(draft, self._lessons.owners, self._lessons.associations)
        kept = self._lessons.without(replaced)
        lesson = Lesson(
            id=fingerprint(draft.associations)[:12],
            tags=tuple(tags),
            surprise_before=draft.before,
            surprise_after=draft.after,
            seconds=time.perf_counter() - began,
            num_bytes=sum(2 * tensor.numel() for each in draft.associations for tensor in each.tensors()),
            replaced=tuple(replaced),
            warnings=tuple(warnings),
        )
        more = kept.with_more([Stored(lesson, draft.associations)])
        if nearly_full := more.warnings():
            lesson = replace(lesson, warnings=(*lesson.warnings, *nearly_full))
            more = kept.with_more([Stored(lesson, draft.associations)])
        self._change(more)
        return lesson

    @torch.no_grad()
    def generate(self, prompt: Prompt, *, raw: bool = False, max_new_tokens: int = 64, **options: Any) -> str:
        """Answer a question or go on with a text; greedy unless `do_sample=True`.

        Args:
            prompt: a question, or messages that end with the user's; without a chat template the answer is one line.
            raw: go on with the prompt as running text.
            max_new_tokens: >= 1.   options: of the model's own `generate` (one sequence, no beams).
        """
        if options.get("num_beams", 1) != 1 or options.get("num_return_sequences", 1) != 1:
            raise InputError("generate answers with one sequence: leave num_beams and num_return_sequences at 1")
        ids = torch.tensor([self._wording.prompt(prompt, raw)], device=self._corrections.device)
        options = {"do_sample": False, "pad_token_id": self._wording.pad(), **options}
        if not raw and not self._wording.has_template:
            options.setdefault("eos_token_id", self._wording.line_ends())
        model: Any = self.model
        with self._taps.one_text():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, **options)
        return str(self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()

    def prepare(self) -> None:
        """Measure the model now (60 short passes, three more for the guard) in place of at the first lesson."""
        self._ready()
        self._rails.prepare()

    def one_text(self) -> contextlib.AbstractContextManager[None]:
        """All passes of the model inside are one text that goes on."""
        return self._taps.one_text()

    def widen(self, rows: int) -> None:
        """Go on with `rows` copies of the one text read so far: for passes of a batch with a common start."""
        if self._reader is not None:
            self._reader.widen(rows)
        self._study.levels.widen(rows)

    def why(self) -> list[tuple[str, float]]:
        """Lessons that spoke during the last pass or `generate`, with their scores in (0, 1], in order.

        An answer of several tokens that opened where the text went on with something else did not speak.
        """
        if self._reader is None:
            return []
        owners = self._lessons.owners
        return [(owners[firing.association], firing.score) for firing in self._reader.fired if firing.followed]

    def lessons(self) -> list[Lesson]:
        """All lessons, oldest first."""
        return self._lessons.facts

    def forget(self, lesson: Lesson | Reading | str) -> Receipt:
        """Delete a lesson or a reading: afterwards the memory equals, to the bit, one that never saw it.

        Raises: InputError when there is none, or when other readings went into the same levels.
        """
        id_ = lesson if isinstance(lesson, str) else lesson.id
        before = self.hash()
        if id_ in self._lessons:
            self._change(self._lessons.without([id_]))
        else:
            self._study.forget(id_)
        return Receipt(id_, before, self.hash(), len(self._lessons))

    def hash(self) -> str:
        """SHA-256 of everything learned, in any order."""
        parts = sorted(each.fingerprint for each in self._lessons.stored)
        return hashlib.sha256("".join([*parts, self._study.state.hash()]).encode()).hexdigest()

    def snapshot(self) -> Snapshot:
        """What is known now."""
        return Snapshot(self._lessons.stored, self.hash(), self._study.state)

    def rollback(self, snapshot: Snapshot) -> None:
        """Know again what was known at the snapshot."""
        read = self._study.state
        self._study.change(snapshot.read)
        try:
            self._change(Lessons(snapshot.stored, limit=self._lessons.limit))
        except BaseException:
            self._study.change(read)
            raise

    def merge(self, other: NestedLM) -> None:
        """Learn all that another learner on the same model was taught.

        Raises: InputError for another model, or when the memory would be too full.
        """
        if self.model_hash() != other.model_hash():
            raise InputError("expected a learner on the same pretrained model: keys of another one mean nothing here")
        together = self._lessons.with_more(other._lessons.stored)
        self._frames = self._frames or other._frames
        self._change(together)

    def recall_check(self) -> Recall:
        """Ask the memory with every lesson's own keys, without the model: is each still the one that opens?"""
        table = self._reader.table if self._reader is not None else None
        if table is None:
            return Recall(0, 0, ())
        owners = self._lessons.owners
        lost = [owners[n] for n in range(len(owners)) if not table.opens_itself(n)]
        return Recall(len(owners), len(owners) - len(lost), tuple(dict.fromkeys(lost)))

    def capacity(self) -> Capacity:
        """How full the memory is."""
        return self._lessons.capacity()

    def save(self, path: str | Path) -> None:
        """Write the memory, not the model, to one file, and what was read beside it; each whole or not at all."""
        self._write(Path(path).expanduser())
        self._study.save(Path(path).expanduser())

    def load(self, path: str | Path) -> None:
        """Know what a saved memory knows, in place of what is known now.

        Raises: CheckpointError for a file that is missing, damaged, or of another model.
        """
        path = Path(path).expanduser()
        device = self._corrections.device
        stored: list[Stored] = []
        if path.exists() or not levels_path(path).exists():  # only read, never taught: there is no memory file
            frames, stored = read_memory(path, model=self.model_hash())
            self._frames, self._reader = frames.to(device), None
        moved = (Stored(each.lesson, tuple(pair.to(device) for pair in each.associations)) for each in stored)
        self._lessons = Lessons(moved, limit=self._lessons.limit)
        self._refresh()
        self._study.load(path)

    def close(self) -> None:
        """Take the hooks off the model, which then is as it came."""
        self._taps.remove()
        self._study.levels.remove()

    def model_hash(self) -> str:
        """Hash of the architecture and of a sample of every weight."""
        return model_hash(self.model)

    def _draft(self, taught: Taught) -> Draft:
        frames = self._ready().frames
        if self._writer is None or self._writer.frames is not frames:
            self._writer = Writer(self._taps, self._wording, frames, self._corrections)
        writer = self._writer
        if isinstance(taught, str | bytes | bytearray):
            return writer.text(check_text("the text", taught))
        messages, answer = question_and_answer(taught)
        return writer.question(messages, answer)

    def _change(self, lessons: Lessons) -> None:
        before, self._lessons = self._lessons, lessons
        try:
            if self._path is not None:
                self._write(self._path)
        except BaseException:
            self._lessons = before
            raise
        self._refresh()

    def _write(self, path: Path) -> None:
        write_memory(path, model=self.model_hash(), frames=self._ready().frames, stored=list(self._lessons.stored))

    def _refresh(self) -> None:
        self._ready().replace(self._lessons.associations)

    def _ready(self) -> Reader:
        """The reader; the model is measured when it is first needed."""
        if self._reader is None:
            if self._frames is None:
                device = self._corrections.device
                measure = partial(calibrate, self._taps, self._wording, device)
                self._frames = measured(f"{self.model_hash()} {self._corrections.dtype}", self._wording, measure).to(
                    device
                )
            self._reader = Reader(self._frames)
        return self._reader

    def _correct(self, early: Tensor, late: Tensor, fresh: bool) -> Tensor | None:
        if self._reader is None or self._study.levels.busy:
            return None
        return self._reader.correct(early, late, fresh)
