"""Sentences as states of a language model, examples in its prompt, and the benchmark of both."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch
from tiny_language_models import language_model, tokenizer

from nestling.errors import DataError, InputError, UnknownNameError
from nestling.models.pretrained.echo import FIRST, NEUTRAL, SECOND, echo_features, echo_states
from nestling.recipes.intents import IntentsPlan, IntentsResult, markdown, run_intents
from nestling.recipes.intents import run as intents_run
from nestling.recipes.intents.in_context import InContext
from nestling.recipes.intents.parts import parts, stream_of, texts_of
from nestling.streams.intents import Encoder

KINDS = ("llama", "gpt2", "mamba2", "hope")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NESTLING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty classes of CLINC150 and twelve of Banking77, whose sentences name their class."""
    things = ["cup", "toy", "sock", "lamp", "fork", "drum", "rose", "coin", "boat", "kite", "bell", "desk"]
    classes = [f"{verb}_{thing}" for verb in ("find", "buy", "sell") for thing in things][:30]
    rows = {
        part: [[f"{name.replace('_', ' the ')} {part} {n}", name] for name in classes for n in range(count)]
        for part, count in (("train", 4), ("val", 1), ("test", 2))
    }
    for name in ("clinc150", "banking77"):
        (tmp_path / name).mkdir()
    (tmp_path / "clinc150" / "data_full.json").write_text(json.dumps(rows))
    lines = [f"my {thing} number {n},{thing}" for n in range(20) for thing in things]
    (tmp_path / "banking77" / "train.csv").write_text("text,category\n" + "\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_echo_states_are_means_over_the_second_reading_of_each_sentence_alone(kind: str) -> None:
    model, words = language_model(kind).eval(), tokenizer()
    texts = ["where is my card", "hi", "a much longer question about nothing in particular"]
    found = echo_states(model, words, texts, depths=(0.0, 0.5, 1.0), cache=False)
    number = model.config.num_hidden_layers
    for row, text in enumerate(texts):
        said = words(FIRST + text + SECOND + text, add_special_tokens=False)["input_ids"]
        begin = [] if words.bos_token_id is None else [words.bos_token_id]
        with torch.no_grad():
            states = model(torch.tensor([[*begin, *said]]), output_hidden_states=True).hidden_states
        for place, layer in enumerate((0, round(0.5 * number), number)):
            mean = states[layer][0, -len(text) :].mean(0)  # one token a byte
            torch.testing.assert_close(found[row, place], mean, rtol=0.01, atol=0.01)  # kept as bfloat16


def test_features_are_standardised_by_neutral_sentences_and_of_unit_length() -> None:
    model, words = language_model("llama").eval(), tokenizer()
    texts = ["what is my balance", "play a song"]
    features = echo_features(model, words, texts, depths=(0.2, 1.0), cache=False)
    neutral = echo_states(model, words, NEUTRAL, depths=(0.2, 1.0), cache=False)
    scores = (echo_states(model, words, texts, depths=(0.2, 1.0), cache=False) - neutral.mean(0)) / neutral.std(0)
    expected = (scores / scores.norm(dim=-1, keepdim=True)).flatten(1) / 2**0.5
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(echo_features(model, words, texts[1:], depths=(0.2, 1.0), cache=False), features[1:])


def test_states_are_kept_and_a_damaged_file_is_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, words = language_model("llama").eval(), tokenizer()
    texts, seen = ["one question", "another question"], []
    first = echo_states(model, words, texts, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 2)]
    (file,) = (cache / "echo").glob("*.safetensors")
    forward = model.base_model.forward
    monkeypatch.setattr(model.base_model, "forward", None)  # would fail: nothing is read
    assert torch.equal(echo_states(model, words, texts), first)
    monkeypatch.setattr(model.base_model, "forward", forward)
    file.write_bytes(b"not a tensor")
    assert torch.equal(echo_states(model, words, texts), first)
    assert file.stat().st_size > 100
    other = language_model("llama", seed=1).eval()
    assert not torch.equal(echo_states(other, words, texts), first)


def test_bad_input_of_echo_states_is_named() -> None:
    model, words = language_model("llama"), tokenizer()
    with pytest.raises(DataError, match="at least one text"):
        echo_states(model, words, [])
    with pytest.raises(DataError, match="number 2"):
        echo_states(model, words, ["fine", " "])
    with pytest.raises(InputError, match="shares from 0"):
        echo_states(model, words, ["fine"], depths=(2.0,))


@pytest.mark.parametrize("kind", KINDS)
def test_the_named_intent_is_the_greedy_one_of_the_whole_text_read_at_once(kind: str) -> None:
    model, words = language_model(kind).eval(), tokenizer()
    classes = ["card_lost", "card", "cash", "loan"]
    reader = InContext(model, words, classes)
    examples = [("my card is gone", 0), ("new card", 1), ("notes and coins", 2), ("money for a house", 3)]
    assert reader.show(examples) == 4
    shown = "".join(f"Request: {text}\nIntent: {classes[n].replace('_', ' ')}\n\n" for text, n in examples)
    for question in ("where is my card", "lend me some", "notes", "where is my purse"):
        text = f"What does each request ask for?\n\n{shown}Request: {question}\nIntent:"
        begin = [] if words.bos_token_id is None else [words.bos_token_id]
        ids = [*begin, *words(text, add_special_tokens=False)["input_ids"]]
        left = {n: [*words(" " + name.replace("_", " "))["input_ids"], words("\n")["input_ids"][0]]
                for n, name in enumerate(classes)}  # fmt: skip
        for place in itertools.count():
            if len(left) == 1:
                break
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1]
            best = max({name[place] for name in left.values()}, key=lambda token: float(logits[token]))
            left = {n: name for n, name in left.items() if name[place] == best}
            ids = [*ids, best]
        assert reader.choose(question) == next(iter(left))


def test_examples_that_do_not_fit_are_left_out_and_names_must_differ() -> None:
    model, words = language_model("llama").eval(), tokenizer()
    reader = InContext(model, words, ["one", "two"])
    reader.room = 150
    assert reader.show([("a" * 30, 0), ("b" * 30, 1), ("c" * 30, 0)]) == 2
    assert reader.prompt_tokens <= 150
    reader.room = 50
    with pytest.raises(InputError, match="no example fits"):
        reader.show([("a" * 30, 0)])
    with pytest.raises(DataError, match="same name"):
        InContext(model, words, ["a_b", "a b"])


def test_parts_are_those_of_the_streams(folder: Path) -> None:
    def read(texts, progress):
        del progress
        return torch.tensor([[float(sum(text.encode()))] for text in texts])

    for name in ("clinc150", "banking77"):
        stream = stream_of(name, folder, Encoder(read=read, details={}), validate=False)
        for seed in (0, 3):
            arranged = stream.arranged(seed, "shuffled")
            cut = parts(name, seed, folder, validate=False)
            for part, texts in (("train", cut.train.texts), ("test", cut.test.texts)):
                mine = sorted(read(texts, None).flatten().tolist())
                theirs = torch.cat([getattr(each, part).inputs for each in arranged.experiences]).flatten()
                assert sorted(theirs.tolist()) == mine
            known = set(itertools.chain.from_iterable(texts_of(name, folder, validate=False)))
            assert known == {*cut.train.texts, *cut.test.texts}


def test_the_benchmark_runs_every_arm_once_and_writes_a_table(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intents_run, "load_language_model", lambda name: (language_model("llama").eval(), tokenizer()))
    arms = ("continuum:num_features=200", "naive", "in_context", "in_context_nearest")
    plan = IntentsPlan(
        model="tiny", data=("clinc150", "banking77"), arms=arms, seeds=2, queries=10, folder=folder
    )  # fmt: skip
    said: list[str] = []
    results = run_intents(plan, tmp_path / "out", said.append)
    assert len(results) == 2 * 4 * 2
    of = {(each.data, each.arm, each.seed): each for each in results}
    for name in plan.data:  # every sentence holds the name of its class: least squares find it, a tiny random model no
        assert of[name, "continuum:num_features=200", 0].accuracy > 0.3
        assert of[name, "continuum:num_features=200", 0].stored == 0
        assert of[name, "in_context", 0].queries == 10
        assert of[name, "in_context", 0].stored > 0
    again = run_intents(plan, tmp_path / "out", said.append)
    assert [each.accuracy for each in again] == [each.accuracy for each in results]
    one = run_intents(dataclasses.replace(plan, arms=("naive",)), tmp_path / "out", said.append)
    assert [each.accuracy for each in one] == [each.accuracy for each in results if each.arm == "naive"]
    table = markdown(results)
    assert table.count("\n| clinc150 |") == 4
    assert "± " in table
    validating = dataclasses.replace(plan, validate=True)
    for arm in ("naive", "in_context"):  # results of the test part are not taken for those of another
        with pytest.raises(InputError, match=r"part|another"):
            run_intents(dataclasses.replace(validating, arms=(arm,)), tmp_path / "out", said.append)
    (tmp_path / "out" / "clinc150-in_context-10-seed0.json").write_text("{}")
    with pytest.raises(DataError, match="remove it"):
        run_intents(plan, tmp_path / "out", said.append)


def test_bad_plans_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="clinc150"):
        IntentsPlan(model="x", data=("clinc",), arms=("in_context",))
    with pytest.raises(InputError, match="at least one"):
        IntentsPlan(model="x", data=("clinc150",), arms=())


def test_means_and_spreads_of_the_table_are_those_worked_out_by_hand() -> None:
    rows = [
        IntentsResult("clinc150", "a", seed, accuracy, 0.02, 100, 1500, 2_500_000, 0, 3.0)
        for seed, accuracy in enumerate((0.9, 0.92, 0.94))
    ]
    assert "| clinc150 | a | 3 | 92.0 ± 2.0 | 2.0 ± 0.0 | 100 | 1.5 kB | 2.5 MB | 0 | 3 |" in markdown(rows)
