"""Intent streams: files, features, folds and orders. Real sentences are used when data and model are present."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import types
from pathlib import Path

import pytest
import torch

from nestling.errors import DataError, ResourceError
from nestling.streams import intents, intents_files, sentence_features
from nestling.streams.intents import banking77_stream, clinc150_stream, stratified_folds
from nestling.streams.sentence_features import MINILM_PACKAGE, hashed_ngrams, mean_unit

DATA = Path(os.environ.get("NESTLING_DATA") or Path(__file__).parents[2] / "../shared/data")
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec(MINILM_PACKAGE) is None or importlib.util.find_spec("transformers") is None,
    reason="the MiniLM package (extra minilm) or transformers is not installed",
)
needs_data = pytest.mark.skipif(not (DATA / "banking77" / "train.csv").exists(), reason="the data sets are not here")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NESTLING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intents, "sentence_features", lambda texts, progress=None: hashed_ngrams(texts, width=64))


@pytest.fixture
def clinc_folder(tmp_path: Path) -> Path:
    """Thirty classes in two domains, three train, one validation and two test sentences each."""
    classes = [f"class{number:02d}" for number in range(30)]
    rows = {
        part: [[f"{part} sentence {n} about {name}", name] for name in reversed(classes) for n in range(count)]
        for part, count in (("train", 3), ("val", 1), ("test", 2))
    }
    (tmp_path / "clinc150").mkdir()
    (tmp_path / "clinc150" / "data_full.json").write_text(json.dumps({**rows, "oos_train": [["what", "oos"]]}))
    domains = {"odd": classes[1::2], "even": classes[0::2]}
    (tmp_path / "clinc150" / "domains.json").write_text(json.dumps(domains))
    return tmp_path


@pytest.fixture
def banking_folder(tmp_path: Path) -> Path:
    """22 classes with 10 sentences each, one of them with a comma."""
    lines = [f'"how, {n} is class {c}?",name{c}' for n in range(10) for c in range(22)]
    (tmp_path / "train.csv").write_text("text,category\n" + "\n".join(lines) + "\n")
    (tmp_path / "categories.json").write_text(json.dumps([f"name{c}" for c in reversed(range(22))]))
    return tmp_path


@pytest.mark.usefixtures("no_model")
def test_clinc_groups_are_its_domains_and_parts_are_the_official_ones(clinc_folder: Path) -> None:
    stream = clinc150_stream(folder=clinc_folder)
    assert [each.name for each in stream.experiences] == ["odd", "even"]
    assert [(len(each.train), len(each.test)) for each in stream.experiences] == [(45, 30), (45, 30)]
    assert stream.num_outputs == 30
    assert sorted(set(stream.experiences[1].test.targets.tolist())) == list(range(15, 30))
    # class number 15 is the first of the second domain, class00; its three training sentences come in file order
    expected = hashed_ngrams([f"train sentence {n} about class00" for n in range(3)], width=64)
    first = stream.experiences[1].train
    torch.testing.assert_close(first.inputs[first.targets == 15], expected)
    validation = clinc150_stream(folder=clinc_folder, part="validation")
    assert [len(each.test) for each in validation.experiences] == [15, 15]


@pytest.mark.usefixtures("no_model")
def test_orders_are_random_groupings_of_all_classes(clinc_folder: Path) -> None:
    stream = clinc150_stream(folder=clinc_folder)
    groups = [
        tuple(frozenset(each.train.targets.tolist()) for each in stream.arranged(seed, "shuffled").experiences)
        for seed in (0, 1, 1)
    ]
    assert groups[1] == groups[2] != groups[0]
    for drawn in groups:
        assert [len(group) for group in drawn] == [15, 15]
        assert frozenset.union(*drawn) == frozenset(range(30))


@pytest.mark.usefixtures("no_model")
def test_banking_folds_score_every_sentence_once(banking_folder: Path) -> None:
    stream = banking77_stream(folder=banking_folder)
    assert [(len(each.train), len(each.test)) for each in stream.experiences] == [(99, 11), (99, 11)]
    seen = []
    for seed in range(10):
        arranged = stream.arranged(seed, "shuffled")
        seen += [row for each in arranged.experiences for row in each.test.inputs.tolist()]
        train = {tuple(row) for each in arranged.experiences for row in each.train.inputs.tolist()}
        assert not train & {tuple(row) for each in arranged.experiences for row in each.test.inputs.tolist()}
    assert len(seen) == len({tuple(row) for row in seen}) == 220
    other = banking77_stream(folder=banking_folder, fold=3)
    assert not torch.equal(other.experiences[0].test.inputs, stream.experiences[0].test.inputs)


def test_stratified_folds_spread_every_class() -> None:
    targets = torch.tensor([0] * 10 + [1] * 7)
    folds = stratified_folds(targets, 5, seed=0)
    assert torch.bincount(folds[:10]).tolist() == [2] * 5
    assert torch.bincount(folds[10:]).tolist() == [2, 2, 1, 1, 1]
    assert not torch.equal(folds, stratified_folds(targets, 5, seed=1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a readable JSON file"),
        ('{"train": []}', "expected a list 'val'"),
        ('{"train": [["a"]], "val": [], "test": []}', "expected a list 'train'"),
        ('{"train": [], "val": [], "test": []}', "expected sentences, got none"),
        ('{"train": [["a", "x"]], "val": [["b", "y"]], "test": []}', "class 'y' is not among"),
        ('{"train": [["  ", "x"]], "val": [["b", "x"]], "test": [["c", "x"]]}', "text number 1"),
    ],
)
def test_bad_clinc_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "data_full.json").write_text(content)
    with pytest.raises(DataError, match=message):
        clinc150_stream(folder=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected columns text,category, got none"),
        (b"a,b\n1,2\n", "expected columns text,category, got a,b"),
        (b"text,category\n", "expected sentences, got none"),
        (b"text,category\n\xff\xfe,x\n", "not a readable CSV file"),
    ],
)
def test_bad_banking_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        banking77_stream(folder=tmp_path)


def test_a_folder_without_the_data_and_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="holds neither data_full"):
        clinc150_stream(folder=tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NESTLING_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    with pytest.raises(ResourceError, match="NESTLING_DATA"):
        banking77_stream()


@pytest.mark.usefixtures("no_model")
def test_the_hub_is_asked_last_and_out_of_scope_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rows(list[dict[str, object]]):
        features = types.MappingProxyType(
            {"intent": types.SimpleNamespace(names=[f"c{n:02d}" for n in range(30)] + ["oos"])}
        )

    def load_dataset(name: str, part: str, *, split: str) -> Rows:
        assert (name, part) == intents_files.CLINC_HUB
        return Rows({"text": f"{split} of {number}", "intent": number} for number in range(31))

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NESTLING_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    stream = clinc150_stream()
    assert stream.num_outputs == 30
    assert [len(each.test) for each in stream.experiences] == [15, 15]


def test_hashed_ngrams_are_unit_length_case_blind_and_alike_for_like_sentences() -> None:
    features = hashed_ngrams(["Where is my card?", "where is MY card?", "where is my card now?", "play some jazz"])
    similarity = features @ features.T
    torch.testing.assert_close(similarity.diagonal(), torch.ones(4))
    assert similarity[0, 1] == pytest.approx(1.0)
    assert similarity[0, 2] > 0.6
    assert abs(similarity[0, 3]) < 0.2


def test_mean_unit_reads_only_real_tokens() -> None:
    states = torch.tensor([[[1.0, 0.0], [5.0, 8.0], [99.0, 99.0]]])
    torch.testing.assert_close(mean_unit(states, torch.tensor([[1, 1, 0]])), torch.tensor([[0.6, 0.8]]))


@needs_minilm
def test_minilm_features_offline_alone_or_together_and_from_the_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    texts = ["Where is my card?", "My card has not come yet, what is going on with it?", "play some jazz"]
    calls: list[tuple[int, int]] = []
    features = sentence_features.sentence_features(texts, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(3, 3)]
    assert features.shape == (3, 7 * 384)
    torch.testing.assert_close(features.reshape(3, 7, 384).norm(dim=2), torch.ones(3, 7), rtol=0, atol=1e-3)
    last = features[:, -384:]
    assert last[0] @ last[1] > last[0] @ last[2] + 0.3
    alone = sentence_features.sentence_features(texts[:1], cache=False)
    torch.testing.assert_close(alone, features[:1], rtol=0, atol=1e-3)
    again = sentence_features.sentence_features(texts, progress=lambda done, total: calls.append((done, total)))
    assert torch.equal(again, features)
    assert len(calls) == 1
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])  # a damaged cache is made again
    assert torch.equal(sentence_features.sentence_features(texts), features)
    assert torch.equal(sentence_features.sentence_features(texts, layers=(6,)), last)


@needs_minilm
def test_a_cache_that_cannot_be_written_and_wrong_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NESTLING_CACHE", str(tmp_path / "file"))
    with pytest.raises(ResourceError, match="NESTLING_CACHE"):
        sentence_features.sentence_features(["hello"])
    with pytest.raises(DataError, match="from 0"):
        sentence_features.sentence_features(["hello"], layers=(7,), cache=False)


def test_a_missing_model_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sentence_features, "MINILM_PACKAGE", "no_such_package_at_all")
    with pytest.raises(ResourceError, match="pip install"):
        sentence_features.sentence_features(["hello"])


@needs_data
def test_real_files_have_the_published_sizes() -> None:
    clinc = intents_files.read_clinc150(DATA)
    assert [len(part.texts) for part in (clinc.train, clinc.validation, clinc.test)] == [15000, 3000, 4500]
    assert len(clinc.classes) == 150
    assert clinc.group_names is not None
    assert clinc.group_names[0] == "banking"
    banking = intents_files.read_banking77(DATA)
    assert (len(banking.texts), len(banking.classes)) == (10003, 77)
    assert banking.classes[banking.labels[0]] == "card_arrival"
