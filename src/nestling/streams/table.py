"""Every stream that has a name, and how a name or a folder becomes a stream."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nestling.errors import InputError, UnknownNameError
from nestling.streams.base import Order, Stream
from nestling.streams.digits import digits_stream
from nestling.streams.folder import folder_stream
from nestling.streams.intents import banking77_stream, clinc150_stream
from nestling.streams.mnist import mnist_stream
from nestling.streams.robot import robot_stream
from nestling.streams.text import text_stream

Report = Callable[[str, int, int], None]
# Arguments of builders that are not options: where to report to, the folder of `folder_stream`, and objects.
_REPORT, _PROGRESS, _PLACE, _ENCODER = "report", "progress", "place", "encoder"


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """One row of the table of streams.

    build: returns the stream; its arguments are the options a user may give. Not options are `report`, which receives
        (what, done, total) while the stream is prepared, and `progress`, which receives (done, total).
    order: in which order experiences arrive unless the user says otherwise.
    """

    name: str
    summary: str
    build: Callable[..., Stream]
    order: Order = "given"

    def options(self) -> dict[str, Any]:
        """Names and defaults of the options."""
        parameters = inspect.signature(self.build).parameters
        hidden = (_REPORT, _PROGRESS, _PLACE, _ENCODER)
        return {name: each.default for name, each in parameters.items() if name not in hidden}


FOLDER = StreamSpec(
    name="FOLDER",
    summary="any folder of .csv, .jsonl, .npz or .txt files, one file per experience, in name order",
    build=folder_stream,
)

STREAMS: dict[str, StreamSpec] = {
    spec.name: spec
    for spec in (
        StreamSpec(
            name="robot",
            summary="a simulated arm learns one manipulation task after another from demonstrations (metaworld)",
            build=robot_stream,
        ),
        StreamSpec(
            name="digits",
            summary="handwritten digits (8x8 pixels), five experiences of two classes, one output head",
            build=digits_stream,
        ),
        StreamSpec(
            name="mnist",
            summary="handwritten digits (28x28 pixels) from files of yours, five experiences of two classes",
            build=mnist_stream,
        ),
        StreamSpec(
            name="intents-clinc150",
            summary="what a sentence asks for (CLINC150), ten experiences of 15 classes, frozen MiniLM features",
            build=clinc150_stream,
            order="shuffled",
        ),
        StreamSpec(
            name="intents-banking77",
            summary="what a bank's customer asks for (Banking77), seven experiences of 11 classes, MiniLM features",
            build=banking77_stream,
            order="shuffled",
        ),
        StreamSpec(
            name="text",
            summary="language modelling byte by byte over domains that every machine has, in bits per byte",
            build=text_stream,
        ),
    )
}

ALIASES = {"intents": "intents-clinc150"}


def build_stream(name_or_path: str, *, report: Report | None = None, **options: Any) -> Stream:
    """The stream called `name_or_path`, or the files of that folder as a stream.

    A name of the table wins over a folder of the same name; write ./NAME for the folder.

    Args:
        name_or_path: a key of `STREAMS`, or a folder.
        report: receives (what, done, total) while the stream is prepared, if that takes long.
        options: of the builder.
    Raises: UnknownNameError naming the nearest stream or option, and what the builder raises.
    """
    spec = find_stream(name_or_path)
    checked = _checked_options(spec, options)
    if report is not None:
        checked.update(_reporting(spec, report))
    return spec.build(Path(name_or_path).expanduser(), **checked) if spec is FOLDER else spec.build(**checked)


def find_stream(name_or_path: str) -> StreamSpec:
    """The row for a name, or `FOLDER` for a path. Raises UnknownNameError for what is neither."""
    name = ALIASES.get(name_or_path, name_or_path)
    if name in STREAMS:
        return STREAMS[name]
    if os.sep in name_or_path or name_or_path.startswith((".", "~")) or os.path.exists(name_or_path):
        return FOLDER
    raise UnknownNameError("stream (nor is there a folder of that name)", name_or_path, [*STREAMS, *ALIASES])


def _checked_options(spec: StreamSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    known = spec.options()
    for name in options:
        if name not in known:
            if not known:
                raise InputError(f"stream {spec.name!r} has no options, got {name!r}; leave it out")
            raise UnknownNameError(f"option of stream {spec.name!r}", name, known)
    return dict(options)


def _reporting(spec: StreamSpec, report: Report) -> dict[str, Any]:
    """The argument through which the builder says how far it is, if it has one."""
    parameters = inspect.signature(spec.build).parameters
    if _REPORT in parameters:
        return {_REPORT: report}
    return {_PROGRESS: partial(report, f"preparing {spec.name}")} if _PROGRESS in parameters else {}
