"""Translation functions. The host translates nothing, but looks up the context as Slicer does."""

from __future__ import annotations

import inspect
from pathlib import Path


def translate(context: str, text: str) -> str:
    """``text`` in the application's language."""
    import slicer

    return slicer.app.translate(context, text) if hasattr(slicer, "app") else text


def getContext(sourceFile: str) -> str:
    """Translation context of a file: its name, after its package's where it is in one."""
    path = Path(sourceFile)
    return f"{path.parent.name}.{path.stem}" if (path.parent / "__init__.py").is_file() else path.stem


def tr(text: str) -> str:
    """``text`` translated in the context of the calling file."""
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return translate(getContext(frame.f_back.f_code.co_filename), text)
