"""What other Python processes of ours need to find this library."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_LIBRARY = str(Path(__file__).resolve().parents[1])


def with_library(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables with which another Python finds this library before any other of its name."""
    path = os.pathsep.join(filter(None, [_LIBRARY, environment.get("PYTHONPATH", "")]))
    return dict(environment) | {"PYTHONPATH": path}
