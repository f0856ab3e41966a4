"""The text stream: what is held out, what is scored, what is the same twice."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from nestling.errors import DataError, InputError, UnknownNameError
from nestling.streams.base import Examples, Experience, Stream
from nestling.streams.byte_model import make_byte_model
from nestling.streams.text import bits_per_byte, text_experience, text_stream, windows
from nestling.streams.text_sources import SOURCES, drop_repeats


@pytest.fixture(scope="module")
def stream() -> Stream:
    return text_stream(length=64, train_bytes=20_000, test_bytes=4_000)


def _text(part: Examples) -> list[bytes]:
    rows = torch.cat([part.inputs, part.targets[:, -1:]], dim=1).to(torch.uint8)
    return [bytes(row.tolist()) for row in rows]


def test_every_machine_has_five_domains(stream: Stream) -> None:
    assert [experience.name for experience in stream.experiences] == list(SOURCES)
    assert stream.problem.input_shape == (64,)
    assert stream.num_outputs == 256
    for experience in stream.experiences:
        assert len(experience.train) == 20_000 // 64
        assert len(experience.test) == 4_000 // 64
        assert torch.equal(experience.train.inputs[:, 1:], experience.train.targets[:, :-1])


def test_domains_are_what_they_say(stream: Stream) -> None:
    text = {experience.name: b"".join(_text(experience.train)) for experience in stream.experiences}
    assert b" the " in text["documentation"]
    assert b"def " in text["code"]
    assert b"#include" in text["headers"]
    assert b" LETTER " in text["names"]
    assert set(text["images"]) <= set(b"0123456789 \n")


def test_same_seed_same_bytes_other_seed_other_documents(stream: Stream) -> None:
    options = {"length": 64, "train_bytes": 20_000, "test_bytes": 4_000}
    again, other = text_stream(**options), text_stream(seed=1, **options)
    assert again.source_hash == stream.source_hash
    assert other.source_hash != stream.source_hash


def test_whole_documents_are_held_out() -> None:
    documents = [bytes([65 + i]) * 40 for i in range(20)]
    experience = text_experience("letters", documents, length=8, train_bytes=400, test_bytes=100, seed=3)
    seen, held_out = set(b"".join(_text(experience.train))), set(b"".join(_text(experience.test)))
    assert not seen & held_out
    assert len(experience.test) == 100 // 8
    assert len(experience.train) == 400 // 8


def test_test_part_is_at_most_a_fifth_of_little_text() -> None:
    documents = [bytes([65 + i]) * 33 for i in range(20)]
    experience = text_experience("letters", documents, length=8, train_bytes=10_000, test_bytes=10_000, seed=3)
    assert len(experience.train) + len(experience.test) == 20 * 4
    assert len(experience.test) <= 80 // 5 + 4


def test_paragraphs_of_an_earlier_document_are_dropped() -> None:
    quoted = b"a licence of more than forty characters, quoted by everyone"
    documents = [quoted + b"\n\nfirst", b"second\r\n\r\n  " + quoted.replace(b" ", b"\n") + b"\n\nshort", b"short"]
    assert drop_repeats(documents) == [documents[0], b"second\n\nshort", b"short"]


def test_windows_cover_a_document_once() -> None:
    pieces = windows(b"abcdefgh", length=3)
    assert [bytes(row.tolist()) for row in pieces] == [b"abcd", b"defg"]
    assert len(windows(b"abc", length=3)) == 0
    assert len(windows(b"", length=3)) == 0
    with pytest.raises(InputError, match="at least 1"):
        windows(b"abc", length=0)


def test_bits_per_byte_by_hand() -> None:
    part = Examples(inputs=torch.tensor([[0, 1], [1, 1], [2, 2]]), targets=torch.tensor([[1, 2], [1, 0], [2, 3]]))
    experience = Experience(name="hand", train=part, test=part)
    uniform = bits_per_byte(lambda x: torch.zeros(*x.shape, 256), experience, batch_size=2)
    assert uniform == pytest.approx(8.0, abs=1e-12)

    def repeats_input(x: torch.Tensor) -> torch.Tensor:
        """Half of all probability on the input itself, the other half shared by the 255 others."""
        half = torch.full((*x.shape, 256), math.log(0.5 / 255))
        return half.scatter(-1, x[..., None], math.log(0.5)) + 7.0  # any constant: logits, not log-probabilities

    expected = (2 * 1.0 + 4 * math.log2(2 * 255)) / 6
    assert bits_per_byte(repeats_input, experience) == pytest.approx(expected, abs=1e-6)


def test_books_become_domains_by_language(tmp_path: Path) -> None:
    paragraph = b"%d mucho texto en un parrafo largo y sin repetir %d\n\n"
    for name in ("es_uno.txt", "es_dos.txt", "fr_un.txt", "notes.txt"):
        body = b"".join(paragraph % (number, len(name)) for number in range(400))
        (tmp_path / name).write_bytes(name.encode() + body)
    stream = text_stream(books=tmp_path, domains=["images"], length=64, train_bytes=20_000, test_bytes=4_000)
    assert [experience.name for experience in stream.experiences] == ["images", "es", "fr"]


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'headers'"):
        text_stream(domains=["header"])
    with pytest.raises(DataError, match="LANGUAGE_title"):
        text_stream(books=tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        text_stream(books=tmp_path / "missing")
    with pytest.raises(DataError, match="at least two documents"):
        text_experience("tiny", [b"abc"], length=64, train_bytes=100, test_bytes=100, seed=0)
    with pytest.raises(DataError, match="at least two documents"):
        text_experience("none", [], length=64, train_bytes=100, test_bytes=100, seed=0)


def test_default_model_is_causal() -> None:
    torch.manual_seed(0)
    model = make_byte_model()
    inputs = torch.randint(256, (2, 12))
    changed = inputs.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 256
    before, after = model(inputs), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7:], after[:, 7:])
    assert 300_000 < sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
