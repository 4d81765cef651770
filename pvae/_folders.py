"""Folders of the user's that pvae writes to without being asked."""

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """The folder of downloads and compiled steps: $PVAE_CACHE, or the system's for caches."""
    name = os.environ.get("PVAE_CACHE")
    if name:
        return Path(name).expanduser()
    import pooch  # slow to import

    return Path(pooch.os_cache("pvae"))
