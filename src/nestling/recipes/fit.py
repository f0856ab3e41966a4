"""Does a module fit a stream: inputs accepted, outputs of the right width. Asked before anything is learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nestling.errors import InputError, ShapeError, UnknownNameError
from nestling.learners import StrategySpec, options_of
from nestling.streams import Stream

_BATCH = 256


def check_strategy(spec: StrategySpec, stream: Stream) -> None:
    """Raises InputError for a strategy that cannot learn this kind of stream, or has no such option for it."""
    kinds = spec.strategy.kinds
    if stream.kind not in kinds:
        raise InputError(
            f"strategy {spec.name!r} learns {' and '.join(sorted(kinds))}, but stream {stream.name!r} is "
            f"{stream.kind}; leave it out or choose another stream"
        )
    known = options_of(spec.strategy, stream.kind)
    for name in spec.options:
        if name not in known:
            raise UnknownNameError(f"option of strategy {spec.name!r} on a stream of {stream.kind}", name, known)


def check_module(module: nn.Module, stream: Stream) -> None:
    """Run `module` on two training inputs of every experience.

    Raises: ShapeError when it does not accept them or its outputs are not [N, num_outputs] (language:
        [N, L, num_outputs]).
    """
    for experience in stream.experiences:
        inputs = experience.train.inputs[:2]
        expected = (
            (*inputs.shape, stream.num_outputs) if stream.kind == "language" else (len(inputs), stream.num_outputs)
        )
        try:
            outputs = predict_untrained(module, inputs)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ShapeError(
                f"the model does not accept inputs of shape {tuple(inputs.shape)} from stream {stream.name!r}: "
                f"{reason}; give a model that maps them to {expected}"
            ) from error
        if tuple(outputs.shape) != expected:
            raise ShapeError(
                f"expected outputs of shape {expected} for stream {stream.name!r}, the model gives "
                f"{tuple(outputs.shape)}; set its last layer to {stream.num_outputs} outputs"
            )


def predict_untrained(module: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs in evaluation mode, without gradient and without leaving a trace in module or random state."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return torch.cat([module(batch) for batch in inputs.split(_BATCH)])
    finally:
        module.train(was_training)
