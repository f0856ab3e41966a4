"""The benchmark of facts on a tiny model: arms differ as they must, and a finished arm is not run again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_language_models import language_model, tokenizer

from nestling.errors import DataError, InputError, UnknownNameError
from nestling.models.nested_lm.calibration_texts import ASKED
from nestling.recipes.facts import ARMS, RELATIONS, FactsPlan, invent, markdown, run_facts
from nestling.recipes.facts.arms import FineTuning, Memory, Notes, Untaught
from nestling.recipes.facts.development import DEVELOPMENT
from nestling.recipes.facts.measure import greedy, nats, recalls, windows


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a random model over bytes every text is alike, so the guard against drift would refuse each lesson."""
    monkeypatch.setattr("nestling.models.nested_lm.learner.NestedLM._guard", lambda self, draft: None)


def test_facts_are_the_same_for_a_seed_and_no_wording_is_the_taught_one() -> None:
    facts = invent(50, seed=1)
    assert facts == invent(50, seed=1) != invent(50, seed=2)
    assert len({fact.subject for fact in facts}) == 50
    for fact in facts:
        assert fact.question not in fact.wordings
        assert all(fact.subject in wording for wording in (fact.question, *fact.wordings, *fact.beside))
        assert all(fact.answer not in wording for wording in (fact.question, *fact.wordings))
    assert [sum(wording[-1] not in "?.!" for wording in relation.others) for relation in RELATIONS] == [1] * 10


def test_a_finished_arm_is_not_run_again(tmp_path: Path, unguarded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    language_model().save_pretrained(tmp_path / "tiny")
    tokenizer().save_pretrained(tmp_path / "tiny")
    (tmp_path / "text.txt").write_text("The wheel begins to turn by itself. " * 20)
    plan = FactsPlan(
        model=str(tmp_path / "tiny"), arms=("memory", "untaught"), num_facts=2, text=str(tmp_path / "text.txt")
    )
    lines: list[str] = []
    ours, nothing = run_facts(plan, tmp_path / "out", lines.append)
    assert (ours.immediate, ours.final, ours.first, ours.last) == (1.0, 1.0, 1.0, 1.0)
    assert (nothing.immediate, nothing.final, nothing.wordings) == (0.0, 0.0, (0.0, 0.0, 0.0))
    assert (nothing.neighbours, nothing.beside, nothing.drift, nothing.num_bytes) == (1.0, 1.0, 0.0, 0.0)
    assert ours.num_bytes > 0
    assert len(lines) == 4
    monkeypatch.setitem(ARMS, "memory", lambda model, tokenizer: pytest.fail("it was run again"))
    assert run_facts(plan, tmp_path / "out", lines.append) == [ours, nothing]
    assert markdown([ours]).splitlines()[-1].startswith("| memory | 2 | 0 | 1.00 | 1.00 |")
    (tmp_path / "out" / "memory-2-0.json").write_text("{}")
    with pytest.raises(DataError, match="no result"):
        run_facts(plan, tmp_path / "out", lines.append)


class Careless(Untaught):
    """Says otherwise whatever is asked about a taught subject, or only where the taught question is asked."""

    everywhere: bool

    def __init__(self, model, tokenizer) -> None:
        super().__init__(model, tokenizer)
        self.taught: list[tuple[str, str]] = []
        self.asked = ""

    def teach(self, question: str, answer: str) -> None:
        subject = next(fact.subject for fact in invent(2, seed=0) if fact.question == question)
        self.taught.append((question, subject))

    def prompt(self, question: str, raw: bool) -> list[int]:
        self.asked = question
        return super().prompt(question, raw)

    def logits(self, ids: list[int]) -> torch.Tensor:
        spoiled = any(subject in self.asked if self.everywhere else self.asked == q for q, subject in self.taught)
        return -super().logits(ids) if spoiled else super().logits(ids)


@pytest.mark.parametrize(("everywhere", "same"), [(True, 0.0), (False, 1.0)])
def test_other_questions_about_a_taught_subject_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, everywhere: bool, same: float
) -> None:
    language_model().save_pretrained(tmp_path / "tiny")
    tokenizer().save_pretrained(tmp_path / "tiny")
    arm = type("Arm", (Careless,), {"everywhere": everywhere})
    monkeypatch.setitem(ARMS, "untaught", arm)
    plan = FactsPlan(model=str(tmp_path / "tiny"), arms=("untaught",), num_facts=2)
    (result,) = run_facts(plan, tmp_path / "out", lambda line: None)
    assert (result.beside, result.neighbours) == (same, 1.0)


def test_no_relation_serves_twice() -> None:
    """Relations that results, limits and the measuring of a model come from have no question in common."""
    tested = {wording for each in RELATIONS for wording in (each.taught, *each.others, *each.beside)}
    developed = {wording for each in DEVELOPMENT for wording in (each.taught, *each.others, *each.beside)}
    measured = {wording for _, questions, sentence in ASKED for wording in (*questions, sentence)}
    assert not tested & developed
    assert not measured & (tested | developed)
    assert len(RELATIONS) == len(DEVELOPMENT) == 10
    assert all(len(each.beside) == 2 for each in RELATIONS)


def test_a_prompt_with_notes_grows_and_ours_does_not(unguarded: None) -> None:
    fact, later = invent(2, seed=0)
    for kind, grows in ((Notes, True), (Memory, False)):
        arm = kind(language_model(), tokenizer())
        before = len(arm.prompt(later.question, raw=False))
        arm.teach(fact.question, fact.answer)
        assert (len(arm.prompt(later.question, raw=False)) > before) is grows


def test_fine_tuning_learns_a_fact_and_changes_the_rest() -> None:
    fact = invent(1, seed=0)[0]
    model = language_model()
    arm = FineTuning(model, tokenizer())
    arm.optimizer.param_groups[0]["lr"] = 1e-2
    pieces = windows(arm, "The wheel begins to turn by itself. " * 20, 2)
    before, said = nats(arm, pieces), greedy(arm, fact.neighbour, 3)
    for _ in range(8):
        arm.teach(fact.question, fact.answer)
    assert recalls(arm, fact.question, fact.answer)
    assert nats(arm, pieces) != before
    assert greedy(arm, fact.neighbour, 3) != said
    assert greedy(Notes(model, tokenizer()), fact.neighbour, 3) == said


def test_wrong_plans_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'memory'"):
        FactsPlan(model="tiny", arms=("memori",))
    with pytest.raises(InputError, match="at least one"):
        FactsPlan(model="tiny", arms=("memory",), num_facts=0)
