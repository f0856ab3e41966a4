"""A Samba-like hybrid on transformers' Bamba. Needs the extra `text`; imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nestling.errors import ResourceError

if TYPE_CHECKING:
    from nestling.models.samba.config import SambaConfig as SambaConfig
    from nestling.models.samba.model import SambaForCausalLM as SambaForCausalLM
    from nestling.models.samba.model import SambaModel as SambaModel

__all__ = ["SambaConfig", "SambaForCausalLM", "SambaModel"]


def __getattr__(name: str) -> Any:
    """Import on first use: the model needs transformers, its neighbours may not."""
    if name not in __all__:
        raise AttributeError(f"module 'nestling.models.samba' has no attribute {name!r}")
    try:
        # First the tables, whose loading makes our models known: in the midst of loading this one it could not be.
        import transformers.models.auto.modeling_auto  # noqa: F401

        from nestling.models.samba.config import SambaConfig
        from nestling.models.samba.model import SambaForCausalLM, SambaModel
    except ImportError as error:
        raise ResourceError(f"transformers is missing or too old: pip install 'nestling[text]' ({error})") from error
    known: tuple[Any, ...] = (SambaConfig, SambaForCausalLM, SambaModel)
    return next(thing for thing in known if thing.__name__ == name)
