"""What a run is made of, resolved and saved as `config.json`, so that it can be resumed or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from nestling.errors import InputError
from nestling.learners import parse_strategy
from nestling.recipes.fit import check_strategy
from nestling.streams import Stream, build_stream, find_stream
from nestling.streams.base import Order
from nestling.streams.table import Report

ModelFactory = Callable[[], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides the figures, resolved: no default is left open.

    source: the stream as the user gave it (name, folder or Stream).   stream: the same, built.
    options: options of the stream's builder as given.   defaults: those of the builder.
    strategies: specs (`learners.spec`), each as its label.
    order: of the experiences, per seed.
    model: factory of the module; None takes the stream's own.
    threads: of one run; figures may depend on it in the last bits.
    """

    source: str | Stream
    stream: Stream
    options: Mapping[str, Any]
    defaults: Mapping[str, Any]
    strategies: tuple[str, ...]
    seeds: tuple[int, ...]
    order: Order
    model: ModelFactory | None
    threads: int

    def config(self) -> dict[str, Any]:
        """The plan in plain JSON values."""
        stream, training = self.stream, self.stream.training
        return {
            "stream": stream.name,
            "stream_options": _plain({**self.defaults, **self.options}),
            "stream_details": _plain(stream.details),
            "stream_hash": stream.source_hash,
            "strategies": list(self.strategies),
            "strategy_options": {
                label: _plain(parse_strategy(label).resolved(stream.kind)) for label in self.strategies
            },
            "seeds": list(self.seeds),
            "order": self.order,
            "model": _describe_factory(self.model),
            "training": {key: getattr(training, key) for key in sorted(training.__dataclass_fields__)},
            "threads": self.threads,
        }

    def pairs(self) -> list[tuple[str, int]]:
        """Every (strategy, seed) in the order in which they are run."""
        return [(strategy, seed) for strategy in self.strategies for seed in self.seeds]

    def in_order_of(self, strategies: Sequence[str], seeds: Sequence[int]) -> Plan:
        """The same plan with those strategies and seeds first, in their order; all of them are in it."""
        return replace(
            self,
            strategies=tuple(dict.fromkeys([*strategies, *self.strategies])),
            seeds=tuple(dict.fromkeys([*seeds, *self.seeds])),
        )


def make_plan(
    *,
    stream: str | Path | Stream,
    options: Mapping[str, Any],
    strategies: Sequence[str],
    seeds: int | Sequence[int],
    order: str | None,
    model: ModelFactory | None,
    threads: int,
    report: Report | None = None,
) -> Plan:
    """Resolve and check what the user asked for.

    Args:
        stream: name, folder or Stream.
        options: of the stream's builder.
        strategies: names, or specs with options (`learners.spec`).
        seeds: how many, or which.
        order: "given", "shuffled", or None for the stream's custom.
        model: factory of a module, or None.
        threads: of one run.
        report: receives (what, done, total) while the stream is prepared.
    Raises: InputError (DataError, UnknownNameError, ...) for anything that cannot be run.
    """
    if isinstance(stream, Stream) and options:
        raise InputError(f"options {', '.join(options)} were given with a Stream that is already built; set them there")
    if not strategies:
        raise InputError("no strategy was given; name at least one, see 'nestling strategies'")
    checked_order = _check_order(order, stream)
    checked_seeds = _check_seeds(seeds)
    specs = [parse_strategy(text) for text in strategies]
    source = str(stream) if isinstance(stream, Path) else stream
    built = build_stream(source, report=report, **options) if isinstance(source, str) else source
    for spec in specs:
        check_strategy(spec, built)
    return Plan(
        source=source,
        stream=built,
        options=dict(options),
        defaults=find_stream(source).options() if isinstance(source, str) else {},
        strategies=tuple(dict.fromkeys(spec.label for spec in specs)),
        seeds=checked_seeds,
        order=checked_order,
        model=model,
        threads=threads,
    )


def _plain(value: Any) -> Any:
    """JSON values: tuples as lists, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _check_order(order: str | None, stream: str | Path | Stream) -> Order:
    if order is None:
        return "given" if isinstance(stream, Stream) else find_stream(str(stream)).order
    if order == "given" or order == "shuffled":
        return order
    raise InputError(f"expected order 'given' or 'shuffled', got {order!r}")


def _check_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    given = tuple(range(seeds)) if isinstance(seeds, int) else tuple(dict.fromkeys(seeds))
    if not given or min(given) < 0:
        raise InputError(f"expected at least one seed and none below 0, got {seeds!r}")
    return given


def _describe_factory(model: ModelFactory | None) -> str:
    if model is None:
        return "the stream's own"
    return f"{getattr(model, '__module__', '?')}.{getattr(model, '__qualname__', type(model).__qualname__)}"
