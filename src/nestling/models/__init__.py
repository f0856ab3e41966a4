"""Language models on transformers. Importing this room imports neither torch nor transformers."""

from __future__ import annotations

from nestling.models.auto import register_when_imported

__all__ = ["register_when_imported"]
