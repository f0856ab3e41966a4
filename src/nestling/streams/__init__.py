"""Tasks that arrive in order. Adding a stream = one file here and one line in `STREAMS`."""

from __future__ import annotations

from nestling.streams.base import Examples, Experience, Problem, Stream, Training, concatenate

__all__ = ["Examples", "Experience", "Problem", "Stream", "Training", "concatenate"]
