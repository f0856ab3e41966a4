"""What was read as one file beside the memory file: safetensors with a JSON header, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nestling.errors import CheckpointError
from nestling.files import make_folder, write_atomically
from nestling.memory.key_gate import KeySums
from nestling.memory.token_memory import TokenMemory
from nestling.models.nested_lm.contexts import Context, Delta, ReadState

__all__ = ["levels_path", "read_levels", "write_levels"]

FORMAT = "nestling levels 1"
_HEADER = "nestling"


def levels_path(memory: Path) -> Path:
    """Of the levels that belong to a memory file."""
    return memory.with_name(f"{memory.name}.levels")


def write_levels(path: Path, state: ReadState, *, model: str) -> None:
    """Write all contexts. Raises: ResourceError when the file cannot be written; the old one is untouched then."""
    tensors: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []
    for number, sums in enumerate(state.background):
        tensors[f"background.{number}.total"], tensors[f"background.{number}.second"] = sums.total, sums.second
    for number, each in enumerate(state.contexts):
        tensors[f"{number}.total"], tensors[f"{number}.second"] = each.keys.total, each.keys.second
        tensors[f"{number}.keys"], tensors[f"{number}.tokens"] = each.memory.keys, each.memory.tokens.int()
        tensors[f"{number}.counts"] = each.memory.counts
        for name, delta in each.deltas.items():
            tensors[f"{number}.a.{name}"], tensors[f"{number}.b.{name}"] = delta.a.half(), delta.b.half()
        rows.append(
            {
                "id": each.id,
                "count": each.keys.count,
                "maps": list(each.deltas),
                "share": each.share,
                "num_tokens": each.num_tokens,
                "readings": each.readings,
                "hash": each.hash(),
            }
        )
    header = {
        "format": FORMAT,
        "model": model,
        "contexts": rows,
        "background": [each.count for each in state.background],
    }
    make_folder(path.parent)
    kept = {name: each.contiguous().clone() for name, each in tensors.items()}
    write_atomically(path, save(kept, metadata={_HEADER: json.dumps(header)}))


def read_levels(path: Path, *, model: str) -> ReadState:
    """What `write_levels` wrote.

    Raises: CheckpointError for a file that is truncated, altered, or of another model.
    """
    try:
        with safe_open(path, "pt") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {})[_HEADER])
            if header["format"] != FORMAT:
                raise CheckpointError(f"{path}: expected {FORMAT!r}, got {header['format']!r}")
            if header["model"] != model:
                raise CheckpointError(f"{path} belongs to another model: load it with the model that read")
            ordinary = tuple(
                KeySums(count, *(file.get_tensor(f"background.{n}.{part}") for part in ("total", "second")))
                for n, count in enumerate(header["background"])
            )
            contexts = tuple(_context(file, n, row) for n, row in enumerate(header["contexts"]))
            state = ReadState(contexts, ordinary)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or holds no levels of nestling: {error}") from error
    for each, row in zip(state.contexts, header["contexts"], strict=True):
        if each.hash() != row["hash"]:
            raise CheckpointError(f"{path}: context {each.id} was altered: use a copy of the file")
    return state


def _context(file: Any, number: int, row: dict[str, Any]) -> Context:
    def get(name: str) -> Tensor:
        return file.get_tensor(f"{number}.{name}")

    return Context(
        id=row["id"],
        keys=KeySums(row["count"], get("total"), get("second")),
        deltas={name: Delta(get(f"a.{name}").float(), get(f"b.{name}").float()) for name in row["maps"]},
        memory=TokenMemory(get("keys"), get("tokens").long(), get("counts")),
        share=row["share"],
        num_tokens=row["num_tokens"],
        readings=tuple(row["readings"]),
    )
