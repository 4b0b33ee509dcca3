"""A user at mouse and keyboard: real Qt events on visible widgets, and waiting for what should follow."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtGui, QtTest, QtWidgets
from PySide6.QtCore import QPoint, Qt

NO_BUTTON = Qt.MouseButton.NoButton  # for ``drag``: move only


class NotReachable(AssertionError):
    """A user could not have done that: the widget is hidden, disabled or out of sight."""


def process_events(seconds: float = 0.0) -> None:
    """Run the event loop, at least for ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        QtWidgets.QApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)
        QtWidgets.QApplication.processEvents(QtCore.QEventLoop.ProcessEventsFlag.AllEvents, 20)
        if time.monotonic() >= end:
            return
        time.sleep(0.002)


def wait(condition: Callable[[], Any], timeout: float = 10.0, message: str = "") -> Any:
    """Run the event loop until ``condition`` is true and return its value. Raises TimeoutError."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(message or f"not within {timeout:g} s: {condition}")
        process_events(0.005)
    return value


def show(widget: QtWidgets.QWidget) -> None:
    """Scroll until ``widget`` is in sight. Raises NotReachable for a widget that is hidden or disabled."""
    process_events()
    name = widget.objectName() or type(widget).__name__
    if not widget.isVisible():
        raise NotReachable(f"{name} is not visible")
    if not widget.isEnabled():
        raise NotReachable(f"{name} is disabled: {widget.toolTip() or 'no tool tip says why'}")
    for _ in range(5):  # what has just been unfolded takes a turn or two to find its place
        parent = widget.parentWidget()
        while parent is not None:
            if isinstance(parent, QtWidgets.QScrollArea) and parent.widget() is not widget:
                parent.ensureWidgetVisible(widget, 10, 10)
            parent = parent.parentWidget()
        process_events()
        if not widget.visibleRegion().isEmpty():
            return
        process_events(0.02)
    raise NotReachable(f"{name} is out of sight")


def click(widget: QtWidgets.QWidget, position: QPoint | None = None, button: Any = Qt.MouseButton.LeftButton) -> None:
    """Click a widget where it reacts: a check box on its mark, others in the middle of what is visible."""
    show(widget)
    if position is None:
        position = _hot_spot(widget)
    QtTest.QTest.mouseClick(widget, button, Qt.KeyboardModifier.NoModifier, position)
    process_events()


def _hot_spot(widget: QtWidgets.QWidget) -> QPoint:
    if isinstance(widget, (QtWidgets.QCheckBox, QtWidgets.QRadioButton)):
        return QPoint(8, widget.height() // 2)
    if hasattr(widget, "contentsCollapsed"):  # the header of a collapsible button
        return QPoint(30, 8)
    return widget.visibleRegion().boundingRect().center()


def type_text(widget: QtWidgets.QWidget, text: str, enter: bool = True) -> None:
    """Replace what a text or number field holds, key by key, and leave it by Enter (or Tab)."""
    show(widget)
    field = widget.focusProxy() or widget
    field.setFocus()
    QtTest.QTest.keyClick(field, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    QtTest.QTest.keyClicks(field, text)
    QtTest.QTest.keyClick(field, Qt.Key.Key_Return if enter else Qt.Key.Key_Tab)
    process_events()


def press(widget: QtWidgets.QWidget, key: Any, modifiers: Any = Qt.KeyboardModifier.NoModifier) -> None:
    """Press one key."""
    show(widget)
    QtTest.QTest.keyClick(widget, key, modifiers)
    process_events()


def choose(widget: QtWidgets.QWidget, text: str) -> None:
    """Choose an entry of a combo box or node selector: open the list, walk to the entry by arrow keys, press Enter."""
    combo = widget if isinstance(widget, QtWidgets.QComboBox) else widget.findChild(QtWidgets.QComboBox)
    show(combo)
    index = combo.findText(text)
    if index < 0:
        raise NotReachable(f"no entry {text!r} among {[combo.itemText(i) for i in range(combo.count())]}")
    combo.showPopup()
    process_events()
    view = combo.view()
    QtTest.QTest.keyClick(view, Qt.Key.Key_Home)
    while view.currentIndex().row() != index:
        before = view.currentIndex().row()
        QtTest.QTest.keyClick(view, Qt.Key.Key_Down if before < index else Qt.Key.Key_Up)
        if view.currentIndex().row() == before:
            combo.hidePopup()
            raise NotReachable(f"entry {text!r} cannot be chosen")
    QtTest.QTest.keyClick(view, Qt.Key.Key_Return)
    process_events()


def drag(
    widget: QtWidgets.QWidget,
    start: tuple[int, int],
    end: tuple[int, int],
    steps: int = 10,
    button: Any = Qt.MouseButton.LeftButton,
    on_step: Callable[[], None] | None = None,
) -> None:
    """Press at ``start``, move in steps to ``end``, release; positions in widget pixels. NO_BUTTON only moves."""
    show(widget)
    none = Qt.KeyboardModifier.NoModifier
    if button != NO_BUTTON:
        QtTest.QTest.mousePress(widget, button, none, QPoint(*start))
    for step in range(1, steps + 1):
        x, y = (round(a + (b - a) * step / steps) for a, b in zip(start, end, strict=True))
        _move(widget, QPoint(x, y), button)
        process_events()
        if on_step is not None:
            on_step()
    if button != NO_BUTTON:
        QtTest.QTest.mouseRelease(widget, button, none, QPoint(*end))
    process_events()


def drag_slider(widget: QtWidgets.QWidget, fraction: float, steps: int = 10, **options: Any) -> None:
    """Drag the handle of a horizontal slider (or of a slider widget) to a fraction of its track."""
    slider = widget if isinstance(widget, QtWidgets.QSlider) else widget.findChild(QtWidgets.QSlider)
    show(slider)
    option = QtWidgets.QStyleOptionSlider()
    slider.initStyleOption(option)
    style, kind = slider.style(), QtWidgets.QStyle.ComplexControl.CC_Slider
    handle = style.subControlRect(kind, option, QtWidgets.QStyle.SubControl.SC_SliderHandle, slider)
    groove = style.subControlRect(kind, option, QtWidgets.QStyle.SubControl.SC_SliderGroove, slider)
    start = handle.center()
    end = round(groove.left() + handle.width() / 2 + fraction * (groove.width() - handle.width()))
    drag(slider, (start.x(), start.y()), (end, start.y()), steps, **options)


def wheel(widget: QtWidgets.QWidget, notches: int, position: tuple[int, int] | None = None) -> None:
    """Turn the mouse wheel over a widget; positive away from the user."""
    show(widget)
    point = QtCore.QPointF(*position) if position else QtCore.QPointF(widget.rect().center())
    for _ in range(abs(notches)):
        event = QtGui.QWheelEvent(
            point,
            widget.mapToGlobal(point),
            QPoint(0, 0),
            QPoint(0, 120 if notches > 0 else -120),
            Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )
        QtWidgets.QApplication.sendEvent(widget, event)
    process_events()


def answer(button_text: str, timeout: float = 5.0) -> list[str]:
    """Answer the next message box by clicking the button with that text. Returns a list that will hold its message."""
    seen: list[str] = []
    deadline = time.monotonic() + timeout
    timer = QtCore.QTimer(QtWidgets.QApplication.instance())

    def look() -> None:
        dialog = QtWidgets.QApplication.activeModalWidget()
        if dialog is not None and dialog.isVisible():
            timer.stop()
            seen.append(dialog.text() if isinstance(dialog, QtWidgets.QMessageBox) else dialog.windowTitle())
            for button in dialog.findChildren(QtWidgets.QAbstractButton):
                if button.text().replace("&", "") == button_text:
                    QtTest.QTest.mouseClick(button, Qt.MouseButton.LeftButton)
                    return
            dialog.close()
            seen.append(f"no button {button_text!r}")
        elif time.monotonic() > deadline:
            timer.stop()

    timer.timeout.connect(look)
    timer.start(20)
    return seen


def _move(widget: QtWidgets.QWidget, point: QPoint, button: Any) -> None:
    """QTest.mouseMove carries no pressed button: send the event that a dragging mouse makes."""
    position = QtCore.QPointF(point)
    event = QtGui.QMouseEvent(
        QtCore.QEvent.Type.MouseMove,
        position,
        widget.mapToGlobal(position),
        Qt.MouseButton.NoButton,
        button,
        Qt.KeyboardModifier.NoModifier,
    )
    QtWidgets.QApplication.sendEvent(widget, event)
