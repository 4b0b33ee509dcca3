"""The one line that says how a step stands: a sign, a colour and a sentence. The sign says it without the colour."""

from __future__ import annotations

import html

from slicer.i18n import tr as _

from ..engine.client import EngineError, EngineStopped
from ..errors import Cancelled, InputError

# Readable on light and on dark: only the sign is coloured.
_SIGNS = {
    "idle": ("&#9675;", "#8a8f98"),
    "ready": ("&#9679;", "#2f86d6"),
    "busy": ("&#9684;", "#2f86d6"),
    "good": ("&#10004;", "#2e9e5b"),
    "warn": ("&#9650;", "#c98a00"),
    "bad": ("&#10008;", "#d0453b"),
}
_KILLED = -9  # what a system that runs out of memory does
ACCENT = (
    "QPushButton { background-color: #2f6fb8; color: white; font-weight: bold; border: 1px solid #24578f;"
    " border-radius: 4px; padding: 4px; } QPushButton:pressed { background-color: #24578f; }"
    " QPushButton:disabled { background-color: #7d93ab; color: #e6e6e6; border-color: #7d93ab; }"
)


def line(kind: str, text: str) -> str:
    """Rich text of a state: `kind` is idle, ready, busy, good, warn or bad."""
    sign, color = _SIGNS[kind]
    return f'<span style="color:{color}">{sign}</span>&nbsp; {html.escape(text).replace(chr(10), "<br>")}'


def show(label: object, kind: str, text: str) -> None:
    """Write a state into a label, if it is another one."""
    rich = line(kind, text)
    if label.text != rich:  # type: ignore[attr-defined]
        label.text = rich  # type: ignore[attr-defined]


def accent(button: object, on: bool) -> None:
    """Mark the button that comes next, or unmark it."""
    style = ACCENT if on else ""
    if button.styleSheet != style:  # type: ignore[attr-defined]
        button.styleSheet = style  # type: ignore[attr-defined]


def enable(widget: object, on: bool, tip: str) -> None:
    """Enable a widget; its tool tip says what it does, or, while disabled, why it cannot."""
    if widget.enabled != on:  # type: ignore[attr-defined]
        widget.enabled = on  # type: ignore[attr-defined]
    if widget.toolTip != tip:  # type: ignore[attr-defined]
        widget.toolTip = tip  # type: ignore[attr-defined]


def of_error(error: Exception) -> tuple[str, str]:
    """(kind, sentence) for something that went wrong: what happened and what to do."""
    if isinstance(error, Cancelled):
        return "warn", _("Stopped.")
    if isinstance(error, InputError):
        return "bad", str(error)
    if isinstance(error, EngineStopped):
        return "bad", _why_stopped(error)
    if isinstance(error, EngineError):
        return "bad", str(error)
    return "bad", _("This should not have happened: {kind}: {message}").format(kind=type(error).__name__, message=error)


def _why_stopped(error: EngineStopped) -> str:
    if error.status is None:
        return _("The engine cannot be started: choose another interpreter under Engine and settings, then press Test.")
    if error.status == _KILLED:
        return _(
            "The engine was ended from outside, perhaps for want of memory: close other programs, then try again; it "
            "starts anew."
        )
    return _("The engine ended. Try again: it starts anew. Its last words are under Engine and settings.")
