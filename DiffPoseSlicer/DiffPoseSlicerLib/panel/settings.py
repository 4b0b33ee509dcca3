"""What the panel remembers on this computer: the engine's interpreter, where models are kept."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import qt
import slicer.util

from ..scene import prepare

_PREFIX = "DiffPoseSlicer/"


def _read(key: str, default: str) -> str:
    return str(qt.QSettings().value(_PREFIX + key, default) or default)


def _write(key: str, value: str) -> None:
    qt.QSettings().setValue(_PREFIX + key, value)


def interpreter() -> str:
    """The Python chosen to compute, "" for Slicer's own."""
    return _read("Interpreter", "")


def set_interpreter(path: str) -> None:
    """Choose the Python that computes."""
    _write("Interpreter", path.strip())


def python() -> str:
    """The program that runs the engine.

    In Slicer, sys.executable is a launcher that would leave its child behind when killed: python-real is the program
    itself, and finds its libraries through the environment that Slicer hands on.
    """
    return interpreter() or shutil.which("python-real") or shutil.which("PythonSlicer") or sys.executable


def environment() -> dict[str, str]:
    """The environment to start the engine in: Slicer's for its own Python, else the one Slicer was started in."""
    if interpreter() and hasattr(slicer.util, "startupEnvironment"):
        return dict(slicer.util.startupEnvironment())
    return dict(os.environ)


def models_folder() -> Path:
    """Where prepared models are kept on this computer."""
    stored = _read("ModelsFolder", "")
    return Path(stored) if stored else prepare.models_folder()


def set_models_folder(path: str) -> None:
    """Choose where models are kept."""
    _write("ModelsFolder", path)


def keep_training() -> bool:
    """Whether a preparation goes on when Slicer closes."""
    return _read("KeepTraining", "true") == "true"


def set_keep_training(on: bool) -> None:
    """Choose whether a preparation goes on when Slicer closes."""
    _write("KeepTraining", "true" if on else "false")
