"""Checkpoints of a training: each a plain Hugging Face folder with what is needed to go on beside it."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from nestling.errors import CheckpointError, ResourceError
from nestling.recipes.checkpoint import pack, unpack
from nestling.recipes.files import UNFINISHED, make_folder, plain_errors, write_atomically
from nestling.recipes.language.parallel import World

__all__ = ["MODEL", "Training", "load_checkpoint", "newest_checkpoint", "save_checkpoint", "save_model"]

CHECKPOINTS, MODEL = "checkpoints", "model"
KEEP = 2
_STATE, _SHARDS = "training.ckpt", "shards"
_NAME = re.compile(r"step-(\d{8})")


@dataclass
class Training:
    """What changes in a training.

    model: transformers' module.   tokenizer: written beside it.   optimizer: of its parameters.
    step: optimizer steps taken.   seconds: of training so far.
    """

    model: Any
    tokenizer: Any
    optimizer: Optimizer
    step: int = 0
    seconds: float = 0.0


def newest_checkpoint(out: Path) -> Path | None:
    """The folder of the newest checkpoint of a run; None if there is none. Unfinished ones do not count."""
    folder = out / CHECKPOINTS
    if not folder.is_dir():
        return None
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return max(found, key=lambda path: path.name, default=None)


def save_checkpoint(out: Path, training: Training, world: World) -> Path:
    """Write `checkpoints/step-N`, whole or not at all, and drop all but the newest two.

    The folder is made beside its place, brought to the disk, and renamed: a kill at any moment leaves the last one.
    Every process calls it. Optimizer, random state and step lie in one file with a checksum; those of a sharded model
    as torch.distributed.checkpoint writes them.

    Raises:
        ResourceError: it cannot be written.
    """
    place = out / CHECKPOINTS / f"step-{training.step:08d}"
    making = place.with_name(f".{place.name}{UNFINISHED}")
    if world.writes:
        make_folder(place.parent)
        _remove(making)
        make_folder(making)
    world.wait()
    weights = _whole_weights(training, world)
    if world.is_sharded:
        _save_shards(making / _SHARDS, training)
    if world.writes:
        _write_model(making, training, weights)
        state = {"step": training.step, "seconds": training.seconds, "random": _random_state()}
        optimizer = None if world.is_sharded else training.optimizer.state_dict()
        write_atomically(making / _STATE, pack({**state, "optimizer": optimizer}))
        _publish(making, place)
        for old in sorted(path for path in place.parent.iterdir() if _NAME.fullmatch(path.name))[:-KEEP]:
            _remove(old)
    world.wait()
    return place


def save_model(out: Path, training: Training, world: World) -> Path:
    """Write the folder `model`: what `from_pretrained` needs and nothing else."""
    place = out / MODEL
    making = place.with_name(f".{MODEL}{UNFINISHED}")
    weights = _whole_weights(training, world)
    if world.writes:
        _remove(making)
        make_folder(making)
        _write_model(making, training, weights)
        _remove(place)
        _publish(making, place)
    world.wait()
    return place


def load_checkpoint(folder: Path, training: Training, world: World) -> None:
    """Bring a training to where it was, bit for bit. The model has been built, and is sharded if it is to be.

    Raises:
        CheckpointError: damaged, or of another model or optimizer.
    """
    try:
        with plain_errors("read", folder):
            state = unpack((folder / _STATE).read_bytes())
        sharded = state["optimizer"] is None
        if sharded != world.is_sharded:
            kind = "fsdp" if sharded else "ddp"
            raise CheckpointError(f"it was written with --parallel {kind}: go on with the same")
        if sharded:
            _load_shards(folder / _SHARDS, training)
        else:
            _load_weights(folder, training.model)
            training.optimizer.load_state_dict(state["optimizer"])
        training.step, training.seconds = state["step"], state["seconds"]
        _set_random_state(state["random"])
    except (LookupError, RuntimeError, TypeError, ValueError, CheckpointError) as error:
        raise CheckpointError(
            f"the checkpoint {folder} cannot be used ({error}); delete it to go on from the one before, or give "
            "another folder"
        ) from error


def _write_model(folder: Path, training: Training, weights: dict[str, Any] | None) -> None:
    with plain_errors("write", folder):
        training.model.save_pretrained(folder, state_dict=weights)
        training.tokenizer.save_pretrained(folder)


def _load_weights(folder: Path, model: Any) -> None:
    from safetensors.torch import load_file

    weights: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights.update(load_file(path))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = _tied(model)
    if unexpected or set(missing) - tied:
        raise CheckpointError(f"its weights are of another model: {[*unexpected, *sorted(set(missing) - tied)][:3]}")


def _whole_weights(training: Training, world: World) -> dict[str, Any] | None:
    """All weights on the processor of the process that writes; None: the model has them itself."""
    if not world.is_sharded:
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    tied = _tied(training.model)
    return {
        name: value for name, value in get_model_state_dict(training.model, options=whole).items() if name not in tied
    }


def _tied(model: Any) -> set[str]:
    """Names of weights that are others under a second name; transformers writes and reads them once."""
    return set(model.all_tied_weights_keys)


def _save_shards(folder: Path, training: Training) -> None:
    from torch.distributed.checkpoint.state_dict import get_state_dict
    from torch.distributed.checkpoint.state_dict_saver import save

    model, optimizer = get_state_dict(training.model, training.optimizer)
    save({"model": model, "optimizer": optimizer}, checkpoint_id=str(folder))


def _load_shards(folder: Path, training: Training) -> None:
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    model, optimizer = get_state_dict(training.model, training.optimizer)
    state = {"model": model, "optimizer": optimizer}
    load(state, checkpoint_id=str(folder))
    set_state_dict(
        training.model, training.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )


def _random_state() -> dict[str, Any]:
    on_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": on_cuda}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])


def _publish(making: Path, place: Path) -> None:
    """Bring a folder to the disk, then give it its name."""
    with plain_errors("write", place):
        for path in [*making.rglob("*"), making]:
            _sync(path)
        os.replace(making, place)
        _sync(place.parent)


def _sync(path: Path) -> None:
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ResourceError(f"cannot delete {folder}: {error.strerror}; delete it by hand") from error
