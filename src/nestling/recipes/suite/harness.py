"""lm-evaluation-harness for our models: its own command, after our models are known to transformers.

`lm_eval --model hf` loads what AutoModelForCausalLM knows. Inside a program that has imported nestling that includes
our models; the harness's command alone imports no nestling, and it has no list of plug-ins. So there are two ways:
`run_harness` is the same command with that import before it, and `make_self_contained` lets any program load a
checkpoint that is told to trust its code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nestling.errors import DataError, ResourceError
from nestling.recipes.files import plain_errors, write_atomically

__all__ = ["make_self_contained", "run_harness"]

CODE = "modeling_nestling.py"
SOURCE = '''"""Makes this checkpoint known to transformers: needs `pip install nestling`."""

from nestling import HopeConfig, HopeForCausalLM, HopeModel

__all__ = ["HopeConfig", "HopeForCausalLM", "HopeModel"]
'''
AUTO_MAP = {
    "AutoConfig": "modeling_nestling.HopeConfig",
    "AutoModel": "modeling_nestling.HopeModel",
    "AutoModelForCausalLM": "modeling_nestling.HopeForCausalLM",
}


def run_harness(arguments: Sequence[str]) -> None:
    """`lm_eval ARGUMENTS` with our models known; --model hf --model_args pretrained=FOLDER.

    Raises:
        ResourceError: lm-evaluation-harness is not installed.
        SystemExit: as its command exits.
    """
    try:
        from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]  an extra
    except ImportError as error:
        raise ResourceError("lm-evaluation-harness is not installed: pip install 'nestling[text,lm-eval]'") from error
    before = sys.argv
    sys.argv = ["lm_eval", *arguments]
    try:
        cli_evaluate()
    finally:
        sys.argv = before


def make_self_contained(folder: Path) -> list[Path]:
    """Let programs that do not import nestling load a checkpoint of ours, with `trust_remote_code=True`.

    Writes `modeling_nestling.py`, which imports nestling, and names it in config.json. Weights stay as they are.

    Returns:
        what was written.

    Raises:
        DataError: no checkpoint of ours.
        ResourceError: the folder cannot be written.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise DataError(f"{folder}: expected a model with config.json, as save_pretrained writes it")
    with plain_errors("read", path):
        config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("model_type") != "hope":
        raise DataError(f"{path}: expected model_type 'hope', got {config.get('model_type')!r}: others need no help")
    config["auto_map"] = AUTO_MAP
    write_atomically(folder / CODE, SOURCE.encode())
    write_atomically(path, (json.dumps(config, indent=2) + "\n").encode())
    return [folder / CODE, path]
