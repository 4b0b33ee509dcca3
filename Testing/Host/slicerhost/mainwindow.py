"""The main window: module selector, module panel and views."""

from __future__ import annotations

from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Qt, Signal


class ModuleSelector(QtWidgets.QComboBox):
    """``slicer.util.moduleSelector()``: shows a module's panel, and tells panels that they are entered or left."""

    moduleSelected = Signal(str)

    def __init__(self, panels: QtWidgets.QStackedWidget) -> None:
        super().__init__()
        self.setMinimumContentsLength(24)
        self._panels = panels
        self._current: Any = None
        self.activated.connect(lambda index: self.selectModule(self.itemText(index)))

    def selectModule(self, name: str) -> None:
        module = slicer.app.moduleManager().module(name)
        panel = module.widgetRepresentation() if module is not None else None
        if self._current is not None:
            self._current.exit()
        self._current = panel
        self._selected = name
        if panel is not None:
            if self._panels.indexOf(panel) < 0:
                self._panels.addWidget(panel)
            self._panels.setCurrentWidget(panel)
            panel.enter()
        else:
            self._panels.setCurrentIndex(0)
        self.setCurrentText(name)
        self.moduleSelected.emit(name)

    _selected = ""
    selectedModule = property(lambda self: self._selected)


class MainWindow(QtWidgets.QMainWindow):
    """``qSlicerMainWindow``."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self.setWindowTitle("Slicer host")
        self._panels = QtWidgets.QStackedWidget()
        self._panels.addWidget(QtWidgets.QWidget())  # what modules without a panel show
        self._selector = ModuleSelector(self._panels)
        tools = self.addToolBar("Modules")
        tools.setObjectName("ModuleSelectorToolBar")
        tools.addWidget(QtWidgets.QLabel(" Modules: "))
        tools.addWidget(self._selector)
        scroll = QtWidgets.QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QtWidgets.QFrame.Shape.NoFrame)
        scroll.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)
        scroll.setWidget(self._panels)
        self._dock = QtWidgets.QDockWidget("Module panel")
        self._dock.setObjectName("PanelDockWidget")
        self._dock.setTitleBarWidget(QtWidgets.QWidget())
        self._dock.setWidget(scroll)
        self._dock.setMinimumWidth(300)
        self.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, self._dock)
        self.resizeDocks([self._dock], [430], Qt.Orientation.Horizontal)
        self._viewport = QtWidgets.QWidget()
        self._viewport.setObjectName("CentralWidgetLayoutFrame")
        self.setCentralWidget(self._viewport)
        self.statusBar()
        self.resize(1280, 800)

    def moduleSelector(self) -> ModuleSelector:
        return self._selector

    def viewport(self) -> QtWidgets.QWidget:
        return self._viewport

    def dock(self) -> QtWidgets.QDockWidget:
        return self._dock

    def closeEvent(self, event: QtCore.QEvent) -> None:
        event.accept()
