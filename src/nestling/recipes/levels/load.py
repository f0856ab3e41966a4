"""Models and optimizers from what a user writes."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nestling.errors import DataError, InputError, NestlingError, ResourceError, UnknownNameError
from nestling.optim import OPTIMIZERS
from nestling.options import read_value
from nestling.streams import STREAMS, build_stream
from nestling.streams.byte_model import make_byte_model
from nestling.streams.robot import RobotPolicy

__all__ = ["TORCH_OPTIMIZERS", "load_module", "make_optimizer", "parse_optimizer"]

TORCH_OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}
# Modules of streams that are made without recording or reading the data of the stream.
_AT_ONCE: Mapping[str, Callable[[], nn.Module]] = {"robot": RobotPolicy, "text": make_byte_model}
_CONFIG = "config.json"
_HUB_SECONDS = 8


def parse_optimizer(text: str) -> tuple[type[Optimizer], dict[str, Any]]:
    """The class and the options of NAME or NAME:option=value,...

    Raises:
        UnknownNameError: for the name or an option, with the nearest known one.
        InputError: a value of the wrong kind.
    """
    name, _, rest = text.partition(":")
    if name not in OPTIMIZERS and name not in TORCH_OPTIMIZERS:
        raise UnknownNameError("optimizer", name, [*OPTIMIZERS, *TORCH_OPTIMIZERS])
    made = OPTIMIZERS[name].optimizer if name in OPTIMIZERS else TORCH_OPTIMIZERS[name]
    parameters = inspect.signature(made).parameters
    options: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        option, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"expected an optimizer as NAME:option=value,..., got {text!r}")
        if option not in parameters or option in ("params", "module"):
            raise UnknownNameError(f"option of optimizer {name!r}", option, set(parameters) - {"params", "module"})
        wanted = parameters[option].annotation
        wanted = wanted.__name__ if isinstance(wanted, type) else str(wanted)
        options[option] = read_value(f"option {option}", value, wanted)
    return made, options


def make_optimizer(text: str, module: nn.Module) -> Optimizer:
    """The optimizer called NAME or NAME:option=value,... on the trainable parameters of a module.

    Raises:
        UnknownNameError: for the name or an option, with the nearest known one.
        InputError: nothing to train, or a value of the wrong kind.
    """
    _, options = parse_optimizer(text)
    name = text.partition(":")[0]
    trainable = [(path, p) for path, p in module.named_parameters() if p.requires_grad]
    if not trainable:
        raise InputError(f"{type(module).__name__} has no trainable parameters for the optimizer {name!r}")
    if name in OPTIMIZERS:
        return OPTIMIZERS[name].build(trainable, module=module, **options)
    return TORCH_OPTIMIZERS[name](trainable, **options)


def load_module(model: str) -> nn.Module:
    """The module that a user names.

        digits                      a stream: the module that gradient strategies train on it
        FOLDER or .../config.json   a Hugging Face model, built from its configuration with no weights (meta device)
        owner/name                  the same from the Hugging Face hub or its cache on this machine
        package.module:function     what a function without arguments makes; a class will do

    Raises:
        UnknownNameError, DataError, InputError: naming what is wrong with it.
        ResourceError: the hub is out of reach, or transformers is not installed.
    """
    if model in STREAMS:
        return _AT_ONCE[model]() if model in _AT_ONCE else build_stream(model).make_model()
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / _CONFIG).is_file():
            raise DataError(f"{path}: expected a folder with {_CONFIG}, as save_pretrained of transformers writes it")
        return _from_config(path)
    if path.is_file():
        return _from_config(path)
    if ":" in model and os.sep not in model:
        return _from_function(model)
    if path.suffix == ".json" or model.startswith((".", "~", os.sep)):
        raise DataError(f"{path} does not exist: expected a folder with {_CONFIG}, or the file itself")
    if model.count("/") == 1:
        return _from_hub(model)
    raise UnknownNameError(
        "model (nor is it a folder, a config.json, a hub id owner/name or package.module:function)", model, STREAMS
    )


def _from_function(text: str) -> nn.Module:
    place, _, name = text.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as python -m does
    try:
        made: Any = importlib.import_module(place)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise InputError(f"cannot import {place!r}: {type(error).__name__}: {error}") from error
    for part in name.split("."):
        if not hasattr(made, part):
            near = ", ".join(each for each in dir(made) if not each.startswith("_"))
            raise InputError(f"{place!r} has no {name!r}: there are {near}")
        made = getattr(made, part)
    try:
        module = made if isinstance(made, nn.Module) else made()
    except NestlingError:
        raise
    except Exception as error:  # whatever the user's function raises
        raise InputError(f"{text} failed without arguments: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"{text}: expected a function that makes a torch.nn.Module, got {type(module).__name__}")
    return module


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ResourceError("transformers is not installed: pip install 'nestling[text]'") from error
    return transformers


def _from_config(place: Path | str) -> nn.Module:
    """A transformers model on the meta device: shapes without weights, and no code from the folder."""
    transformers = _transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(str(place))
    except Exception as error:  # transformers raises many kinds for a file it cannot read
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{place}: not a configuration that transformers knows: {reason}") from error
    named = [getattr(transformers, name, None) for name in config.architectures or []]
    made = next((each for each in named if each is not None), None)
    try:
        with torch.device("meta"):
            if made is not None:
                return made._from_config(config)
            if type(config) in transformers.AutoModelForCausalLM._model_mapping:
                return transformers.AutoModelForCausalLM.from_config(config)
            return transformers.AutoModel.from_config(config)
    except Exception as error:
        raise DataError(f"{place}: transformers cannot build this model: {error}") from error


def _from_hub(model: str) -> nn.Module:
    _transformers()
    from huggingface_hub import try_to_load_from_cache  # which transformers brings

    cached = try_to_load_from_cache(model, _CONFIG)
    if isinstance(cached, str):
        return _from_config(cached)
    _check_hub(model)
    return _from_config(model)


def _check_hub(model: str) -> None:
    """One quick question to the hub, since transformers asks for half a minute before it gives up."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", ""):
        raise ResourceError(f"{model} is not in the cache of this machine and HF_HUB_OFFLINE is set: {_INSTEAD}")
    try:
        urllib.request.urlopen(f"{endpoint}/{model}/resolve/main/{_CONFIG}", timeout=_HUB_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise InputError(f"the hub has no model {model!r} with a {_CONFIG} (HTTP 404)") from error
    except OSError as error:
        raise ResourceError(
            f"{model} is not a folder, not in the cache of this machine, and {endpoint} is out of reach: {_INSTEAD}"
        ) from error


_INSTEAD = "give a folder with its config.json, or run where the hub can be reached"
