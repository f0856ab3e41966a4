"""Tasks that arrive in order. Adding a stream = one file here and one line in `STREAMS`."""

from __future__ import annotations

from nestling.streams.base import Examples, Experience, Problem, Stream, Training, concatenate
from nestling.streams.table import FOLDER, STREAMS, StreamSpec, build_stream, find_stream

__all__ = [
    "FOLDER",
    "STREAMS",
    "Examples",
    "Experience",
    "Problem",
    "Stream",
    "StreamSpec",
    "Training",
    "build_stream",
    "concatenate",
    "find_stream",
]
