"""Qt widgets around the off-screen views: a render is copied into the widget, Qt events go to VTK's interactor.

Copying keeps everything grabbable by ``QWidget.grab`` and needs neither a display nor a native window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Qt

from . import offscreen, plots

_BUTTONS = {
    Qt.MouseButton.LeftButton: "Left",
    Qt.MouseButton.RightButton: "Right",
    Qt.MouseButton.MiddleButton: "Middle",
}
_RENDER_DELAY_MS = 15  # as in ctkVTKAbstractView: requests are gathered, so one event loop turn renders once


class RenderWidget(QtWidgets.QWidget):
    """Shows an off-screen view; ``scheduleRender`` gathers requests, ``forceRender`` draws now."""

    renders = 0  # how often this view was drawn: for tests of live updates
    after_drawing: ClassVar[list[Callable[[], None]]] = []  # called when a view was drawn by the event loop

    def __init__(self, view: offscreen.View | plots.PlotView) -> None:
        super().__init__()
        self.view = view
        self._picture: QtGui.QImage | None = None
        self.setMinimumSize(60, 40)
        self._timer = QtCore.QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_RENDER_DELAY_MS)
        self._timer.timeout.connect(self._draw)
        view.on_render_request(self.scheduleRender)

    def scheduleRender(self) -> None:
        if not slicer.app.render_paused and not self._timer.isActive():
            self._timer.start()

    def is_render_pending(self) -> bool:
        return self._timer.isActive() or self._picture is None

    def _draw(self) -> None:
        self.forceRender()
        for callback in list(self.after_drawing):
            callback()

    def forceRender(self) -> None:
        if self.width() < 2 or self.height() < 2 or not self.isVisible():
            return
        self._timer.stop()
        image = self.view.image()
        rows, columns, _ = image.shape
        self._picture = QtGui.QImage(image.data, columns, rows, 3 * columns, QtGui.QImage.Format.Format_RGB888).copy()
        self.renders += 1
        self.update()

    def paintEvent(self, _event: QtGui.QPaintEvent) -> None:
        if self._picture is None:
            self.scheduleRender()
        else:
            painter = QtGui.QPainter(self)
            painter.drawImage(self.rect(), self._picture)
            painter.end()  # not left to the garbage collector: a sampled stack keeps it alive

    def resizeEvent(self, _event: QtGui.QResizeEvent) -> None:
        self.view.resize((max(self.width(), 2), max(self.height(), 2)))
        self.scheduleRender()

    def showEvent(self, _event: QtGui.QShowEvent) -> None:
        self.scheduleRender()

    def renderWindow(self) -> Any:
        return self.view.window


class VTKWidget(RenderWidget):
    """Adds Slicer's interaction: mouse, wheel and keys reach the interactor styles of the displayable managers."""

    def __init__(self, view: offscreen.View) -> None:
        super().__init__(view)
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def renderer(self) -> Any:
        return self.view.renderer

    def interactor(self) -> Any:
        return self.view.interactor

    def interactorStyle(self) -> Any:
        return self.view.style

    def displayableManagerByClassName(self, name: str) -> Any:
        return self.view.managers.GetDisplayableManagerByClassName(name)

    def _send(self, event: Any, name: str, repeat: int = 0) -> None:
        position, keys = event.position(), event.modifiers()
        self.view.interactor.SetEventInformationFlipY(
            int(position.x()),
            int(position.y()),
            bool(keys & Qt.KeyboardModifier.ControlModifier),
            bool(keys & Qt.KeyboardModifier.ShiftModifier),
            chr(0),
            repeat,
            None,
        )
        getattr(self.view.interactor, name)()

    def mousePressEvent(self, event: QtGui.QMouseEvent) -> None:
        self._send(event, f"{_BUTTONS.get(event.button(), 'Left')}ButtonPressEvent")

    def mouseDoubleClickEvent(self, event: QtGui.QMouseEvent) -> None:
        self._send(event, f"{_BUTTONS.get(event.button(), 'Left')}ButtonPressEvent", repeat=1)

    def mouseReleaseEvent(self, event: QtGui.QMouseEvent) -> None:
        self._send(event, f"{_BUTTONS.get(event.button(), 'Left')}ButtonReleaseEvent")

    def mouseMoveEvent(self, event: QtGui.QMouseEvent) -> None:
        self._send(event, "MouseMoveEvent")

    def wheelEvent(self, event: QtGui.QWheelEvent) -> None:
        self._send(event, f"MouseWheel{'Forward' if event.angleDelta().y() > 0 else 'Backward'}Event")

    def keyPressEvent(self, event: QtGui.QKeyEvent) -> None:
        interactor, text = self.view.interactor, event.text()
        interactor.SetKeyCode(text[0] if text else chr(0))
        interactor.SetKeySym(text or QtGui.QKeySequence(event.key()).toString())
        interactor.KeyPressEvent()
        interactor.CharEvent()


class ThreeDView(VTKWidget):
    """``qMRMLThreeDView``."""

    def mrmlViewNode(self) -> Any:
        return self.view.node

    def cameraNode(self) -> Any:
        return self.view.camera_node()

    def resetFocalPoint(self) -> None:
        self.view.reset_focal_point()
        self.scheduleRender()

    def resetCamera(self, *_options: Any) -> None:
        self.view.reset_camera()
        self.scheduleRender()

    def lookFromViewAxis(self, axis: int) -> None:
        self.view.camera_node().RotateTo(axis)

    rotateToViewAxis = lookFromViewAxis


class SliceView(VTKWidget):
    """``qMRMLSliceView``."""

    def mrmlSliceNode(self) -> Any:
        return self.view.node

    def sliceLogic(self) -> Any:
        return self.view.logic


class PlotView(RenderWidget):
    """``qMRMLPlotView``."""

    def mrmlPlotViewNode(self) -> Any:
        return self.view.node

    def fitToContent(self) -> None:
        self.view.chart.RecalculateBounds()
        self.scheduleRender()


class ViewWidget(QtWidgets.QWidget):
    """A view under its controller bar: the bar has the view's colour and label, and the layout name on the left."""

    def __init__(self, view: RenderWidget) -> None:
        super().__init__()
        self._view = view
        node = view.view.node
        self.setObjectName(f"{type(self).__name__}{node.GetLayoutName()}")
        self._bar = QtWidgets.QWidget()
        self._bar.setObjectName("BarWidget")
        self._row = QtWidgets.QHBoxLayout(self._bar)
        self._row.setContentsMargins(2, 1, 2, 1)
        colour = QtGui.QColor.fromRgbF(*node.GetLayoutColor())
        self._label = QtWidgets.QLabel(f" {node.GetLayoutLabel() or node.GetLayoutName()} ")
        self._bar.setStyleSheet(f"#BarWidget {{ background: {colour.name()}; }}")
        self._label.setStyleSheet(
            f"background: {colour.name()}; color: {'black' if colour.lightness() > 90 else 'white'};"
        )
        self._row.addWidget(self._label)
        self._row.addStretch(1)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self._bar)
        layout.addWidget(view, 1)

    def barWidget(self) -> QtWidgets.QWidget:
        return self._bar


class ThreeDWidget(ViewWidget):
    """``qMRMLThreeDWidget``."""

    def __init__(self, tag: str) -> None:
        super().__init__(ThreeDView(offscreen.ThreeDView((100, 100), tag)))

    def threeDView(self) -> ThreeDView:
        return self._view

    def threeDController(self) -> ViewWidget:
        return self

    def mrmlViewNode(self) -> Any:
        return self._view.mrmlViewNode()

    def viewLogic(self) -> Any:
        return self._view.view.logic


class SliceWidget(ViewWidget):
    """``qMRMLSliceWidget``, its own controller too."""

    def __init__(self, tag: str) -> None:
        super().__init__(SliceView(offscreen.SliceView((100, 100), tag)))
        self._slider = QtWidgets.QSlider(Qt.Orientation.Horizontal)
        self._slider.setRange(0, 1000)
        self._row.takeAt(1)
        self._row.addWidget(self._slider, 1)
        self._slider.valueChanged.connect(self._slide)
        self.sliceLogic().AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._follow())

    def _range(self) -> tuple[float, float]:
        offsets, resolution = [0.0, 0.0], vtk.reference(0.0)
        found = self.sliceLogic().GetSliceOffsetRangeResolution(offsets, resolution)
        return (offsets[0], offsets[1]) if found and offsets[1] > offsets[0] else (-100.0, 100.0)

    def _slide(self, position: int) -> None:
        low, high = self._range()
        self.sliceLogic().SetSliceOffset(low + (high - low) * position / 1000)

    def _follow(self) -> None:
        low, high = self._range()
        self._slider.blockSignals(True)
        self._slider.setValue(round(1000 * (self.sliceLogic().GetSliceOffset() - low) / (high - low)))
        self._slider.blockSignals(False)

    def sliceView(self) -> SliceView:
        return self._view

    def sliceController(self) -> SliceWidget:
        return self

    def sliceOffsetSlider(self) -> QtWidgets.QSlider:
        return self._slider

    def sliceLogic(self) -> Any:
        return self._view.sliceLogic()

    def mrmlSliceNode(self) -> Any:
        return self._view.mrmlSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:
        return self.sliceLogic().GetSliceCompositeNode()

    def fitSliceToBackground(self) -> None:
        self.sliceLogic().FitSliceToBackground()
        self._view.scheduleRender()

    def setSliceVisible(self, visible: bool) -> None:
        self.mrmlSliceNode().SetSliceVisible(visible)


class PlotWidget(ViewWidget):
    """``qMRMLPlotWidget``."""

    def __init__(self, tag: str) -> None:
        super().__init__(PlotView(plots.PlotView((100, 100), tag)))

    def plotView(self) -> PlotView:
        return self._view

    def plotController(self) -> ViewWidget:
        return self

    def mrmlPlotViewNode(self) -> Any:
        return self._view.mrmlPlotViewNode()
