"""Models that keep learning: Nested Learning for PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nestling.models import register_when_imported

if TYPE_CHECKING:
    from nestling.models.hope import HopeConfig as HopeConfig
    from nestling.models.hope import HopeForCausalLM as HopeForCausalLM
    from nestling.models.hope import HopeModel as HopeModel
    from nestling.models.nested_lm.learner import NestedLM as NestedLM
    from nestling.models.nested_lm.nest import nest as nest
    from nestling.recipes.learn import learn as learn
    from nestling.recipes.levels import levels as levels
    from nestling.recipes.results import LearnResult as LearnResult

__version__ = "0.1.0"
__all__ = [
    "HopeConfig",
    "HopeForCausalLM",
    "HopeModel",
    "LearnResult",
    "NestedLM",
    "__version__",
    "learn",
    "levels",
    "nest",
]

register_when_imported()


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
    if name in ("NestedLM", "nest"):
        from nestling.models import nested_lm

        return getattr(nested_lm, name)
    if name in ("HopeConfig", "HopeForCausalLM", "HopeModel"):
        from nestling.models import hope

        return getattr(hope, name)
    raise AttributeError(f"module 'nestling' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
