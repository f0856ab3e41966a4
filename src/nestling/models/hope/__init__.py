"""Hope and its relatives as one Hugging Face model. Needs the extra `text`; imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nestling.errors import ResourceError

if TYPE_CHECKING:
    from nestling.models.hope.cache import HopeCache as HopeCache
    from nestling.models.hope.config import HopeConfig as HopeConfig
    from nestling.models.hope.model import HopeForCausalLM as HopeForCausalLM
    from nestling.models.hope.model import HopeModel as HopeModel
    from nestling.models.hope.reading import read as read

__all__ = ["HopeCache", "HopeConfig", "HopeForCausalLM", "HopeModel", "read"]


def __getattr__(name: str) -> Any:
    """Import on first use: the model needs transformers, its neighbours may not."""
    if name not in __all__:
        raise AttributeError(f"module 'nestling.models.hope' has no attribute {name!r}")
    try:
        from nestling.models.hope.cache import HopeCache
        from nestling.models.hope.config import HopeConfig
        from nestling.models.hope.model import HopeForCausalLM, HopeModel
        from nestling.models.hope.reading import read
    except ImportError as error:
        raise ResourceError(f"transformers is missing or too old: pip install 'nestling[text]' ({error})") from error
    known: tuple[Any, ...] = (HopeCache, HopeConfig, HopeForCausalLM, HopeModel, read)
    return next(thing for thing in known if thing.__name__ == name)
