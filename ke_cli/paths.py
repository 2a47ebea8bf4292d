"""Where the package keeps the files it comes with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

BUNDLED: Final = "bundled:"
"""Beginning of a model path that names a folder of the package."""

SWEEP_FOLDER: Final = "KE_SWEEP_FOLDER"
"""The environment variable through which the jobs of a sweep learn where to say how they ended."""


def conf_dir() -> Path:
    """Return the folder of the configuration files, as an absolute path.

    An installed wheel has it inside the package; a checkout has it beside the package.
    """
    package = Path(__file__).resolve().parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


def cache_dir() -> Path:
    """Return the folder of what can be computed or downloaded again: ``$KE_CACHE``, else the user's cache."""
    from platformdirs import user_cache_path

    given = os.environ.get("KE_CACHE")
    return Path(given).expanduser() if given else user_cache_path("ke-cli")


def sweep_folder() -> Path | None:
    """Return the folder of the sweep that this process does a job of; None for a single run."""
    given = os.environ.get(SWEEP_FOLDER)
    return Path(given) if given else None
