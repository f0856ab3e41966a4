"""What makes teaching quick changes nothing: shared starts, padded passes, likely rivals, kept measurements."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_language_models import language_model, tokenizer

from nestling import NestedLM
from nestling.errors import InputError
from nestling.models.nested_lm import corrections
from nestling.models.nested_lm.corrections import Corrections
from nestling.models.nested_lm.passes import Passes
from nestling.models.nested_lm.taps import Taps
from nestling.models.nested_lm.wording import Wording
from nestling.models.nested_lm.writing import MOST_ANSWERED, MOST_ASKED, MOST_READ

FACTS = (("What is the capital of Zorbia?", "Velkaro"), ("Who sails the Crooked Tamu?", "Brela Kosh"))


def nested(kind: str = "llama", **options) -> NestedLM:
    return NestedLM(language_model(kind), tokenizer(), max_drift=float("inf"), **options)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "mamba2", "hope"])
def test_rows_of_a_batch_behind_a_shared_start_are_those_of_each_text_alone(kind: str) -> None:
    taps = Taps(language_model(kind), 1, 4, lambda early, late, fresh: None)
    wording = Wording(tokenizer())
    system = [{"role": "system", "content": "You are kind."}]
    asked = [wording.ask([*system, {"role": "user", "content": text}]) for text in ("Who?", "What is it?", "Where")]
    start = asked[0][:14]
    rows = Passes(taps, torch.device("cpu"), start).together([*asked, *asked])
    for ids, states in zip([*asked, *asked], rows, strict=True):
        alone = taps.observe(torch.tensor([ids]))
        for part in ("early", "late", "last"):
            assert torch.allclose(getattr(states, part), getattr(alone, part), atol=1e-4, rtol=1e-4)


def test_what_questions_begin_with_is_found() -> None:
    wording = Wording(tokenizer())
    assert wording.tokenizer.decode(wording.start()) == "<|user|>"
    without = Wording(tokenizer(template=False))
    assert without.tokenizer.decode(without.start()) == "Question: "


def test_rivals_among_the_likely_are_those_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are mixtures of others, so that most targets need their rivals one by one."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(40, 12, generator=generator)
    mixtures = (
        0.5 * basis[torch.randint(0, 40, (400,), generator=generator)]
        + 0.5 * basis[torch.randint(0, 40, (400,), generator=generator)]
    )
    head = torch.nn.Linear(12, 440, bias=False)
    head.weight.data = torch.cat([basis, mixtures + 0.05 * torch.randn(400, 12, generator=generator)])
    last, targets = torch.randn(30, 12, generator=generator), torch.arange(40, 70)
    separated: list[int] = []
    plain = Corrections._separate
    monkeypatch.setattr(Corrections, "_separate", lambda self, *a: separated.append(1) or plain(self, *a))

    def solved() -> list[torch.Tensor | None]:
        found: list[torch.Tensor | None] = []
        for state, target in zip(last, targets, strict=True):
            try:
                found.append(Corrections(head).solve(state[None], target[None], margin=2.0))
            except InputError:
                found.append(None)
        return found

    monkeypatch.setattr(corrections, "_LIKELY", 440)
    among_all = solved()
    monkeypatch.setattr(corrections, "_LIKELY", 60)
    among_likely = solved()
    assert len(separated) > 10
    assert sum(each is not None for each in among_all) > 5
    for one, two in zip(among_all, among_likely, strict=True):
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            assert float((one - two).norm() / one.norm()) < 0.05


def test_a_model_is_measured_once_and_a_damaged_measurement_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NESTLING_CACHE", str(tmp_path))
    first = nested()
    first.prepare()
    (kept,) = tmp_path.iterdir()
    second = nested()
    with monkeypatch.context() as patch:
        patch.setattr("nestling.models.nested_lm.learner.calibrate", lambda *a: pytest.fail("measured again"))
        second.prepare()
        assert first.teach(FACTS[0]).id == second.teach(FACTS[0]).id
        assert first.hash() == second.hash()
    content = kept.read_bytes()
    kept.write_bytes(content[:100])
    assert nested().teach(FACTS[0]).id == first.lessons()[0].id
    assert kept.read_bytes() == content
    nested("gpt2").prepare()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_later_lesson_takes_no_more_passes_than_the_first() -> None:
    learner = nested()
    learner.prepare()
    count: list[int] = []
    learner.model.register_forward_hook(lambda *_: count.append(1))
    passes = []
    for number in range(12):
        before = len(count)
        learner.teach((f"What is the capital of Zorb{number}ia?", f"Vel{number}karo"))
        passes.append(len(count) - before)
    assert set(passes) == {3}


@pytest.mark.parametrize(
    ("taught", "says"),
    [
        (("why? " * MOST_ASKED, "because"), "question of at most"),
        (("why?", "because " * MOST_ANSWERED), "answer of at most"),
        ("because " * MOST_READ, "text of at most .* in parts"),
    ],
)
def test_what_is_too_long_for_one_lesson_is_refused_without_a_pass(taught, says: str) -> None:
    learner = nested()
    learner.prepare()
    learner.model.register_forward_hook(lambda *_: pytest.fail("the model was asked"))
    with pytest.raises(InputError, match=says):
        learner.teach(taught)
    assert learner.lessons() == []


def test_hope_is_taught_and_forgets_exactly() -> None:
    ids = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = language_model("hope")(input_ids=ids).logits
        learner = nested("hope")
        assert torch.equal(learner.model(input_ids=ids).logits, expected)
        lesson = learner.teach(FACTS[0])
        learner.teach(FACTS[1])
        assert learner.generate(FACTS[0][0], max_new_tokens=12) == FACTS[0][1]
        assert learner.generate(FACTS[1][0], max_new_tokens=12) == FACTS[1][1]
        learner.forget(lesson)
        alone = nested("hope")
        alone.teach(FACTS[1])
        assert learner.hash() == alone.hash()
        learner.forget(learner.lessons()[0])
        assert torch.equal(learner.model(input_ids=ids).logits, expected)


def test_a_lesson_of_ten_thousand_tokens_is_read_in_windows_and_forgotten_exactly() -> None:
    learner = nested()
    nothing = learner.hash()
    text = " ".join(f"The name of hill {n} is Kra{n}mo." for n in range(300))
    assert 9_900 < len(learner._wording.raw(text)) < MOST_READ
    lesson = learner.teach(text)
    assert learner.capacity().used > 1_000
    assert lesson.surprise_after < 0.01 < lesson.surprise_before
    learner.forget(lesson)
    assert learner.hash() == nothing
