"""A conversation with a learner: what is said to it, and the commands that teach it."""

from __future__ import annotations

from pathlib import Path

from nestling.errors import InputError, NestlingError
from nestling.models.nested_lm.learner import NestedLM
from nestling.models.nested_lm.lesson import Lesson, Snapshot
from nestling.models.nested_lm.sleeping import Sleep
from nestling.models.nested_lm.wording import Message

__all__ = ["HELP", "Conversation"]

HELP = """\
/teach QUESTION => ANSWER [#tag ...]   learn an answer; a new one to the same question replaces the old one
/teach TEXT [#tag ...]                 learn what is new in a text
/read FILE                             go on learning from a text file (UTF-8)
/forget ID                             forget a lesson or a reading exactly
/lessons                               all lessons: id, surprise before and after, tags
/sleep [SECONDS]                       hold what was read in less room where that costs nothing; 60 s
/undo                                  take back the last /teach, /read, /sleep or /forget
/why                                   which lessons spoke in the last answer
/new                                   begin a new conversation
/quit                                  leave; lessons are kept in the memory file"""

_TURNS = 3


class Conversation:
    """Turns lines into replies; the last three turns are the context of an answer.

    Args: learner: that answers and learns.   max_new_tokens: of one answer.
    """

    def __init__(self, learner: NestedLM, *, max_new_tokens: int = 64) -> None:
        self.learner, self.max_new_tokens = learner, max_new_tokens
        self._messages: list[Message] = []
        self._before: list[Snapshot] = []
        self._commands = {
            "/teach": self._teach,
            "/read": self._read,
            "/sleep": self._sleep,
            "/forget": self._forget,
            "/lessons": self._lessons,
            "/undo": self._undo,
            "/why": self._why,
            "/new": self._new,
            "/help": self._help,
        }

    def say(self, line: str) -> str:
        """The reply to one line; an error the user can mend is a reply too."""
        command, _, rest = line.strip().partition(" ")
        try:
            if not command.startswith("/"):
                return self._answer(line)
            if command not in self._commands:
                return f"there is no {command}:\n{HELP}"
            return self._commands[command](rest.strip())
        except NestlingError as error:
            return f"error: {error}"

    def _answer(self, line: str) -> str:
        if not line.strip():
            return ""
        asked = [*self._messages, {"role": "user", "content": line.strip()}]
        answer = self.learner.generate(asked, max_new_tokens=self.max_new_tokens)
        self._messages = [*asked, {"role": "assistant", "content": answer}][-2 * _TURNS :]
        return answer

    def _teach(self, rest: str) -> str:
        words = rest.split()
        tags: list[str] = []
        while words and words[-1].startswith("#"):
            tags.insert(0, words.pop()[1:])
            rest = rest[: rest.rindex("#")].rstrip()
        question, arrow, answer = rest.partition("=>")
        before = self.learner.snapshot()
        lesson = self.learner.teach((question, answer) if arrow else rest, tags=tags)
        self._before.append(before)
        self._messages = []
        notes = [f"replaced {id_}" for id_ in lesson.replaced] + list(lesson.warnings)
        return "\n".join([f"learned {_line(lesson)}, {lesson.seconds:.1f} s", *notes])

    def _read(self, rest: str) -> str:
        path = Path(rest).expanduser()
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise InputError(f"{rest or 'no file'}: expected a text file in UTF-8: {error}") from error
        before = self.learner.snapshot()
        reading = self.learner.read(text)
        self._before.append(before)
        self._messages = []
        into = f"into {', '.join(reading.contexts)}" if reading.contexts else "too short to learn from"
        return (
            f"read {reading.id}  {reading.num_tokens} tokens, {reading.nats:.2f} nats each before they were learned, "
            f"{reading.seconds:.1f} s, {into}"
        )

    def _sleep(self, rest: str) -> str:
        try:
            seconds = float(rest or 60)
        except ValueError as error:
            raise InputError(f"expected a number of seconds, got {rest!r}") from error
        before = self.learner.snapshot()
        reports = self.learner.sleep(seconds)
        self._before.append(before)
        return "\n".join(_night(each) for each in reports)

    def _forget(self, rest: str) -> str:
        before = self.learner.snapshot()
        receipt = self.learner.forget(rest)
        self._before.append(before)
        self._messages = []
        return (
            f"forgot {receipt.lesson}; memory {receipt.before[:12]} -> {receipt.after[:12]}, {receipt.remaining} left"
        )

    def _lessons(self, rest: str) -> str:
        del rest
        lines = [_line(each) for each in self.learner.lessons()]
        lines += [
            f"{each.id}  {each.num_tokens} tokens read, {each.num_bytes() / 1e6:.1f} MB: {', '.join(each.readings)}"
            for each in self.learner.contexts()
        ]
        return "\n".join(lines) or "nothing was taught yet"

    def _undo(self, rest: str) -> str:
        del rest
        if not self._before:
            raise InputError("there is nothing to take back in this conversation")
        self.learner.rollback(self._before.pop())
        self._messages = []
        return f"taken back; {len(self.learner.lessons())} lessons"

    def _why(self, rest: str) -> str:
        del rest
        best: dict[str, float] = {}
        for id_, score in self.learner.why():
            best[id_] = max(score, best.get(id_, 0.0))
        return "\n".join(f"{id_}  score {score:.2f}" for id_, score in best.items()) or "no lesson spoke"

    def _help(self, rest: str) -> str:
        del rest
        return HELP

    def _new(self, rest: str) -> str:
        del rest
        self._messages = []
        return "a new conversation"


def _night(report: Sleep) -> str:
    if report.moved == 0:
        return f"{report.what}: nothing was released: {report.why}"
    return (
        f"{report.what}: {report.moved} pairs released, {report.left} left; recall {report.recall_before:.3f} -> "
        f"{report.recall_after:.3f} nats, prose {report.drift_before:.3f} -> {report.drift_after:.3f} nats"
    )


def _line(lesson: Lesson) -> str:
    tags = "".join(f" #{tag}" for tag in lesson.tags)
    return f"{lesson.id}  surprise {lesson.surprise_before:.2f} -> {lesson.surprise_after:.2f} nats{tags}"
