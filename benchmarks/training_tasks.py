"""What `optimizer_training.py` trains: a byte-level Llama on text and a ViT on images, both from transformers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig, ViTForImageClassification

from nestling.errors import DataError
from nestling.streams.mnist import read_idx
from nestling.streams.text_sources import code, documentation

WINDOW, TEXT_BATCH, IMAGE_BATCH = 128, 4, 32
Batch = tuple[Tensor, Tensor]
# Left to Adam's step by optimizers of matrices: what is looked up or read out, as is usual with Muon.
NOT_HIDDEN = ("embed", "lm_head", "classifier")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A model to train and its data.

    data:        where it comes from, for people.
    make:        seed -> fresh model.
    draw:        generator -> a training batch (inputs, targets).
    validation:  batches on which learning rates are chosen.
    test:        batches that the final runs are measured on.
    """

    data: str
    make: Callable[[int], nn.Module]
    draw: Callable[[torch.Generator], Batch]
    validation: list[Batch]
    test: list[Batch]


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy in nats per target."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs).logits.flatten(0, -2), targets.flatten())


@torch.no_grad()
def held_out(model: nn.Module, batches: list[Batch]) -> tuple[float, float]:
    """Mean loss and accuracy over batches of one size."""
    model.eval()
    losses, hits = [], []
    for inputs, targets in batches:
        scores = model(inputs).logits.flatten(0, -2)
        losses.append(float(F.cross_entropy(scores, targets.flatten())))
        hits.append(float((scores.argmax(-1) == targets.flatten()).float().mean()))
    model.train()
    return float(np.mean(losses)), float(np.mean(hits))


def text_task(place: Path | None) -> Task:
    """A Llama of 2.0 million parameters on the bytes of English books, or of Python's documentation and source.

    Of every document, the last tenth is held out: its first half for validation, its second for the test.

    Args:
        place: a .txt file or a folder of them. None: `books` in $NESTLING_DATA, else what comes with Python.
    """
    data, documents = _documents(place)
    parts: dict[str, list[Tensor]] = {"train": [], "validation": [], "test": []}
    for document in documents:
        values = torch.frombuffer(bytearray(document), dtype=torch.uint8).long()
        cuts = (int(0.9 * len(values)), int(0.95 * len(values)))
        for name, part in zip(parts, values.tensor_split(cuts)):
            parts[name].append(part)
    train, validation, test = (torch.cat(part) for part in parts.values())

    def draw(generator: torch.Generator) -> Batch:
        starts = torch.randint(len(train) - WINDOW, (TEXT_BATCH,), generator=generator)
        return _windows(train, starts)

    return Task(
        data=data,
        make=_llama,
        draw=draw,
        validation=_evenly(validation, batches=2),
        test=_evenly(test, batches=3),
    )


def _documents(place: Path | None) -> tuple[str, list[bytes]]:
    if place is None and os.environ.get("NESTLING_DATA"):
        place = Path(os.environ["NESTLING_DATA"]) / "books"
    if place is None:
        return "Python's documentation topics and standard library", [b"".join(documentation()), b"".join(code())]
    files = [place] if place.is_file() else sorted(place.glob("en_*.txt")) or sorted(place.glob("*.txt"))
    if not files:
        raise DataError(f"expected a .txt file or a folder of .txt files, got {place}: name one with --text")
    return ", ".join(file.stem for file in files), [file.read_bytes() for file in files]


def _windows(values: Tensor, starts: Tensor) -> Batch:
    rows = values[starts[:, None] + torch.arange(WINDOW + 1)]
    return rows[:, :-1], rows[:, 1:]


def _evenly(values: Tensor, *, batches: int, size: int = 16) -> list[Batch]:
    """Windows spread evenly over the text, the same for everyone."""
    starts = torch.linspace(0, len(values) - WINDOW - 1, batches * size).long()
    return [_windows(values, part) for part in starts.split(size)]


def _llama(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=192,
        intermediate_size=576,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=False,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)


def image_task(place: Path | None) -> Task:
    """A ViT of 0.14 million parameters on MNIST's 10,000 test images (7,000 to train, 1,000, 2,000), or on the digits.

    Args:
        place: a folder with MNIST's t10k files. None: `mnist10k` in $NESTLING_DATA, else scikit-learn's 8x8 digits.
    """
    if place is None and os.environ.get("NESTLING_DATA"):
        place = Path(os.environ["NESTLING_DATA"]) / "mnist10k"
    if place is None:
        pixels, labels = load_digits(return_X_y=True)
        data, images, patch = "scikit-learn's 8x8 digits", torch.tensor(pixels).float().view(-1, 1, 8, 8) / 16, 2
        targets = torch.tensor(labels)
    else:
        raw = read_idx(place / "t10k-images-idx3-ubyte.gz")
        data, images, patch = "MNIST, the 10,000 test images", torch.tensor(raw).float().unsqueeze(1) / 255, 7
        targets = torch.tensor(read_idx(place / "t10k-labels-idx1-ubyte.gz")).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    cuts = (int(0.7 * len(order)), int(0.8 * len(order)))
    train, validation, test = order.tensor_split(cuts)

    def draw(generator: torch.Generator) -> Batch:
        chosen = train[torch.randint(len(train), (IMAGE_BATCH,), generator=generator)]
        return images[chosen], targets[chosen]

    def batches(index: Tensor) -> list[Batch]:
        whole = index[: len(index) // 100 * 100]  # batches of one size, so that their mean is the mean
        return [(images[part], targets[part]) for part in whole.split(100)]

    def make(seed: int) -> nn.Module:
        return _vit(seed, size=images.shape[-1], patch=patch)

    return Task(data=data, make=make, draw=draw, validation=batches(validation), test=batches(test))


def _vit(seed: int, *, size: int, patch: int) -> nn.Module:
    torch.manual_seed(seed)
    config = ViTConfig(
        image_size=size,
        patch_size=patch,
        num_channels=1,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_labels=10,
    )
    return ViTForImageClassification(config)
