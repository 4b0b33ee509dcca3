"""What computed a result, so that it can be told later."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform

import numpy as np

from .. import __version__


def versions(backend: str) -> dict[str, str]:
    """Versions of the product and of what it rendered with. Reads metadata only: imports nothing."""
    found = {"DiffPoseSlicer": __version__, "python": platform.python_version(), "numpy": np.__version__}
    package = {"warp": "warp-lang", "torch": "torch"}.get(backend, backend)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found[package] = importlib.metadata.version(package)
    return found
