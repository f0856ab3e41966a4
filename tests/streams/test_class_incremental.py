"""Splits by class, the digits stream, and IDX files, whole and broken."""

from __future__ import annotations

import gzip
import struct

import pytest
import torch

from nestling.errors import DataError
from nestling.streams.base import Examples
from nestling.streams.class_incremental import accuracy, draw_groups, split_by_class, stratified_split
from nestling.streams.digits import digits_stream
from nestling.streams.mnist import mnist_stream, read_idx


def test_stratified_split_takes_the_share_of_every_class_and_loses_nothing():
    targets = torch.tensor([0] * 50 + [1] * 20 + [2] * 30)
    train, test = stratified_split(targets, 0.2, seed=3)
    assert targets[test].bincount().tolist() == [10, 4, 6]
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(100))
    assert torch.equal(test, stratified_split(targets, 0.2, seed=3)[1])
    assert not torch.equal(test, stratified_split(targets, 0.2, seed=4)[1])


def test_groups_are_every_class_once_in_an_order_drawn_by_the_seed():
    assert sorted(label for group in draw_groups(7, 2, 0) for label in group) == list(range(7))
    assert draw_groups(10, 2, 1) == draw_groups(10, 2, 1) != draw_groups(10, 2, 2)


def test_accuracy_counts_argmax_over_all_classes():
    examples = Examples(inputs=torch.zeros(4, 1), targets=torch.tensor([0, 1, 0, 1]))
    (experience,) = split_by_class(examples, examples, [[0, 1]])
    outputs = torch.tensor([[2.0, 1, 0], [0, 1, 5], [9, 0, 0], [0, 3, 1]])  # the second falls for a class never seen
    assert accuracy(lambda inputs: outputs, experience) == 0.75


def test_digits_arrive_two_classes_at_a_time_from_one_fixed_split():
    stream = digits_stream()
    assert [each.name for each in stream.experiences] == ["0-1", "2-3", "4-5", "6-7", "8-9"]
    for number, experience in enumerate(stream.experiences):
        for part in (experience.train, experience.test):
            assert part.targets.unique().tolist() == [2 * number, 2 * number + 1]
            assert part.inputs.dtype == torch.float32
            assert part.inputs.min() == 0
            assert part.inputs.max() == 1
    assert sum(len(each.train) + len(each.test) for each in stream.experiences) == 1797
    assert sum(len(each.test) for each in stream.experiences) == 359
    assert stream.source_hash == digits_stream().source_hash
    assert stream.problem.input_shape == (64,)
    assert stream.make_model()(torch.zeros(3, 64)).shape == (3, 10)


def test_other_orders_pair_other_digits_but_split_the_same():
    stream = digits_stream()
    shuffled = stream.arranged(4, "shuffled")
    assert [each.name for each in shuffled.experiences] != [each.name for each in stream.experiences]
    totals = [
        torch.cat([each.test.inputs for each in each_stream.experiences]).sum() for each_stream in (stream, shuffled)
    ]
    torch.testing.assert_close(totals[0], totals[1])
    assert shuffled.source_hash == stream.source_hash


def write_idx(path, array):
    header = struct.pack(">BBBB", 0, 0, 8, array.dim()) + struct.pack(f">{array.dim()}I", *array.shape)
    data = header + array.to(torch.uint8).numpy().tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def idx_folder(tmp_path):
    images = torch.randint(256, (200, 4, 4), generator=torch.Generator().manual_seed(0))
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", torch.arange(200) % 10)
    return tmp_path


def test_one_images_file_is_split_four_to_one(idx_folder):
    stream = mnist_stream(folder=idx_folder)
    assert [(len(each.train), len(each.test)) for each in stream.experiences] == [(32, 8)] * 5
    images = read_idx(idx_folder / "t10k-images-idx3-ubyte.gz")
    first = stream.experiences[0].train.inputs[0]
    assert any(torch.equal(first, torch.from_numpy(image).flatten() / 255) for image in images[:20])
    by_file = mnist_stream(folder=idx_folder / "t10k-images-idx3-ubyte.gz")
    assert by_file.source_hash == stream.source_hash


def test_where_training_images_exist_the_published_parts_are_used(idx_folder):
    write_idx(idx_folder / "train-images-idx3-ubyte", torch.ones(60, 4, 4))
    write_idx(idx_folder / "train-labels-idx1-ubyte", torch.arange(60) % 10)
    stream = mnist_stream(folder=idx_folder)
    assert [(len(each.train), len(each.test)) for each in stream.experiences] == [(12, 40)] * 5


def test_the_data_folder_of_the_environment_is_found(idx_folder, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.delenv("NESTLING_DATA", raising=False)
    with pytest.raises(DataError, match="MNIST is not on this machine"):
        mnist_stream()
    root = tmp_path_factory.mktemp("data")
    (root / "mnist10k").symlink_to(idx_folder)
    monkeypatch.setenv("NESTLING_DATA", str(root))
    assert len(mnist_stream().experiences) == 5


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def shorten(path):
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[:-1]))


def header_only(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:7]))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "cannot read"),
        (shorten, "truncated"),
        (header_only, "truncated"),
        (lambda path: path.write_bytes(b"not gzip"), "cannot read"),
        (lambda path: path.write_bytes(gzip.compress(b"no idx at all")), "not an IDX file"),
        (lambda path: path.write_bytes(gzip.compress(b"")), "not an IDX file"),
        (lambda path: path.unlink(), "no MNIST files"),
    ],
)
def test_a_damaged_images_file_is_named(idx_folder, damage, reason):
    damage(idx_folder / "t10k-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match=reason):
        mnist_stream(folder=idx_folder)


def test_missing_or_wrong_labels_are_named(idx_folder):
    labels = idx_folder / "t10k-labels-idx1-ubyte.gz"
    write_idx(labels, torch.zeros(200))
    with pytest.raises(DataError, match="labels 0 to 9"):
        mnist_stream(folder=idx_folder)
    write_idx(labels, torch.arange(100) % 10)
    with pytest.raises(DataError, match=r"expected images \[N, H, W\]"):
        mnist_stream(folder=idx_folder)
    labels.unlink()
    with pytest.raises(DataError, match="no labels for"):
        mnist_stream(folder=idx_folder)
