"""Models that keep learning: Nested Learning for PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nestling.recipes.learn import learn as learn
    from nestling.recipes.levels import levels as levels
    from nestling.recipes.results import LearnResult as LearnResult

__version__ = "0.1.0"
__all__ = ["LearnResult", "__version__", "learn", "levels"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import nestling` and `nestling --help` are quick."""
    if name == "learn":
        from nestling.recipes.learn import learn

        return learn
    if name == "levels":
        from nestling.recipes.levels import levels

        return levels
    if name == "LearnResult":
        from nestling.recipes.results import LearnResult

        return LearnResult
    raise AttributeError(f"module 'nestling' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
