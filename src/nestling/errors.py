"""Every exception this package raises on purpose.

    NestlingError
    ├── InputError (also a ValueError)      what the user gave cannot be used
    │   ├── ShapeError                      a tensor has the wrong shape
    │   ├── DataError                       a file, folder or data set is unusable
    │   └── UnknownNameError                a name that is not in a table
    ├── CheckpointError                     a saved state is missing, truncated or altered
    └── ResourceError                       disk full, package missing, hub out of reach

The command line prints the message of a NestlingError on one line and exits with code 2.
A message says what was expected, what came, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NestlingError(Exception):
    """Base of all errors raised on purpose."""


class InputError(NestlingError, ValueError):
    """What the user gave cannot be used."""


class ShapeError(InputError):
    """A tensor has the wrong shape."""


class DataError(InputError):
    """A file, folder or data set cannot be used."""


class UnknownNameError(InputError):
    """A name that is not in the table of known names."""

    def __init__(self, what: str, given: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(given, names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"unknown {what} {given!r}: {hint}known are {', '.join(names)}")


class CheckpointError(NestlingError):
    """A saved state is missing, truncated or altered."""


class ResourceError(NestlingError):
    """Disk full, an optional package missing, or a hub out of reach."""
