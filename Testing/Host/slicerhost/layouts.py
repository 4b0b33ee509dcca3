"""``slicer.app.layoutManager()``: Slicer's layout logic decides, Qt lays out its XML."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import slicer
import vtk
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Qt, Signal

from .views import PlotWidget, SliceWidget, ThreeDWidget, ViewWidget

_VIEW_WIDGETS: dict[str, type[ViewWidget]] = {
    "vtkMRMLViewNode": ThreeDWidget,
    "vtkMRMLSliceNode": SliceWidget,
    "vtkMRMLPlotViewNode": PlotWidget,
}


class LayoutManager(QtCore.QObject):
    """``qMRMLLayoutManager`` for slice, 3D and plot views. Views, once made, live as long as the application."""

    layoutChanged = Signal(int)

    def __init__(self, viewport: QtWidgets.QWidget) -> None:
        super().__init__()
        self._viewport = viewport
        self._box = QtWidgets.QVBoxLayout(viewport)
        self._box.setContentsMargins(0, 0, 0, 0)
        self._root: QtWidgets.QWidget | None = None
        self._views: dict[tuple[str, str], ViewWidget] = {}
        self._built = ""
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._node = self._logic.GetLayoutNode()
        self._arrangement = -1
        self._node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._update())
        self.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)

    # -------------------------------------------------------------------------------------------------------- building
    def _update(self) -> None:
        description = self._node.GetCurrentLayoutDescription() or ""
        if description == self._built:
            return
        self._built = description
        for view in self._views.values():
            view.setParent(None)
        old, self._root = self._root, None
        if description:
            self._root = self._build(ElementTree.fromstring(description))
            self._box.addWidget(self._root)
            self._root.show()
        if old is not None:
            old.deleteLater()
        if self._node.GetViewArrangement() != self._arrangement:
            self._arrangement = self._node.GetViewArrangement()
            self.layoutChanged.emit(self._arrangement)

    def _build(self, element: ElementTree.Element) -> QtWidgets.QWidget:
        if element.tag == "view":
            view = self._view(element)
            view.show()
            return view
        items = [(item, self._build(next(iter(item)))) for item in element.findall("item") if len(item)]
        kind = element.get("type", "vertical")
        if kind == "tab":
            tabs = QtWidgets.QTabWidget()
            for item, widget in items:
                tabs.addTab(widget, item.get("name", ""))
            return tabs
        if kind == "grid":
            return self._grid(items)
        splitter = QtWidgets.QSplitter(Qt.Orientation.Horizontal if kind == "horizontal" else Qt.Orientation.Vertical)
        splitter.setChildrenCollapsible(False)
        for _, widget in items:
            splitter.addWidget(widget)
            splitter.setStretchFactor(splitter.count() - 1, 1)
        sizes = [int(item.get("splitSize", 500)) for item, _ in items]
        splitter.setSizes(sizes)
        return splitter

    def _grid(self, items: list[tuple[ElementTree.Element, QtWidgets.QWidget]]) -> QtWidgets.QWidget:
        frame = QtWidgets.QWidget()
        grid = QtWidgets.QGridLayout(frame)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(2)
        for item, widget in items:
            row, column = int(item.get("row", 0)), int(item.get("column", 0))
            grid.addWidget(widget, row, column, int(item.get("rowspan", 1)), int(item.get("colspan", 1)))
            grid.setRowStretch(row, 1)
            grid.setColumnStretch(column, 1)
        return frame

    def _view(self, element: ElementTree.Element) -> QtWidgets.QWidget:
        kind, tag = element.get("class", ""), element.get("singletontag", "")
        if kind not in _VIEW_WIDGETS:
            return QtWidgets.QLabel(f"{kind} {tag}: not shown by the host")
        if (kind, tag) not in self._views:
            self._views[kind, tag] = _VIEW_WIDGETS[kind](tag)
        return self._views[kind, tag]

    def _of(self, kind: str) -> list[Any]:
        return [view for (name, _), view in self._views.items() if name == kind]

    # ---------------------------------------------------------------------------------------------------- Slicer's API
    def setLayout(self, layout: int) -> None:
        self._node.SetViewArrangement(int(layout))
        self._update()

    layout = Property(int, lambda self: self._node.GetViewArrangement(), setLayout, notify=layoutChanged)
    threeDViewCount = Property(int, lambda self: len(self._of("vtkMRMLViewNode")))
    plotViewCount = Property(int, lambda self: len(self._of("vtkMRMLPlotViewNode")))
    tableViewCount = Property(int, lambda self: 0)

    def layoutLogic(self) -> Any:
        return self._logic

    def viewport(self) -> QtWidgets.QWidget:
        return self._viewport

    def threeDWidget(self, which: int | str) -> Any:
        return self._pick("vtkMRMLViewNode", which)

    def plotWidget(self, which: int | str) -> Any:
        return self._pick("vtkMRMLPlotViewNode", which)

    def sliceWidget(self, name: str) -> Any:
        return self._pick("vtkMRMLSliceNode", name)

    def _pick(self, kind: str, which: int | str) -> Any:
        views = self._of(kind)
        if isinstance(which, str):
            return self._views.get((kind, which))
        return views[which] if 0 <= which < len(views) else None

    def sliceViewNames(self) -> tuple[str, ...]:
        return tuple(tag for kind, tag in self._views if kind == "vtkMRMLSliceNode")

    def mrmlSliceLogics(self) -> Any:
        return slicer.app.applicationLogic().GetSliceLogics()

    def mrmlViewLogics(self) -> Any:
        return slicer.app.applicationLogic().GetViewLogics()

    def activeThreeDRenderer(self) -> Any:
        return self.threeDWidget(0).threeDView().renderer()

    def resetThreeDViews(self) -> None:
        for widget in self._of("vtkMRMLViewNode"):
            widget.threeDView().resetCamera()

    def resetSliceViews(self) -> None:
        for widget in self._of("vtkMRMLSliceNode"):
            widget.fitSliceToBackground()

    def render_widgets(self) -> list[Any]:
        """All views' drawing widgets."""
        return [view._view for view in self._views.values()]
