"""Texts, tokens and rows: nothing lost, nothing twice, the same for every number of processes."""

import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from nestling.errors import DataError, InputError, ResourceError
from nestling.recipes.language.corpus import find_corpus, split_corpus
from nestling.recipes.language.evaluate import read_tokens
from nestling.recipes.language.token_data import Rows, TokenData, encode, prepare_tokens
from nestling.recipes.language.tokenizer import byte_tokenizer, load_tokenizer

HARD = "Füße, 日本語, 🙂\n\ttabs \x7f and  spaces "


def test_bytes_are_tokens_and_come_back_through_a_folder(tmp_path):
    tokenizer = byte_tokenizer()
    assert len(tokenizer) == 259
    assert tokenizer(HARD).input_ids == list(HARD.encode())
    assert tokenizer.decode(tokenizer(HARD).input_ids) == HARD
    every = "".join(map(chr, range(1, 0x500)))
    assert tokenizer(every).input_ids == list(every.encode())
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(HARD).input_ids == list(HARD.encode())
    assert (again.pad_token_id, again.eos_token_id, again.bos_token_id) == (258, 257, 256)
    padded = again(["a", "abc"], padding=True).input_ids
    assert padded == [[258, 258, 97], [97, 98, 99]]


def test_fast_and_ordinary_ways_give_the_same_tokens(tmp_path):
    tokenizer, documents = byte_tokenizer(), [HARD.encode(), b"second"]
    assert encode(documents, tokenizer, "byte").tolist() == encode(documents, tokenizer, "a folder").tolist()
    assert encode(documents, tokenizer, "byte").tolist() == [*HARD.encode(), 257, *b"second", 257]


def test_every_byte_of_a_text_belongs_to_one_token():
    text = read_tokens([HARD.encode()], byte_tokenizer())
    assert text.bytes.sum() == len(HARD.encode())
    assert text.ids.tolist() == list(HARD.encode())


def test_a_split_by_position_keeps_everything_in_order():
    documents = [b"".join(b"line %03d\n" % n for n in range(100)), b"x" * 1000]
    parts = split_corpus({"train": documents}, validation=0.1, test=0.2, seed=0)
    for number, document in enumerate(documents):
        assert b"".join(parts[part][number] for part in ("train", "validation", "test")) == document
    assert len(parts["test"][0]) == pytest.approx(180, abs=10)
    assert parts["train"][0].endswith(b"\n")
    emoji = "🙂".encode() * 100
    cut = split_corpus({"train": [emoji]}, validation=0.123, test=0.123, seed=0)
    assert all(piece.decode() for pieces in cut.values() for piece in pieces)


def test_a_split_by_document_holds_whole_ones_out():
    documents = [b"document %d" % n for n in range(40)]
    parts = split_corpus({"train": documents}, validation=0.1, test=0.05, seed=3)
    assert sorted(each for part in parts.values() for each in part) == sorted(documents)
    assert [len(parts[part]) for part in ("train", "validation", "test")] == [34, 4, 2]
    other = split_corpus({"train": documents}, validation=0.1, test=0.05, seed=4)
    assert other["validation"] != parts["validation"]
    given = split_corpus({"train": documents, "test": [b"given"]}, validation=0.1, test=0.05, seed=3)
    assert given["test"] == [b"given"]
    with pytest.raises(InputError, match="below 1"):
        split_corpus({"train": documents}, validation=0.5, test=0.5, seed=0)


def test_files_folders_and_patterns_are_found(tmp_path):
    (tmp_path / "b2.txt").write_text("two")
    (tmp_path / "b10.txt").write_text("ten")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"story": word}) for word in ("one", "more")))
    assert find_corpus(str(tmp_path / "b2.txt")) == {"train": [b"two"]}
    assert find_corpus(str(tmp_path), column="story") == {"train": [b"two", b"ten", b"one", b"more"]}
    assert find_corpus(str(tmp_path / "b*.txt")) == {"train": [b"two", b"ten"]}
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert find_corpus(str(tmp_path)) == {"train": [b"train"], "validation": [b"valid"], "test": [b"test"]}
    assert len(find_corpus("documentation")["train"]) > 20


def test_unusable_data_is_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="expected a file"):
        find_corpus("nowhere.txt")
    for name, content, words in (
        ("e.txt", b" \n", "empty"),
        ("l.txt", b"\xff\xfe", "UTF-8"),
        ("z.txt", b"a\0b", "zero"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=words):
            find_corpus(str(tmp_path / name))
    (tmp_path / "r.jsonl").write_text('{"text": "good"}\n{"text": 3}\n')
    with pytest.raises(DataError, match="line 2"):
        find_corpus(str(tmp_path / "r.jsonl"))
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ResourceError, match="nestling\\[train\\]"):
        find_corpus("owner/name")
    with pytest.raises(ResourceError, match="tokenizer"):
        load_tokenizer(str(tmp_path / "nothing"))


def test_a_data_set_of_the_hub_is_read_by_split_and_column(monkeypatch):
    """The package that reads it is stood in for: there is no network in tests."""

    class Split(dict):
        column_names = ("text",)

    asked = []

    def load_dataset(name, config):
        asked.append((name, config))
        return {"train": Split(text=["a", "", "b"]), "validation": Split(text=["c"])}

    module = type(__import__("sys"))("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(__import__("sys").modules, "datasets", module)
    assert find_corpus("owner/name:some") == {"train": [b"a", b"b"], "validation": [b"c"]}
    assert asked == [("owner/name", "some")]
    with pytest.raises(DataError, match="column 'story'"):
        find_corpus("owner/name", column="story")


def test_an_epoch_has_every_window_once_and_shares_only_its_ends():
    tokens = np.arange(103, dtype=np.uint16)
    rows = Rows(tokens, 10, seed=5)
    epoch = rows.take(0, rows.count)
    begins = sorted(row[0].item() for row in epoch)
    assert np.diff(begins).tolist() == [10] * (rows.count - 1)
    assert all((row == row[0] + np.arange(11)).all() for row in epoch.numpy())
    following = rows.take(rows.count, rows.count)
    assert sorted(row[0].item() for row in following) != begins or (following != epoch).any()
    joined = np.concatenate([rows.take(n, 1) for n in range(2 * rows.count)])
    assert (joined == rows.take(0, 2 * rows.count).numpy()).all()
    assert Rows(tokens[:11], 10, seed=0).take(3, 1).tolist() == [list(range(11))]
    with pytest.raises(DataError, match="11"):
        Rows(tokens[:10], 10, seed=0)


def test_tokens_on_disk_are_those_that_were_written(tmp_path):
    corpus = {"train": [b"abc", b"de"], "validation": [b"fg"], "test": []}
    data = prepare_tokens(tmp_path, corpus, byte_tokenizer(), "byte")
    again = TokenData(tmp_path)
    assert again.parts["train"].tolist() == [*b"abc", 257, *b"de", 257] == data.parts["train"].tolist()
    assert again.bytes_per_token("train") == 5 / 7
    assert len(again.parts["test"]) == 0
    (tmp_path / "about.json").write_text('{"train": {}}')
    with pytest.raises(DataError, match="another folder"):
        TokenData(tmp_path)
