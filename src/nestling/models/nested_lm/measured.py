"""What a model was measured on, kept in the user's cache: the second start does not measure it again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from nestling.errors import ResourceError
from nestling.files import make_folder, write_atomically
from nestling.memory.association import Thresholds
from nestling.models.nested_lm.calibration_texts import PROSE, asked
from nestling.models.nested_lm.frames import LIMITS, PARTS, Frames
from nestling.models.nested_lm.wording import Wording
from nestling.streams.sentence_features import cache_folder

__all__ = ["measured", "model_hash"]

METHOD = 1  # raise it when `calibrate` computes something else from the same texts
_HEADER = "nestling"


def measured(model: str, wording: Wording, measure: Callable[[], Frames]) -> Frames:
    """The frames of a model from the cache, or from `measure`, which are then kept there.

    A file that is damaged or cannot be written costs the time of measuring and nothing else.

    Args: model: its hash.   wording: its tokenizer, whose ids of the texts are part of the key.
    """
    path = cache_folder() / f"frames-{_key(model, wording)}.safetensors"
    if (kept := _load(path)) is not None:
        return kept
    frames = measure()
    tensors = {name: part.detach().cpu().contiguous() for name, part in frames.parts().items()}
    with contextlib.suppress(ResourceError):
        make_folder(path.parent)
        write_atomically(path, save(tensors, metadata={_HEADER: json.dumps(asdict(frames.thresholds))}))
    return frames


def model_hash(model: nn.Module) -> str:
    """Hash of the architecture and of a sample of every weight."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)].float().cpu()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()


def _load(path: Path) -> Frames | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            thresholds = Thresholds(**json.loads((file.metadata() or {})[_HEADER]))
            return Frames(*(file.get_tensor(name) for name in PARTS), thresholds=thresholds)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None


def _key(model: str, wording: Wording) -> str:
    texts = [wording.raw(text) for _, _, text in asked()]
    known = [
        METHOD,
        model,
        asdict(LIMITS),
        wording.start(),
        wording.ask([{"role": "user", "content": PROSE[0]}]),
        texts,
    ]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]
