"""The commands train, generate and eval, and what they measure."""

import json
import math

import pytest
import torch
from tiny_training import TEXT
from typer.testing import CliRunner

from nestling.cli import app
from nestling.errors import DataError, InputError
from nestling.recipes.language.evaluate import Text, evaluate_text, read_tokens
from nestling.recipes.language.generate import continue_text
from nestling.recipes.language.load import load_model

SMALL = ["--steps", "60", "--length", "48", "--batch-size", "4", "--lr", "0.01", "--threads", "1", "--device", "cpu"]


def call(*words):
    done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "song.txt").write_text(TEXT)
    done = call("train", "-d", folder / "song.txt", "-o", folder / "run", "-c", "update_periods=[8, 16]", *SMALL)
    assert "117,576 parameters, trained, validation" in done.stdout
    return folder


@pytest.fixture(scope="module")
def llama(trained):
    call("train", "-d", trained / "song.txt", "-o", trained / "llama", "-m", "llama", *SMALL)
    return trained / "llama"


def test_what_is_generated_is_what_transformers_generates(trained):
    model, tokenizer = load_model(str(trained / "run"))
    prompt = "100 green bottles"
    text = continue_text(model, tokenizer, prompt, max_new_tokens=20)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    expected = model.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=258)
    assert prompt + text == tokenizer.decode(expected[0])
    assert call("generate", trained / "run", "-p", prompt, "-n", 20).stdout == prompt + text + "\n"
    assert call("generate", trained / "run", "-p", prompt, "-n", 20, "--stream").stdout == prompt + text + "\n"
    drawn = [
        continue_text(model, tokenizer, prompt, max_new_tokens=20, temperature=4.0, seed=seed) for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert continue_text(model, tokenizer, prompt, max_new_tokens=20, temperature=1.0, top_p=1e-6, seed=3) == text
    assert len(continue_text(model, tokenizer, prompt, max_new_tokens=8, beams=2)) > 0
    assert len(continue_text(model, tokenizer, "", max_new_tokens=4)) > 0
    with pytest.raises(InputError, match="beam"):
        continue_text(model, tokenizer, prompt, beams=2, receive=print)
    with pytest.raises(InputError, match="top_p"):
        continue_text(model, tokenizer, prompt, top_p=0.0)


@pytest.mark.parametrize("name", ["run", "llama"])
def test_bits_per_byte_are_those_of_each_context_alone(name, trained, llama):
    model, tokenizer = load_model(str(trained / name))
    text = read_tokens([TEXT.encode()[:200]], tokenizer)
    found = evaluate_text(model, text, length=33, memory="frozen")
    assert (found.contexts, found.tokens) == (6, 198)
    total, first = 0.0, 0.0
    with torch.no_grad():
        for begin in range(0, 198, 33):
            row = text.ids[begin : begin + 34].unsqueeze(0)
            losses = torch.nn.functional.cross_entropy(model(row[:, :-1]).logits[0], row[0, 1:], reduction="none")
            total += losses.sum().item()
            first += losses[:16].sum().item()
    assert found.bits_per_byte == pytest.approx(total / 198 / math.log(2), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(total / 198), rel=1e-5)
    assert [(each.first, each.last) for each in found.positions] == [(1, 16), (17, 32), (33, 33)]
    assert found.positions[0].bits_per_byte == pytest.approx(first / 96 / math.log(2), rel=1e-5)
    with pytest.raises(DataError, match="at least 301"):
        evaluate_text(model, text, length=300, memory="frozen")


def test_a_long_context_in_pieces_is_one_context(trained, monkeypatch):
    from nestling.recipes.language import evaluate

    model, tokenizer = load_model(str(trained / "run"))
    text = read_tokens([TEXT.encode()[:150]], tokenizer)
    whole = evaluate_text(model, text, length=149, memory="frozen")
    monkeypatch.setattr(evaluate, "_PIECE", 40)
    assert evaluate_text(model, text, length=149, memory="frozen").bits_per_byte == pytest.approx(whole.bits_per_byte)


def test_bytes_are_counted_where_a_token_is_a_part_of_a_letter():
    class Parts:
        """Two tokens for every letter beyond ASCII, as byte-level vocabularies do it."""

        def __call__(self, text, **_):
            ends = [place + 1 for place, letter in enumerate(text) for _ in range(1 + (ord(letter) > 127))]
            return {"input_ids": list(range(len(ends))), "offset_mapping": [(end - 1, end) for end in ends]}

    found = read_tokens(["aé日b".encode()], Parts())
    assert found.bytes.tolist() == [1, 2, 0, 3, 0, 1]


def test_levels_that_learn_help_on_a_text_that_repeats_itself(trained, tmp_path):
    (tmp_path / "new.txt").write_text("seven ducks swam under the old bridge; " * 30)
    common = ("eval", trained / "run", "-d", tmp_path / "new.txt", "-l", 1000)
    done = call(*common, "--memory", "both", "--inner-rate", 1.0, "-o", tmp_path / "out")
    frozen, learning = json.loads((tmp_path / "out/evaluation.json").read_text())["evaluations"]
    assert (frozen["memory"], learning["memory"]) == ("frozen", "learning")
    assert learning["bits_per_byte"] < 0.9 * frozen["bits_per_byte"]
    assert learning["positions"][0] != learning["positions"][-1]
    assert f"{learning['bits_per_byte']:.4f} bits per byte" in done.stdout
    assert (tmp_path / "out/evaluation.png").read_bytes().startswith(b"\x89PNG")
    still = load_model(str(trained / "run"), learning=True, inner_rate=0.0)[0]
    text = Text(ids=torch.tensor(list(TEXT.encode()[:101])), bytes=torch.ones(101, dtype=torch.int64))
    plain = evaluate_text(load_model(str(trained / "run"))[0], text, length=100, memory="frozen")
    assert evaluate_text(still, text, length=100, memory="learning").bits_per_byte == pytest.approx(plain.bits_per_byte)


def test_levels_move_at_the_given_periods(trained):
    text = Text(ids=torch.tensor(list(TEXT.encode()[:301])), bytes=torch.ones(301, dtype=torch.int64))
    still = evaluate_text(load_model(str(trained / "run"))[0], text, length=300, memory="frozen")
    levels = len(load_model(str(trained / "run"))[0].config.update_periods)
    for period, unmoved in ((32, 2), (128, 4)):  # up to 32 and to 128 bytes
        model, _ = load_model(str(trained / "run"), learning=True, inner_rate=0.3, periods=[period] * levels)
        moved = evaluate_text(model, text, length=300, memory="learning")
        assert moved.positions[:unmoved] == still.positions[:unmoved]
        assert moved.positions[unmoved] != still.positions[unmoved]
        with pytest.raises(InputError, match=f"more than {period} tokens"):
            evaluate_text(model, text, length=period, memory="learning")
    with pytest.raises(InputError, match=f"one for each of the {levels} levels"):
        load_model(str(trained / "run"), learning=True, periods=[16] * (levels + 1))


def test_what_levels_have_learned_fades_as_asked(trained):
    """Nothing kept: each move begins at the weights, so what is read is neither that of retention 1 nor still."""
    text = Text(ids=torch.tensor(list(TEXT.encode()[:301])), bytes=torch.ones(301, dtype=torch.int64))
    given = {
        "learning": True,
        "inner_rate": 0.3,
        "periods": [32] * len(load_model(str(trained / "run"))[0].config.update_periods),
    }
    bits = {}
    for retention in (None, 1.0, 0.9, 0.0):
        model, _ = load_model(str(trained / "run"), **given, retention=retention)
        bits[retention] = evaluate_text(model, text, length=300, memory="learning").bits_per_byte
    assert bits[None] == bits[1.0]
    assert len({bits[1.0], bits[0.9], bits[0.0]}) == 3


def test_a_model_without_levels_cannot_learn_while_it_reads(llama):
    with pytest.raises(InputError, match="frozen"):
        load_model(str(llama), learning=True)


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(DataError, match=r"config\.json"):
        load_model(str(tmp_path))
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(DataError, match="no checkpoint yet"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--config", "update_periods"], "KEY=VALUE"),
        (["--level", "*=x"], "PATTERN=PERIOD"),
        (["--steps", "3", "--tokens", "9"], "either steps or tokens"),
        (["--parallel", "pipe"], "ddp"),
    ],
)
def test_options_that_cannot_be_read_are_named(options, words, tmp_path):
    (tmp_path / "song.txt").write_text(TEXT)
    with pytest.raises(InputError, match=words):
        call("train", "-d", tmp_path / "song.txt", "-o", tmp_path / "out", *options)
