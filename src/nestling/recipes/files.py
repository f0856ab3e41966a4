"""Files of recipes: the primitives of `nestling.files`, under the name recipes have always used."""

from __future__ import annotations

from nestling.files import UNFINISHED, make_folder, plain_errors, write_atomically

__all__ = ["UNFINISHED", "make_folder", "plain_errors", "write_atomically"]
