"""Any folder as a stream: what is read, how it is split, and one line for whatever is wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nestling.errors import DataError, InputError, UnknownNameError
from nestling.streams import build_stream
from nestling.streams.folder import choose_features, folder_stream, natural_order
from nestling.streams.sentence_features import hashed_ngrams

ROWS = "\n".join(f"{i % 7},{i / 3:.3f},{label}" for i, label in enumerate(["cat", "dog"] * 10))


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def numbers(*labels: object, header: str = "a,b,label") -> str:
    return "\n".join([header, *(f"{i},{i + 1},{label}" for i, label in enumerate(labels))])


def archive(folder: Path, name: str, **arrays: object) -> None:
    np.savez(folder / name, **{key: np.asarray(value) for key, value in arrays.items()})


def test_numeric_csv_files_become_classes(tmp_path: Path) -> None:
    files = {"task10.csv": numbers(*["c"] * 10), "task2.csv": numbers(*["b"] * 10), "task1.csv": numbers(*["a"] * 10)}
    stream = build_stream(str(write(tmp_path, files)))
    assert [experience.name for experience in stream.experiences] == ["task1", "task2", "task10"]
    assert (stream.kind, stream.num_outputs, stream.metric) == ("classification", 3, "accuracy")
    assert stream.details["classes"] == ["a", "b", "c"]
    first = stream.experiences[0]
    assert (len(first.train), len(first.test)) == (8, 2)
    rows = sorted(torch.cat([first.train.inputs, first.test.inputs]).tolist())
    assert rows == [[float(i), float(i + 1)] for i in range(10)]
    assert stream.experiences[2].test.targets.tolist() == [2, 2]
    assert stream.make_model()(first.test.inputs).shape == (2, 3)


def test_what_is_held_out_is_stratified_and_seeded(tmp_path: Path) -> None:
    write(tmp_path, {"a.csv": numbers(*["x", "y", "y", "y"] * 10), "b.csv": numbers(*["x"] * 5)})
    first, again, other = (folder_stream(tmp_path, seed=seed).experiences[0] for seed in (0, 0, 1))
    assert first.test.targets.bincount().tolist() == [2, 6]
    assert torch.equal(first.test.inputs, again.test.inputs)
    assert not torch.equal(first.test.inputs, other.test.inputs)


def test_a_test_file_is_the_test_part(tmp_path: Path) -> None:
    write(tmp_path, {"a.csv": numbers(1, 2, 3), "a.test.csv": numbers(3, 1), "b.csv": numbers(*[2] * 10)})
    stream = folder_stream(tmp_path)
    assert len(stream.experiences) == 2
    assert stream.experiences[0].train.targets.tolist() == [0, 1, 2]
    assert stream.experiences[0].test.targets.tolist() == [2, 0]
    assert stream.details["held_out"].startswith("test files for 1 of 2, else 20%")


def test_fractions_are_numbers_to_predict(tmp_path: Path) -> None:
    write(tmp_path, {"a.csv": numbers(*[0.5, 1, 2] * 4), "b.csv": numbers(*[3] * 10)})
    stream = folder_stream(tmp_path)
    assert (stream.kind, stream.num_outputs, stream.metric) == ("regression", 1, "explained variance")
    targets = torch.cat([experience.train.targets for experience in stream.experiences]).double()
    mean, variance = targets.mean(), targets.var(unbiased=False)
    test = stream.experiences[0].test
    assert stream.evaluate(lambda inputs: test.targets, stream.experiences[0]) == 1
    score = stream.evaluate(lambda inputs: mean.expand(len(inputs), 1), stream.experiences[0])
    assert score == pytest.approx(1 - ((test.targets - mean) ** 2).mean().item() / variance.item(), rel=1e-6)


def test_texts_in_csv_and_jsonl_are_the_same(tmp_path: Path) -> None:
    rows = [("turn on the, light", "on"), ('say "stop"', "off")] * 5
    for folder in ("csv", "jsonl"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        quoted = "\r\n".join('"{}",{}'.format(text.replace('"', '""'), label) for text, label in rows)
        write(tmp_path / "csv", {f"{name}.csv": b"\xef\xbb\xbf" + f"text,label\r\n{quoted}\r\n".encode()})
        lines = "\n".join(json.dumps({"label": label, "text": text}) for text, label in rows)
        write(tmp_path / "jsonl", {f"{name}.jsonl": lines + "\n\n"})
    one, two = (folder_stream(tmp_path / folder, features="hashed") for folder in ("csv", "jsonl"))
    assert one.source_hash == two.source_hash
    assert one.details["features"] == "hashed"
    kept = torch.cat([one.experiences[0].train.inputs, one.experiences[0].test.inputs])
    expected = hashed_ngrams([text for text, _ in rows])
    assert torch.equal(kept.sort(dim=0).values, expected.sort(dim=0).values)


def test_text_features_are_chosen_by_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_features(None) == "hashed"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert choose_features(None) == "minilm"
    with pytest.raises(UnknownNameError, match="did you mean 'hashed'"):
        choose_features("hash")


def test_npz_files(tmp_path: Path) -> None:
    for task in range(2):
        archive(tmp_path, f"t{task}.npz", x=np.full((10, 2, 3), task, dtype=np.uint8), y=[task] * 10)
    stream = folder_stream(tmp_path)
    assert stream.problem.input_shape == (2, 3)
    assert stream.experiences[1].test.targets.tolist() == [1, 1]
    assert stream.make_model()(stream.experiences[0].test.inputs).shape == (2, 2)
    for task in range(2):
        archive(tmp_path, f"t{task}.npz", x=np.zeros((10, 3)), y=np.arange(20.0).reshape(10, 2))
    assert folder_stream(tmp_path).num_outputs == 2


def test_text_files_are_cut_into_windows_of_bytes(tmp_path: Path) -> None:
    content = bytes(range(1, 101))
    write(tmp_path, {"a.txt": content, "b.txt": "grüße\r\n".encode("latin-1") * 20})
    stream = folder_stream(tmp_path, length=9)
    assert (stream.kind, stream.metric, stream.higher_is_better) == ("language", "bits per byte", False)
    first = stream.experiences[0]
    assert (len(first.train), len(first.test)) == (9, 2)
    starts = sorted(torch.cat([first.train.inputs, first.test.inputs])[:, 0].tolist())
    assert starts == list(range(1, 100, 9))
    assert torch.equal(first.train.targets, first.train.inputs + 1)
    uniform = stream.evaluate(lambda inputs: torch.zeros(*inputs.shape, 256), first)
    assert uniform == pytest.approx(8)


def test_natural_order() -> None:
    names = ["b1", "a10", "a2", "2", "10", "a"]
    assert sorted(names, key=natural_order) == ["2", "10", "a", "a2", "a10", "b1"]


GOOD = {"a.csv": numbers("x", "y", *["x"] * 5), "b.csv": numbers(*["y"] * 10)}
WRONG: list[tuple[dict[str, str | bytes], str]] = [
    ({}, "has no .csv"),
    ({"a.csv": numbers("x", "y")}, "one experience only"),
    ({**GOOD, "c.npz": b"x"}, r"mixes kinds of files \(a.csv, c.npz\)"),
    ({**GOOD, "c.test.csv": numbers("x")}, "c.test.csv has no training part: expected c.csv"),
    ({**GOOD, "c.csv": b""}, "c.csv is empty"),
    ({**GOOD, "c.csv": b" \n\n"}, "c.csv is empty"),
    ({**GOOD, "c.csv": "a,b,label\n"}, "c.csv has a header but no examples"),
    ({**GOOD, "c.csv": "1,2,x\n3,4,y"}, "c.csv line 1: .*no column 'label' among '1', '2', 'x'"),
    ({**GOOD, "c.csv": "label\nx"}, "there is only 'label'"),
    ({**GOOD, "c.csv": "a,a,label\n1,2,x"}, "column 'a' is there twice"),
    ({**GOOD, "c.csv": "text,id,label\nhi,2,x"}, "take out 'id'"),
    ({**GOOD, "c.csv": "a,b,label\n1,2,x\n1,2"}, "c.csv line 3: expected 3 columns .*, got 2"),
    ({**GOOD, "c.csv": "a,b,label\n1,2,x\n\n1,two,x"}, "c.csv line 4, column 'b': expected a number, got 'two'"),
    ({**GOOD, "c.csv": "a,b,label\n1,nan,x"}, "c.csv line 2, column 'b': expected a finite number, got nan"),
    ({**GOOD, "c.csv": "a,b,label\n-inf,2,x"}, "line 2, column 'a': expected a finite"),
    ({**GOOD, "c.csv": "a,b,label\n1e39,2,x"}, "line 2, column 'a': expected a finite"),
    ({**GOOD, "c.csv": "a,b,label\n1,2,"}, "line 2, column 'label': expected a class"),
    ({**GOOD, "c.csv": "a,b,label\n1,2,nan"}, "line 2, column 'label': got nan"),
    ({**GOOD, "c.csv": numbers(*["3"] * 5)}, r"mixed types: 'x' \(a text, .*a.csv line 2\) and 3 \(a number, .*c.csv"),
    ({**GOOD, "c.csv": numbers("x", header="a,c,label")}, "c.csv has other columns than .*a.csv: a, c instead of a, b"),
    ({**GOOD, "a.test.csv": numbers("x", "z")}, "a.test.csv: class 'z' appears only in the test part"),
    ({**GOOD, "c.csv": numbers("x", "y")}, "too few to hold out 20%"),
    ({"a.csv": numbers(*["x"] * 9), "b.csv": numbers(*["x"] * 9)}, "every label is 'x'"),
    ({**GOOD, "c.csv": b"\x89PNG\r\n\x1a\n\xff\xfe"}, "c.csv line 1: not UTF-8"),
    ({**GOOD, "c.csv": "a,b,label\n1,2,caf\xe9".encode("latin-1")}, "c.csv line 2: not UTF-8"),
    ({**GOOD, "c.csv": b"a,b,label\n1,2,\x00x"}, "holds zero bytes"),
    ({**GOOD, "c.csv": 'text,label\n"never closed,x\n'}, "c.csv line 2: not readable as CSV"),
    ({"a.jsonl": "{", "b.jsonl": ""}, "a.jsonl line 1: not a JSON object"),
    ({"a.jsonl": "[" * 100_000, "b.jsonl": ""}, "a.jsonl line 1: not a JSON object"),
    ({"a.jsonl": "[1]", "b.jsonl": ""}, "a.jsonl line 1: expected an object"),
    (
        {"a.jsonl": '{"text": "a", "label": 1}\n{"text": "b"}', "b.jsonl": ""},
        "line 2: expected the keys 'text', 'label'",
    ),
    ({"a.jsonl": '{"text": 3, "label": 1}', "b.jsonl": ""}, "column 'text': expected a text, got 3"),
    ({"a.jsonl": '{"a": true, "label": 1}', "b.jsonl": ""}, "column 'a': expected a number, got True"),
    ({"a.jsonl": '{"a": NaN, "label": 1}', "b.jsonl": ""}, "column 'a': expected a finite number"),
    ({"a.jsonl": '{"a": 1, "label": null}', "b.jsonl": ""}, "column 'label': expected a class"),
    ({"a.jsonl": '{"a": 1, "label": [1]}', "b.jsonl": ""}, "column 'label': expected a class"),
    ({"a.txt": b"", "b.txt": b"text"}, "a.txt is empty"),
    ({"a.txt": b"a\x00b", "b.txt": b"text"}, "a.txt holds zero bytes"),
    ({"a.txt": b"short", "b.txt": b"text"}, "a.txt has 5 bytes, fewer than one window of 256"),
    ({"a.txt": b"a" * 300, "b.txt": b"a" * 9000}, r"a.txt: 1 example\(s\) are too few"),
    ({"a.npz": b"", "b.npz": b""}, "a.npz is empty"),
    ({"a.npz": b"not a zip", "b.npz": b""}, "a.npz cannot be read as .npz"),
]


@pytest.mark.parametrize(("files", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, files: dict[str, str | bytes], message: str) -> None:
    write(tmp_path, files)
    with pytest.raises(DataError, match=message) as caught:
        folder_stream(tmp_path)
    assert "\n" not in str(caught.value)


X = np.zeros((10, 2))
Y = np.arange(10) % 2
WRONG_ARRAYS = [
    ({"x": X}, "expected the arrays x and y, got x"),
    ({"x": X, "y": Y[:5]}, r"expected y of 10 numbers"),
    ({"x": X[:, 0], "y": Y}, r"expected x of numbers with shape \[N, ...\]"),
    ({"x": X[:0], "y": Y[:0]}, "expected x of numbers"),
    ({"x": X.astype(str), "y": Y}, "expected x of numbers"),
    ({"x": X.astype(object), "y": Y}, "cannot be read as .npz"),
    ({"x": X, "y": Y.astype(str)}, "expected y of 10 numbers"),
    (
        {"x": np.where(np.arange(20).reshape(10, 2) == 7, math.nan, 0), "y": Y},
        r"x has NaN.* 1 row\(s\), first in row 3",
    ),
    ({"x": X + 1e39, "y": Y}, "too large for float32 in 10"),
    ({"x": X, "y": np.full(10, math.inf)}, "y has NaN"),
    ({"x": X, "y": np.stack([Y, Y], 1)}, "expected integer y with shape"),
    ({"x": X, "y": Y.astype(float)}, "labels of mixed types: y is float32 in .* and int64 in"),
    ({"x": np.zeros((10, 3)), "y": Y}, r"b.npz: an example has shape \(2,\), in .*a.npz it has \(3,\)"),
]


@pytest.mark.parametrize(("arrays", "message"), WRONG_ARRAYS, ids=range(len(WRONG_ARRAYS)))
def test_wrong_arrays_are_named(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    archive(tmp_path, "a.npz", **arrays)
    archive(tmp_path, "b.npz", x=X, y=Y)
    with pytest.raises(DataError, match=message):
        folder_stream(tmp_path)


def test_a_truncated_archive_is_an_error(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        archive(tmp_path, name, x=X, y=Y)
    content = (tmp_path / "b.npz").read_bytes()
    for length in (10, len(content) // 2, len(content) - 5):
        (tmp_path / "b.npz").write_bytes(content[:length])
        with pytest.raises(DataError, match=r"b.npz cannot be read"):
            folder_stream(tmp_path)


def test_a_single_array_is_not_an_archive(tmp_path: Path) -> None:
    archive(tmp_path, "a.npz", x=X, y=Y)
    np.save(tmp_path / "b.npy", X)
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    with pytest.raises(DataError, match=r"b.npz is not an .npz archive"):
        folder_stream(tmp_path)


def test_missing_folders_and_options_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist: expected a folder"):
        build_stream(str(tmp_path / "nothing"))
    (tmp_path / "file.csv").write_text(numbers("x"))
    with pytest.raises(DataError, match="is a file: expected a folder"):
        build_stream(str(tmp_path / "file.csv"))
    write(tmp_path, GOOD)
    with pytest.raises(InputError, match="test_share between 0 and 1"):
        folder_stream(tmp_path, test_share=1.0)
    with pytest.raises(UnknownNameError, match="did you mean 'features'"):
        build_stream(str(tmp_path), feature="hashed")
