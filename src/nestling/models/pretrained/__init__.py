"""Where a pretrained language model comes from: a folder, the hub, or an offline copy. Needs the extra `text`."""

from __future__ import annotations

from nestling.models.pretrained.load import load_language_model
from nestling.models.pretrained.offline import OFFLINE, OfflineCopy, cached_folder, pull_offline
from nestling.models.pretrained.pull import pull

__all__ = ["OFFLINE", "OfflineCopy", "cached_folder", "load_language_model", "pull", "pull_offline"]
