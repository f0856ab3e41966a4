"""What a run is made of, resolved and saved as `config.json`, so that it can be resumed or refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from nestling.errors import DataError, InputError
from nestling.recipes.files import UNFINISHED, make_folder, plain_errors, write_atomically
from nestling.recipes.fit import check_strategy
from nestling.streams import Stream, build_stream, find_stream
from nestling.streams.base import Order
from nestling.streams.table import Report

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"

ModelFactory = Callable[[], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides the figures, resolved: no default is left open.

    source: the stream as the user gave it (name, folder or Stream).   stream: the same, built.
    options: options of the stream's builder as given.   defaults: those of the builder.
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
            "seeds": list(self.seeds),
            "order": self.order,
            "model": _describe_factory(self.model),
            "training": {key: getattr(training, key) for key in sorted(training.__dataclass_fields__)},
            "threads": self.threads,
        }

    def pairs(self) -> list[tuple[str, int]]:
        """Every (strategy, seed) in the order in which they are run."""
        return [(strategy, seed) for strategy in self.strategies for seed in self.seeds]


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
        strategies: names.
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
    names = tuple(dict.fromkeys(strategies))
    source = str(stream) if isinstance(stream, Path) else stream
    built = build_stream(source, report=report, **options) if isinstance(source, str) else source
    for name in names:
        check_strategy(name, built)
    return Plan(
        source=source,
        stream=built,
        options=dict(options),
        defaults=find_stream(source).options() if isinstance(source, str) else {},
        strategies=names,
        seeds=checked_seeds,
        order=checked_order,
        model=model,
        threads=threads,
    )


def run_folder(out: Path, strategy: str, seed: int) -> Path:
    """Where one run keeps its checkpoints."""
    return out / CHECKPOINTS / f"{strategy}-seed{seed}"


def open_folder(out: Path, plan: Plan, command: str, *, resume: bool) -> str:
    """Make `out` ready for `plan` and return the command that first began it.

    Raises:
        InputError: `out` holds other things, or a run with another configuration.
        ResourceError: `out` cannot be written.
    """
    make_folder(out)
    with plain_errors("read", out):
        present = [path for path in out.iterdir() if not path.name.endswith(UNFINISHED)]
    if present and not resume:
        raise InputError(
            f"{out} is not empty; add --resume (resume=True) to go on with the run in it, or choose another folder"
        )
    if present and not (out / CONFIG).is_file():
        raise InputError(
            f"{out} is not empty but holds no run of nestling ({CONFIG} is missing); choose another folder"
        )
    if present:
        return _check_same(out / CONFIG, plan.config())
    content = {"config": plan.config(), "command": command}
    write_atomically(out / CONFIG, json.dumps(content, indent=1, allow_nan=False).encode())
    return command


def _check_same(path: Path, config: dict[str, Any]) -> str:
    try:
        with plain_errors("read", path):
            saved = json.loads(path.read_text(encoding="utf-8"))
        before, command = saved["config"], saved["command"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); choose another folder") from error
    now = json.loads(json.dumps(config))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise InputError(
                f"cannot resume {path.parent}: {key} was {_short(before.get(key))} and is now {_short(now.get(key))}; "
                "give the same as before, or choose another folder"
            )
    return command


def _plain(value: Any) -> Any:
    """JSON values: tuples as lists, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else text[:97] + "..."


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
