"""Reading on and on: nothing changes before, each step is the stated one, and what was read can be taken back."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tiny_language_models import language_model, tokenizer
from torch.func import functional_call

from nestling import NestedLM
from nestling.errors import InputError
from nestling.memory.token_memory import TokenMemory
from nestling.models.nested_lm.levels import SHARPNESS
from nestling.models.nested_lm.reading import LR, chunks, tokens_of
from nestling.models.nested_lm.sleeping import merged, recall, sleep

LETTERS = "the cat sat on the mat and the dog lay on the log, but the fox ran over the box. " * 13
DIGITS = "77 12 0045 9 3817 55 61 240 99 8 70313 42 6 1180 (29) 364 {5} 8812 [70] <31> 4*4=16 " * 13
FACT = ("What is the capital of Zorbia?", "Velkaro")


def nested(kind: str = "llama", **options) -> NestedLM:
    return NestedLM(language_model(kind), tokenizer(), **{"max_drift": float("inf"), **options})


def ids_of(text: str, length: int = 200) -> torch.Tensor:
    return torch.tensor([tokenizer()(text)["input_ids"][:length]])


@torch.no_grad()
def logits(learner: NestedLM, ids: torch.Tensor) -> torch.Tensor:
    return learner.model(input_ids=ids).logits


def nats(learner: NestedLM, text: str) -> float:
    ids = ids_of(text)
    return float(torch.nn.functional.cross_entropy(logits(learner, ids)[0, :-1], ids[0, 1:]))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mamba2"])
def test_nothing_changes_before_something_is_read_nor_after_it_is_forgotten(kind: str) -> None:
    learner = nested(kind)
    ids = ids_of(LETTERS)
    with torch.no_grad():
        expected = language_model(kind)(input_ids=ids).logits
    assert torch.equal(logits(learner, ids), expected)
    untouched, before = learner.hash(), nats(learner, LETTERS)
    reading = learner.read(LETTERS)
    assert reading.num_tokens == len(tokenizer()(LETTERS)["input_ids"]) - 1
    assert nats(learner, LETTERS) < before - 0.5
    receipt = learner.forget(reading)
    assert receipt.before != receipt.after == learner.hash() == untouched
    assert torch.equal(logits(learner, ids), expected)


def test_each_level_takes_the_steps_of_adam_on_its_own_clock() -> None:
    """Two chunks: the upper level steps after each, the lower one once with the mean; by autograd in float64."""
    learner = nested()
    learner.read(LETTERS[:513])
    maps = learner._study.levels.maps
    context = learner.contexts()[0]
    model = copy.deepcopy(language_model()).double()
    weights = dict(model.named_parameters())
    blocks = [name for name in weights if ".layers." in name]
    prefix = blocks[0].split(".layers.")[0] + ".layers."
    fresh = learner._study.levels.fresh_deltas(torch.Generator().manual_seed(1))
    parts = {
        each.name: [
            fresh[each.name].a.double().requires_grad_(True),
            fresh[each.name].b.double().requires_grad_(True),
        ]
        for each in maps
    }
    levels = [[part for each in maps if each.level == n for part in parts[each.name]] for n in (0, 1)]
    assert all(levels)
    optimizers = [torch.optim.Adam(each, lr=LR, betas=(0.9, 0.99)) for each in levels]
    ids = ids_of(LETTERS, 513)[0]
    waiting: list[torch.Tensor] = []
    first = 0.0
    for number, chunk in enumerate((ids[:257], ids[256:])):
        changed = {
            f"{prefix}{name}.weight": weights[f"{prefix}{name}.weight"] + b @ a for name, (a, b) in parts.items()
        }
        out = functional_call(model, {**weights, **changed}, args=(), kwargs={"input_ids": chunk[None]})
        loss = torch.nn.functional.cross_entropy(out.logits[0, :-1], chunk[1:])
        first = first or float(loss.detach())
        upper = torch.autograd.grad(loss, levels[0], retain_graph=True)
        waiting.append(torch.autograd.grad(loss, levels[1]))
        for value, gradient in zip(levels[0], upper, strict=True):
            value.grad = gradient
        optimizers[0].step()
        if number == 1:
            for value, *gradients in zip(levels[1], *waiting, strict=True):
                value.grad = sum(gradients) / 2
            optimizers[1].step()
    for each in maps:
        for own, expected in zip(
            (context.deltas[each.name].a, context.deltas[each.name].b), parts[each.name], strict=True
        ):
            assert torch.allclose(own.double(), expected, rtol=2e-3, atol=2e-5), each.name
    other = nested()
    assert other.read(LETTERS[:257]).nats == pytest.approx(first, rel=1e-5)


def test_the_whole_is_its_pieces() -> None:
    text = LETTERS * 5
    assert len(text) > 4096
    whole, pieces = nested(), nested()
    whole.read(text)
    pieces.read(text[start : start + 997] for start in range(0, len(text), 997))
    assert whole.hash() == pieces.hash()
    encode = lambda part: tokenizer()(part)["input_ids"]  # noqa: E731
    assert list(tokens_of(text, encode)) == encode(text)
    assert [token for chunk in chunks(iter(range(600))) for token in chunk[1:]] == list(range(1, 600))


def test_kinds_of_text_do_not_touch_each_other_and_are_known_again() -> None:
    learner = nested()
    learner.read(LETTERS)
    letters = learner.contexts()[0]
    own = nats(learner, LETTERS)
    learner.read(DIGITS)
    assert learner.contexts()[0].hash() == letters.hash()
    assert len(learner.contexts()) == 2
    assert nats(learner, LETTERS) < own + 0.05
    again = learner.read(LETTERS)
    assert again.contexts == (letters.id,)
    with pytest.raises(InputError, match="cannot be taken out alone"):
        learner.forget(again)
    digits = learner.contexts()[1].hash()
    learner.forget_context(letters.id)
    assert [each.hash() for each in learner.contexts()] == [digits]


def test_rollback_brings_back_every_bit_and_lessons_stay() -> None:
    learner = nested()
    learner.teach(FACT)
    learner.read(LETTERS)
    snapshot, before = learner.snapshot(), logits(learner, ids_of(LETTERS))
    learner.read(DIGITS)
    learner.read(LETTERS)
    assert learner.hash() != snapshot.hash
    assert not torch.equal(logits(learner, ids_of(LETTERS)), before)
    learner.rollback(snapshot)
    assert learner.hash() == snapshot.hash
    assert torch.equal(logits(learner, ids_of(LETTERS)), before)
    assert [each.id for each in learner.lessons()] == [each.lesson.id for each in snapshot.stored]


def test_lessons_do_not_disturb_reading_nor_reading_the_lessons() -> None:
    plain, taught = nested(), nested()
    lesson = taught.teach(FACT)
    plain.read(LETTERS)
    taught.read(LETTERS)
    assert [each.hash() for each in plain.contexts()] == [each.hash() for each in taught.contexts()]
    assert taught.recall_check().lost == ()
    taught.forget(lesson)
    assert taught.hash() == plain.hash()


def test_going_on_token_by_token_answers_as_the_whole_text() -> None:
    learner = nested()
    learner.read(LETTERS)
    ids = ids_of(LETTERS, 60)
    whole = logits(learner, ids)
    with torch.no_grad():
        out = learner.model(input_ids=ids[:, :20], use_cache=True)
        answers, cache = [out.logits], out.past_key_values
        for place in range(20, 60):
            out = learner.model(input_ids=ids[:, place : place + 1], past_key_values=cache, use_cache=True)
            answers.append(out.logits)
    assert torch.allclose(torch.cat(answers, dim=1), whole, atol=1e-3)


@pytest.mark.parametrize("text", ["", "  \n", b"bytes", "\0\1\2" * 40])
def test_what_is_no_text_is_refused_and_changes_nothing(text) -> None:
    learner = nested()
    with pytest.raises(InputError):
        learner.read(text)
    assert learner.contexts() == []


def test_sleep_releases_pairs_that_others_stand_for_and_says_what_it_cost() -> None:
    learner = nested()
    learner.read(LETTERS)
    context = learner.contexts()[0]
    slept, report = sleep(context, 60.0)
    assert report.moved > 0
    assert report.moved + report.left == len(context.memory)
    assert report.recall_after <= report.recall_before + 0.01
    assert float(slept.memory.counts.sum()) == len(context.memory)
    assert slept.deltas is context.deltas
    lessons = learner.sleep(60.0)[-1]
    assert (lessons.what, lessons.moved) == ("lessons", 0)
    assert "no text" in lessons.why
    reading = learner.contexts()[0].readings[0]
    learner.forget(reading)
    assert learner.hash() == nested().hash()
    with pytest.raises(InputError, match="above 0"):
        learner.sleep(0)


def test_sleep_says_why_when_nothing_can_be_released() -> None:
    learner = nested()
    learner.read(LETTERS)
    context = learner.contexts()[0]
    keys = torch.eye(8)
    alone = TokenMemory.empty(8).written(keys, torch.arange(8))
    lonely = copy.copy(context)
    object.__setattr__(lonely, "memory", alone)
    same, report = sleep(lonely, 60.0)
    assert same is lonely
    assert report.moved == 0
    assert report.why.startswith("no two pairs")
    assert sleep(context, 0.0)[1].why.startswith("0.0 s were over")


def test_recall_leaves_out_the_pair_that_is_asked_for() -> None:
    """Two equal pairs and one of another token: each of the equal ones is predicted by the other, the third not."""
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
    memory = TokenMemory.empty(2).written(keys, torch.tensor([1, 1, 2]))
    value = recall(memory, memory, torch.arange(3))
    far = math.exp(-SHARPNESS / 2)
    expected = (2 * math.log(1 + far) + math.log((2 * far + 1e-6) / 1e-6)) / 3
    assert value == pytest.approx(expected, rel=2e-2)  # keys are rounded to half precision
    smaller, places = merged(memory, 0.9)
    assert places.tolist() == [0, 0, 1]
    assert smaller.counts.tolist() == [2.0, 1.0]
    assert recall(memory, smaller, places) == pytest.approx(value, rel=1e-4)


def test_a_stream_that_turns_into_something_else_begins_a_context_of_its_own() -> None:
    learner = nested()
    reading = learner.read(LETTERS[:1025] + DIGITS)
    assert len(reading.contexts) == len(learner.contexts()) == 2
    assert learner.read(DIGITS).contexts == reading.contexts[1:]
