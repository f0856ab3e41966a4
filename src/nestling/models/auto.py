"""Our models become known to AutoConfig and AutoModel when transformers' tables are imported, not before.

Importing transformers takes seconds, and most of what nestling does needs none of it. So `import nestling` only leaves
word: once Python has loaded transformers' table of configurations (or of models), ours are added to it. While
transformers is still in the midst of loading a model that ours stand on, ours cannot be loaded; then the first of our
configurations that is made adds them.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["make_models_known", "register_when_imported"]

CONFIGURATIONS = "transformers.models.auto.configuration_auto"
MODELS = "transformers.models.auto.modeling_auto"
_REGISTERED: list[bool] = []


def register_when_imported() -> None:
    """Leave word, once; or add our models at once where the tables are loaded already."""
    for name, register in ((CONFIGURATIONS, _register_configuration), (MODELS, _register_models)):
        if name in sys.modules:
            _attempt(register)
        elif not any(isinstance(finder, _Watch) and finder.name == name for finder in sys.meta_path):
            sys.meta_path.insert(0, _Watch(name, register))


def make_models_known() -> None:
    """Add our models to the table of models if it is loaded; every configuration of ours calls this."""
    table = sys.modules.get(MODELS)
    if table is not None and not getattr(table.__spec__, "_initializing", False):
        _attempt(_register_models)


class _Watch:
    """A finder that finds nothing itself: it lets the others find one module, and acts after that is loaded."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self.name, self.action = name, action

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_act(module: ModuleType) -> None:
            load(module)
            _attempt(self.action)

        spec.loader.exec_module = load_and_act
        return spec


def _attempt(register: Callable[[], None]) -> None:
    """A transformers that ours do not fit must stay usable without them."""
    try:
        register()
    except Exception as error:  # whatever else it is, it comes from versions that do not fit
        if isinstance(error, ImportError) and "partially initialized module" in str(error):
            return  # `make_models_known` comes later
        warnings.warn(f"nestling's models are not known to transformers' Auto classes: {error}", stacklevel=2)


def _register_configuration() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from nestling.models.hope.config import HopeConfig
    from nestling.models.samba.config import SambaConfig

    AutoConfig.register("hope", HopeConfig, exist_ok=True)
    AutoConfig.register("samba", SambaConfig, exist_ok=True)


def _register_models() -> None:
    if _REGISTERED:
        return
    from transformers.models.auto.modeling_auto import AutoModel, AutoModelForCausalLM

    from nestling.models.hope.config import HopeConfig
    from nestling.models.hope.model import HopeForCausalLM, HopeModel
    from nestling.models.samba.config import SambaConfig
    from nestling.models.samba.model import SambaForCausalLM, SambaModel

    AutoModel.register(HopeConfig, HopeModel, exist_ok=True)
    AutoModelForCausalLM.register(HopeConfig, HopeForCausalLM, exist_ok=True)
    AutoModel.register(SambaConfig, SambaModel, exist_ok=True)
    AutoModelForCausalLM.register(SambaConfig, SambaForCausalLM, exist_ok=True)
    _REGISTERED.append(True)
