"""A language model that is taught: unchanged before, exact afterwards, and as if never taught once it forgot."""

from __future__ import annotations

import pytest
import torch
from tiny_language_models import language_model, tokenizer

import nestling
from nestling import NestedLM
from nestling.errors import InputError
from nestling.models.nested_lm import frames
from nestling.models.nested_lm.wording import Wording

MEASURED: dict[tuple[str, bool], frames.Frames] = {}
KINDS = ("llama", "gpt2", "qwen2", "mamba2")
FACTS = (
    ("What is the capital of Zorbia?", "Velkaro"),
    ("Who sails the Crooked Tamu?", "Brela Kosh"),
    ("Which pet does Ilmo keep?", "otter"),
    ("Wie heißt die Hauptstadt von Ödland?", "Grünwald 🌲"),
)


def nested(kind: str = "llama", template: bool = True, **options) -> NestedLM:
    """On a random model over bytes every text is alike, so the guard against drift is off unless it is tested."""
    return NestedLM(language_model(kind), tokenizer(template), **{"max_drift": float("inf"), **options})


@pytest.fixture(autouse=True)
def measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model is measured once in this file, not in every test."""

    def calibrate(taps, wording, device):
        key = (
            f"{taps.head.weight.dtype} {type(taps.head).__name__} {float(taps.head.weight.float().sum())}",
            wording.has_template,
        )
        if key not in MEASURED:
            MEASURED[key] = frames.calibrate(taps, wording, device)
        return MEASURED[key]

    monkeypatch.setattr("nestling.models.nested_lm.learner.calibrate", calibrate)


def some_ids(length: int = 40, rows: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (rows, length), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits(model, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids).logits


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_before_the_first_lesson_nor_after_it_is_forgotten(kind: str) -> None:
    plain = language_model(kind)
    expected = logits(plain, some_ids())
    learner = nested(kind)
    assert torch.equal(logits(learner.model, some_ids()), expected)
    lesson = learner.teach(FACTS[0])
    learner.forget(lesson)
    assert torch.equal(logits(learner.model, some_ids()), expected)
    assert learner.hash() == nested(kind).hash()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", [True, False])
def test_every_fact_is_answered_after_one_pass_over_all_of_them(kind: str, template: bool) -> None:
    learner = nested(kind, template)
    lessons = [learner.teach(fact) for fact in FACTS]
    for (question, answer), lesson in zip(FACTS, lessons, strict=True):
        said = learner.generate(question, max_new_tokens=30)
        assert said == answer
        assert lesson.surprise_after < 0.01 < lesson.surprise_before
        assert lesson.id in [id_ for id_, _ in learner.why()]
    assert learner.recall_check().lost == ()


def test_a_lesson_that_the_text_does_not_go_on_with_did_not_speak() -> None:
    learner = nested()
    question, answer = FACTS[0]
    lesson = learner.teach(FACTS[0])
    wording = Wording(tokenizer())
    asked, said = wording.ask([{"role": "user", "content": question}]), wording.answer(answer)
    for ids, spoke in ((asked, True), ([*asked, *said], True), ([*asked, *b"zzzz"], False)):
        logits(learner.model, torch.tensor([ids]))
        assert (lesson.id in [id_ for id_, _ in learner.why()]) is spoke
    learner.generate("something else altogether", max_new_tokens=3)
    assert learner.why() == []


def test_the_models_own_forward_and_generate_know_it_too() -> None:
    learner = nested()
    learner.teach(FACTS[0])
    text = learner.tokenizer.apply_chat_template(
        [{"role": "user", "content": FACTS[0][0]}], add_generation_prompt=True, tokenize=False
    )
    ids = learner.tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    out = learner.model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=256)
    assert learner.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True) == FACTS[0][1]
    whole = logits(learner.model, out)[0, ids.shape[1] - 1 : -1].argmax(-1)
    assert torch.equal(whole, out[0, ids.shape[1] :])


def test_forgotten_is_as_never_taught_and_the_rest_is_untouched() -> None:
    learner, other = nested(), nested()
    lessons = [learner.teach(fact) for fact in FACTS]
    for fact in (FACTS[0], FACTS[2], FACTS[3]):
        other.teach(fact)
    before = learner.hash()
    receipt = learner.forget(lessons[1])
    assert (receipt.before, receipt.after, receipt.remaining) == (before, other.hash(), 3)
    assert torch.equal(logits(learner.model, some_ids()), logits(other.model, some_ids()))
    for question, _ in FACTS:
        assert learner.generate(question, max_new_tokens=12) == other.generate(question, max_new_tokens=12)
    assert learner.generate(FACTS[1][0], max_new_tokens=12) != FACTS[1][1]
    with pytest.raises(InputError, match="no lesson"):
        learner.forget(lessons[1])


def test_the_order_of_lessons_does_not_matter_and_two_learners_merge() -> None:
    one, two, all_ = nested(), nested(), nested()
    for fact in FACTS[:2]:
        one.teach(fact)
    for fact in FACTS[2:]:
        two.teach(fact)
    for fact in reversed(FACTS):
        all_.teach(fact)
    one.merge(two)
    assert one.hash() == all_.hash()
    for question, answer in FACTS:
        assert one.generate(question, max_new_tokens=30) == answer
    with pytest.raises(InputError, match="same pretrained model"):
        one.merge(nested("gpt2"))


def test_a_new_answer_takes_the_place_of_the_old_one() -> None:
    learner, fresh = nested(), nested()
    old = learner.teach(FACTS[0])
    new = learner.teach((FACTS[0][0], "Nembo"))
    fresh.teach((FACTS[0][0], "Nembo"))
    assert new.replaced == (old.id,)
    assert learner.generate(FACTS[0][0], max_new_tokens=12) == "Nembo"
    assert learner.hash() == fresh.hash()


def test_rollback_brings_back_what_was_known() -> None:
    learner = nested()
    learner.teach(FACTS[0])
    kept = learner.snapshot()
    learner.teach(FACTS[1])
    learner.forget(kept.stored[0].lesson)
    learner.rollback(kept)
    assert learner.hash() == kept.hash
    assert [each.id for each in learner.lessons()] == [kept.stored[0].lesson.id]
    assert learner.generate(FACTS[0][0], max_new_tokens=12) == FACTS[0][1]


def test_messages_are_taught_as_a_conversation() -> None:
    learner = nested()
    talk = [{"role": "user", "content": FACTS[2][0]}, {"role": "assistant", "content": FACTS[2][1]}]
    assert learner.teach(talk).id == nested().teach(FACTS[2]).id


def test_a_bfloat16_model_is_taught_with_a_float32_memory() -> None:
    model = language_model(dtype=torch.bfloat16)
    expected = logits(model, some_ids())
    learner = NestedLM(model, tokenizer(), max_drift=float("inf"))
    assert torch.equal(logits(learner.model, some_ids()), expected)
    learner.teach(FACTS[0])
    assert learner.generate(FACTS[0][0], max_new_tokens=12) == FACTS[0][1]


@pytest.mark.parametrize(
    ("taught", "says"),
    [
        ("", "empty"),
        (("What?", "  "), "empty"),
        (b"\x00\x01", "bytes"),
        ("\x00\x01\x02abc", "control characters"),
        (("a question?", 3), "expected text, got int"),
        ([{"role": "user", "content": "only a question?"}], "end with the user's question"),
        (7, "expected a text"),
    ],
)
def test_what_cannot_be_taught_is_refused_and_changes_nothing(taught, says: str) -> None:
    learner = nested()
    with pytest.raises(InputError, match=says):
        learner.teach(taught)
    assert learner.lessons() == []


def test_a_full_memory_refuses_and_says_so_before() -> None:
    learner = nested(max_associations=2)
    learner.teach(FACTS[0])
    second = learner.teach(FACTS[1])
    assert "nearly full" in " ".join(second.warnings)
    with pytest.raises(InputError, match="full"):
        learner.teach(FACTS[2])
    assert (learner.capacity().used, learner.capacity().limit) == (2, 2)


def test_a_lesson_that_costs_ordinary_prose_too_much_is_refused() -> None:
    learner = nested(max_drift=0.02)
    with pytest.raises(InputError, match=r"cost ordinary prose .* nats per token"):
        learner.teach(FACTS[0])
    assert learner.lessons() == []


def test_a_long_text_is_read_in_windows() -> None:
    learner = nested()
    lesson = learner.teach(" ".join(f"The name of hill {n} is Kra{n}mo." for n in range(60)))
    assert learner.capacity().used > 10
    assert lesson.surprise_after < lesson.surprise_before


def test_nest_takes_a_folder_and_says_what_is_missing(tmp_path) -> None:
    language_model().save_pretrained(tmp_path / "tiny")
    tokenizer().save_pretrained(tmp_path / "tiny")
    learner = nestling.nest(tmp_path / "tiny", max_drift=float("inf"))
    learner.teach(FACTS[0])
    assert learner.generate(FACTS[0][0], max_new_tokens=12) == FACTS[0][1]
    with pytest.raises(InputError, match="tokenizer"):
        nestling.nest(language_model())
    with pytest.raises(InputError, match="smollm2"):
        nestling.nest("smollm2-135")
