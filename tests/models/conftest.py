"""Tests of models keep what they measure in a folder of their own, never in the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def measured_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests, so that a tiny model is measured once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(measured_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the cache there, unless a test runs on a real model."""
    if "NESTLING_KEEP_CACHE" not in os.environ:
        monkeypatch.setenv("NESTLING_CACHE", str(measured_folder))
