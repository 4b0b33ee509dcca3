"""How a worker process is started: the command and its environment. Used by every transport."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from ..processes import with_library

# Set in a worker's environment by a client that must stay responsive: it then computes below normal priority.
POLITE = "DIFFPOSESLICER_POLITE"
_PACKAGE = Path(__file__).resolve().parents[1].name


def engine_command(python: str | None = None) -> list[str]:
    """The command that runs a worker under an interpreter (default: the one that runs this)."""
    return [python or sys.executable, "-m", f"{_PACKAGE}.engine.worker"]


def engine_environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a worker: `base` (default: this process's), with our package on the path.

    An interpreter other than Slicer's own wants the environment Slicer was started in as `base`, not Slicer's.
    """
    env = with_library(os.environ if base is None else base)
    # Nothing in the current folder may stand in for a package (Python 3.11 and later listen to this).
    env["PYTHONSAFEPATH"] = "1"
    env["PYTHONUNBUFFERED"] = "1"
    env["PYTHONIOENCODING"] = "utf-8"
    return env
