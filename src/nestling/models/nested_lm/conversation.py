"""A conversation with a learner: what is said to it, and the commands that teach it."""

from __future__ import annotations

from nestling.errors import InputError, NestlingError
from nestling.models.nested_lm.learner import NestedLM
from nestling.models.nested_lm.lesson import Lesson, Snapshot
from nestling.models.nested_lm.wording import Message

__all__ = ["HELP", "Conversation"]

HELP = """\
/teach QUESTION => ANSWER [#tag ...]   learn an answer; a new one to the same question replaces the old one
/teach TEXT [#tag ...]                 learn what is new in a text
/forget ID                             forget a lesson exactly
/lessons                               all lessons: id, surprise before and after, tags
/undo                                  take back the last /teach or /forget
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
        return "\n".join(_line(each) for each in self.learner.lessons()) or "nothing was taught yet"

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


def _line(lesson: Lesson) -> str:
    tags = "".join(f" #{tag}" for tag in lesson.tags)
    return f"{lesson.id}  surprise {lesson.surprise_before:.2f} -> {lesson.surprise_after:.2f} nats{tags}"
