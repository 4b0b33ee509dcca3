"""Pictures of the running host: settle, grab, save; light and dark looks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from PySide6 import QtCore, QtGui, QtWidgets

from .offscreen import Image
from .user import process_events

_DARK = {
    "Window": "#2f3136",
    "WindowText": "#e6e6e6",
    "Base": "#232529",
    "AlternateBase": "#2a2c31",
    "Text": "#e6e6e6",
    "PlaceholderText": "#8d9096",
    "Button": "#3a3d43",
    "ButtonText": "#e6e6e6",
    "BrightText": "#ff6b6b",
    "Highlight": "#3d7ec9",
    "HighlightedText": "#ffffff",
    "ToolTipBase": "#232529",
    "ToolTipText": "#e6e6e6",
    "Link": "#7db4f0",
    "Light": "#4a4d55",
    "Mid": "#26282c",
    "Dark": "#1c1d20",
}


def set_look(look: str) -> None:
    """Switch the application between the ``"light"`` and ``"dark"`` look (Fusion style)."""
    app = QtWidgets.QApplication.instance()
    app.setStyle("Fusion")
    app.styleHints().setColorScheme(getattr(QtCore.Qt.ColorScheme, look.capitalize()))
    palette = app.style().standardPalette()
    if look == "dark":
        for role, colour in _DARK.items():
            palette.setColor(getattr(QtGui.QPalette.ColorRole, role), QtGui.QColor(colour))
        for role in ("WindowText", "Text", "ButtonText"):
            group = QtGui.QPalette.ColorGroup.Disabled
            palette.setColor(group, getattr(QtGui.QPalette.ColorRole, role), QtGui.QColor("#80838a"))
    app.setPalette(palette)
    process_events()


def settle(timeout: float = 5.0) -> None:
    """Run the event loop until every visible view has drawn what was asked of it."""
    layouts = slicer.app.layoutManager()
    watch = QtCore.QElapsedTimer()
    watch.start()
    process_events(0.03)
    while layouts is not None and watch.elapsed() < 1000 * timeout:
        if not any(view.isVisible() and view.is_render_pending() for view in layouts.render_widgets()):
            break
        process_events(0.01)


def grab(widget: Any = None) -> Image:
    """A picture of a widget (default: the main window) once it has settled, uint8 [row, column, 3]."""
    settle()
    target = widget if widget is not None else slicer.util.mainWindow()
    image = target.grab().toImage().convertToFormat(QtGui.QImage.Format.Format_RGB888)
    rows, columns = image.height(), image.width()
    pixels = np.frombuffer(image.constBits(), np.uint8).reshape(rows, image.bytesPerLine())
    return pixels[:, : 3 * columns].reshape(rows, columns, 3).copy()


def save(path: str | Path, widget: Any = None) -> Path:
    """Save a picture of a widget (default: the main window) as PNG."""
    from .offscreen import write_png

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_png(grab(widget), path)
    return Path(path)


def save_gif(images: Sequence[Image], path: str | Path, milliseconds: int = 100) -> Path:
    """Save pictures of one size as an endless GIF."""
    from PIL import Image as PillowImage

    frames = [PillowImage.fromarray(image).quantize(128) for image in images]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    return Path(path)
