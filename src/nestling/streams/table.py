"""Every stream that has a name, and how a name or a folder becomes a stream."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestling.errors import InputError, UnknownNameError
from nestling.streams.base import Order, Stream
from nestling.streams.digits import digits_stream
from nestling.streams.folder import folder_stream
from nestling.streams.robot import robot_stream
from nestling.streams.text import text_stream

Report = Callable[[str, int, int], None]
_REPORT = "report"


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """One row of the table of streams.

    build: returns the stream; its keyword arguments are the options a user may give. One called `report` is not an
        option: it receives (what, done, total) while the stream is prepared.
    order: in which order experiences arrive unless the user says otherwise.
    """

    name: str
    summary: str
    build: Callable[..., Stream]
    order: Order = "given"

    def options(self) -> dict[str, Any]:
        """Names and defaults of the options."""
        return {name: default for name, default in _keywords(self.build).items() if name != _REPORT}


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
            name="text",
            summary="language modelling byte by byte over domains that every machine has, in bits per byte",
            build=text_stream,
        ),
    )
}


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
    if report is not None and _REPORT in _keywords(spec.build):
        checked = {**checked, _REPORT: report}
    return spec.build(Path(name_or_path).expanduser(), **checked) if spec is FOLDER else spec.build(**checked)


def find_stream(name_or_path: str) -> StreamSpec:
    """The row for a name, or `FOLDER` for a path. Raises UnknownNameError for what is neither."""
    if name_or_path in STREAMS:
        return STREAMS[name_or_path]
    if os.sep in name_or_path or name_or_path.startswith((".", "~")) or Path(name_or_path).exists():
        return FOLDER
    raise UnknownNameError("stream (nor is there a folder of that name)", name_or_path, STREAMS)


def _checked_options(spec: StreamSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    known = spec.options()
    for name in options:
        if name not in known:
            if not known:
                raise InputError(f"stream {spec.name!r} has no options, got {name!r}; leave it out")
            raise UnknownNameError(f"option of stream {spec.name!r}", name, known)
    return dict(options)


def _keywords(build: Callable[..., Stream]) -> dict[str, Any]:
    parameters = inspect.signature(build).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
