"""The benchmark of facts on a tiny model: arms differ as they must, and a finished arm is not run again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_language_models import language_model, tokenizer

from nestling.errors import DataError, InputError, UnknownNameError
from nestling.models.nested_lm.calibration_texts import ASKED
from nestling.recipes.facts import ARMS, RELATIONS, FactsPlan, draw_recall, invent, markdown, run_facts
from nestling.recipes.facts.arms import EWC, FineTuning, Lora, Memory, Notes, Replay, Retrieval, Untaught
from nestling.recipes.facts.development import DEVELOPMENT, DEVELOPMENT_HOP
from nestling.recipes.facts.measure import greedy, nats, recalls, windows
from nestling.recipes.facts.relations import HOP


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a random model over bytes every text is alike, so the guard against drift would refuse each lesson."""
    monkeypatch.setattr("nestling.models.nested_lm.guard.Guard.check", lambda self, draft, frames: None)


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
    assert len(lines) == 6
    assert ours.book_drift is None
    assert ours.forgetting is not None
    assert (ours.forgetting.lessons, ours.forgetting.recalled, ours.forgetting.rest_changed) == (1, 0.0, 0.0)
    assert (ours.forgetting.weights, ours.forgetting.outputs, ours.forgetting.same_hash) == (0.0, 0.0, True)
    monkeypatch.setitem(ARMS, "memory", lambda model, tokenizer: pytest.fail("it was run again"))
    assert run_facts(plan, tmp_path / "out", lines.append) == [ours, nothing]
    assert markdown([ours]).splitlines()[-1].startswith("| 2 | 0 | 1 | 0.00 |")
    assert "| memory | 2 | 0 | 1.00 | 1.00 |" in markdown([ours])
    draw_recall([ours, nothing], tmp_path / "out" / "facts.png")
    assert (tmp_path / "out" / "facts.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "out" / "memory-2-0.json").write_text("{}")
    with pytest.raises(DataError, match="no result"):
        run_facts(plan, tmp_path / "out", lines.append)


class Careless(Untaught):
    """Says otherwise whatever is asked about a taught subject, or only where the taught question is asked."""

    everywhere: bool

    def __init__(self, model, tokenizer) -> None:
        super().__init__(model, tokenizer)
        self.taught: list[tuple[str, str]] = []

    def teach(self, question: str, answer: str) -> None:
        subject = next(fact.subject for fact in invent(2, seed=0) if fact.question == question)
        self.taught.append((question, subject))

    def logits(self, rows, keep) -> list[torch.Tensor]:
        asked = [self.wording.tokenizer.decode(row) for row in rows]
        spoiled = [any((s if self.everywhere else q) in text for q, s in self.taught) for text in asked]
        return [-each if bad else each for each, bad in zip(super().logits(rows, keep), spoiled, strict=True)]


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
    before, said = nats(arm, pieces), greedy(arm, [fact.neighbour], 3)
    for _ in range(8):
        arm.teach(fact.question, fact.answer)
    assert recalls(arm, [(fact.question, fact.answer)]) == [True]
    assert nats(arm, pieces) != before
    assert greedy(arm, [fact.neighbour], 3) != said
    assert greedy(Notes(model, tokenizer()), [fact.neighbour], 3) == said


def test_wrong_plans_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'memory'"):
        FactsPlan(model="tiny", arms=("memori",))
    with pytest.raises(InputError, match="at least one"):
        FactsPlan(model="tiny", arms=("memory",), num_facts=0)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mamba2"])
def test_a_padded_batch_gives_what_each_text_gives_by_itself(kind: str, unguarded: None) -> None:
    """With lessons that open inside the batch, behind a start that all rows share and without one."""
    facts = invent(5, seed=0)
    arm = Memory(language_model(kind), tokenizer())
    for fact in facts[:3]:
        arm.teach(fact.question, fact.answer)
    questions = [arm.prompt(fact.question, raw=False) + arm.wording.answer(fact.answer)[:-1] for fact in facts]
    sentences = [arm.prompt(fact.wordings[2], raw=True) for fact in facts]
    for rows in (questions, sentences):
        keep = [4 + n % 3 for n in range(len(rows))]
        together = arm.logits(rows, keep)
        for row, count, batched in zip(rows, keep, together, strict=True):
            with torch.no_grad():
                single = arm.model(input_ids=torch.tensor([row])).logits[0, -count:]
            assert torch.allclose(batched, single, atol=2e-4, rtol=1e-4)
    known = recalls(arm, [(fact.question, fact.answer) for fact in facts])
    assert known == [True, True, True, False, False]


def test_a_linked_fact_asks_over_two_and_leaves_the_others_alone() -> None:
    linked, plain = invent(40, seed=3, hop=HOP), invent(40, seed=3)
    hops = [n for n, fact in enumerate(linked) if fact.two_hop is not None]
    assert hops == [14, 24, 34]
    for n, (one, two) in enumerate(zip(linked, plain, strict=True)):
        if n in hops:
            first = linked[n - 9]
            assert one.subject == first.answer
            assert one.two_hop == f"Which prize did the first climber of {first.subject} win?"
            assert one.answer not in one.two_hop
        else:
            assert one == two
    assert RELATIONS[HOP.first].answer == RELATIONS[HOP.then].subject == "person"
    assert DEVELOPMENT[DEVELOPMENT_HOP.first].answer == DEVELOPMENT[DEVELOPMENT_HOP.then].subject == "person"


@pytest.mark.parametrize(("kind", "rate"), [(Lora, 5e-3), (EWC, 2e-2), (Replay, 2e-2)])
def test_each_way_of_tuning_learns_a_fact(kind, rate: float) -> None:
    fact = invent(1, seed=0)[0]
    model = language_model()
    before = [each.clone() for each in model.parameters()]
    arm = kind(model, tokenizer())
    arm.STRENGTH = 1e3  # of EWC; for a model this small
    arm.optimizer.param_groups[0]["lr"] = rate
    for _ in range(10):
        arm.teach(fact.question, fact.answer)
    assert recalls(arm, [(fact.question, fact.answer)]) == [True]
    if kind is not Lora:
        assert all(torch.equal(one, two) for one, two in zip(before, model.parameters(), strict=True))


def test_the_penalty_is_the_gradient_of_what_it_states() -> None:
    arm = EWC(language_model(), tokenizer())
    generator = torch.Generator().manual_seed(0)
    for weight in arm.weights:
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
        weight.grad = torch.zeros_like(weight)
    stated = sum(
        0.5 * arm.STRENGTH * (fisher * (weight - anchor).square()).sum()
        for weight, fisher, anchor in zip(arm.weights, arm._fisher, arm._anchor, strict=True)
    )
    wanted = torch.autograd.grad(stated, arm.weights)
    arm._add_penalty()
    for weight, gradient in zip(arm.weights, wanted, strict=True):
        assert torch.allclose(weight.grad, gradient, rtol=1e-4, atol=1e-6)


def test_replay_draws_from_what_was_taught() -> None:
    arm = Replay(language_model(), tokenizer())
    arm.STEPS = 0
    for fact in invent(5, seed=0):
        assert len(arm._beside()) == min(3, len(arm._stored))
        arm.teach(fact.question, fact.answer)
    assert all(example in arm._stored for example in arm._beside())


def test_retrieval_puts_the_nearest_note_in_the_prompt_and_no_far_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder:
        """Says of each text whether it names a subject."""

        def __call__(self, input_ids, attention_mask):
            return type("Out", (), {"last_hidden_state": input_ids})

    def encode(texts, **_):
        rows = [[[float(fact.subject in texts[0]) for fact in facts] + [0.1]] for _ in texts]
        return {"input_ids": torch.tensor(rows), "attention_mask": torch.ones(1, 1)}

    facts = invent(3, seed=0)
    monkeypatch.setattr("nestling.recipes.facts.arms.notes.load_encoder", lambda: (encode, Encoder()))
    arm = Retrieval(language_model(), tokenizer())
    for fact in facts:
        arm.teach(fact.question, fact.answer)
    assert arm.chosen(facts[1].wordings[0]) == [(facts[1].question, facts[1].answer)]
    arm.LEAST = 1.1
    assert arm.chosen(facts[1].wordings[0]) == []
    arm.LEAST = 0.5
    asked, plain = arm._messages(facts[1].wordings[0]), arm.wording.raw(facts[1].wordings[0])
    assert [each["content"] for each in asked] == [facts[1].question, facts[1].answer, facts[1].wordings[0]]
    assert arm.prompt(facts[1].wordings[0], raw=True)[-len(plain) :] == plain
