"""Stand-ins for the markups, sequence and unit-aware widgets, over the real scene."""

from __future__ import annotations

from typing import Any

import vtk
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal

from . import ctkwidgets
from .nodewidgets import SceneObserver, observe, qMRMLNodeComboBox, qMRMLWidget, qSlicerWidget


class qSlicerSimpleMarkupsWidget(qSlicerWidget):
    """A markups node with a table of its control points and a button to place them."""

    markupsNodeChanged = Signal()
    markupsFiducialNodeChanged = Signal()
    currentMarkupsControlPointSelectionChanged = Signal(int)
    updateFinished = Signal()

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._selector = qMRMLNodeComboBox()
        self._selector.setNodeTypes(["vtkMRMLMarkupsFiducialNode"])
        self._table = QtWidgets.QTableWidget(0, 4)
        self._table.setHorizontalHeaderLabels(["Label", "R", "A", "S"])
        self._place = qSlicerMarkupsPlaceWidget()
        self._tag = 0
        self._observed: Any = None
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        row = QtWidgets.QHBoxLayout()
        row.addWidget(self._selector, 1)
        row.addWidget(self._place)
        layout.addLayout(row)
        layout.addWidget(self._table)
        self._selector.currentNodeChanged.connect(self._node_changed)
        self._table.itemSelectionChanged.connect(
            lambda: self.currentMarkupsControlPointSelectionChanged.emit(self._table.currentRow())
        )

    def setMRMLScene(self, scene: Any) -> None:
        super().setMRMLScene(scene)
        self._selector.setMRMLScene(scene)
        self._place.setMRMLScene(scene)

    def _node_changed(self, node: Any) -> None:
        if self._observed is not None:
            self._observed.RemoveObserver(self._tag)
        self._observed = node
        if node is not None:
            self._tag = observe(node, vtk.vtkCommand.AnyEvent, self._fill)
        self._place.setCurrentNode(node)
        self._fill()
        self.markupsNodeChanged.emit()
        self.markupsFiducialNodeChanged.emit()

    def _fill(self) -> None:
        node = self._observed
        count = node.GetNumberOfControlPoints() if node is not None else 0
        self._table.setRowCount(count)
        for row in range(count):
            texts = [
                node.GetNthControlPointLabel(row),
                *(f"{x:.1f}" for x in node.GetNthControlPointPositionWorld(row)),
            ]
            for column, text in enumerate(texts):
                item = self._table.item(row, column)
                if item is None:
                    self._table.setItem(row, column, QtWidgets.QTableWidgetItem(text))
                elif item.text() != text:
                    item.setText(text)
        self.updateFinished.emit()

    def markupsSelectorComboBox(self) -> qMRMLNodeComboBox:
        return self._selector

    def markupsPlaceWidget(self) -> qSlicerMarkupsPlaceWidget:
        return self._place

    def tableWidget(self) -> QtWidgets.QTableWidget:
        return self._table

    def currentNode(self) -> Any:
        return self._selector.currentNode()

    def setCurrentNode(self, node: Any) -> None:
        self._selector.setCurrentNode(node)

    def getCurrentNode(self) -> Any:
        return self.currentNode()


class qSlicerMarkupsPlaceWidget(qSlicerWidget):
    """The button that turns mouse clicks in the views into control points of the current node."""

    activeMarkupsPlaceModeChanged = Signal(bool)
    (
        ShowPlaceMultipleMarkupsOption,
        HidePlaceMultipleMarkupsOption,
        ForcePlaceSingleMarkup,
        ForcePlaceMultipleMarkups,
    ) = range(4)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._persistent = False
        self._multiple = self.ShowPlaceMultipleMarkupsOption
        self._button = QtWidgets.QToolButton()
        self._button.setText("Place")
        self._button.setCheckable(True)
        self._button.toggled.connect(self.setPlaceModeEnabled)
        self._delete = QtWidgets.QToolButton()
        self._delete.setText("Delete")
        self._delete.clicked.connect(self.deleteAllPoints)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._button)
        layout.addWidget(self._delete)
        self.setCurrentNode(None)

    def setMRMLScene(self, scene: Any) -> None:
        super().setMRMLScene(scene)
        interaction = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton") if scene is not None else None
        if interaction is not None:
            self._interaction = interaction
            observe(interaction, vtk.vtkCommand.ModifiedEvent, self._refresh)

    def _refresh(self) -> None:
        active = self._place_mode()
        if active != self._button.isChecked():
            self._button.blockSignals(True)
            self._button.setChecked(active)
            self._button.blockSignals(False)
        self.activeMarkupsPlaceModeChanged.emit(active)

    def _place_mode(self) -> bool:
        if self._scene is None or self._node is None:
            return False
        selection = self._scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
        placing = self._interaction.GetCurrentInteractionMode() == self._interaction.Place
        return placing and selection.GetActivePlaceNodeID() == self._node.GetID()

    def setPlaceModeEnabled(self, enabled: bool) -> None:
        if self._scene is None or self._node is None:
            return
        selection = self._scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
        if enabled:
            selection.SetReferenceActivePlaceNodeClassName(self._node.GetClassName())
            selection.SetActivePlaceNodeID(self._node.GetID())
            self._interaction.SetPlaceModePersistence(self._persistent)
            self._interaction.SetCurrentInteractionMode(self._interaction.Place)
        else:
            self._interaction.SetCurrentInteractionMode(self._interaction.ViewTransform)
        self._refresh()

    def setPlaceModePersistency(self, persistent: bool) -> None:
        self._persistent = persistent

    def setPlaceMultipleMarkups(self, option: int) -> None:
        self._multiple = option
        self._persistent = option == self.ForcePlaceMultipleMarkups

    def currentNode(self) -> Any:
        return self._node

    def setCurrentNode(self, node: Any) -> None:
        self._node = node
        for button in (self._button, self._delete):
            button.setEnabled(node is not None)

    def placeButton(self) -> QtWidgets.QToolButton:
        return self._button

    def deleteButton(self) -> QtWidgets.QToolButton:
        return self._delete

    def deleteAllPoints(self) -> None:
        if self._node is not None:
            self._node.RemoveAllControlPoints()

    placeModeEnabled = Property(bool, _place_mode, setPlaceModeEnabled)
    placeModePersistency = Property(bool, lambda self: self._persistent, setPlaceModePersistency)
    placeMultipleMarkups = Property(int, lambda self: self._multiple, setPlaceMultipleMarkups)


class qMRMLSequenceBrowserPlayWidget(qMRMLWidget):
    """First, previous, play, next, last for a sequence browser node."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for text, action in (
            ("|<", lambda node: node.SelectFirstItem()),
            ("<", lambda node: node.SelectNextItem(-1)),
            (">", lambda node: node.SelectNextItem(1)),
            (">|", lambda node: node.SelectLastItem()),
        ):
            button = QtWidgets.QToolButton()
            button.setText(text)
            button.clicked.connect(lambda _checked=False, action=action: self._node is not None and action(self._node))
            layout.addWidget(button)

    def setMRMLSequenceBrowserNode(self, node: Any) -> None:
        self._node = node

    def mrmlSequenceBrowserNode(self) -> Any:
        return self._node


class qMRMLSequenceBrowserSeekWidget(qMRMLWidget):
    """A slider over the items of a sequence browser node."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._tag = 0
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self._slider.valueChanged.connect(lambda v: self._node is not None and self._node.SetSelectedItemNumber(v))
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)

    def setMRMLSequenceBrowserNode(self, node: Any) -> None:
        if self._node is not None:
            self._node.RemoveObserver(self._tag)
        self._node = node
        if node is not None:
            self._tag = observe(node, vtk.vtkCommand.ModifiedEvent, self._refresh)
        self._refresh()

    def _refresh(self) -> None:
        count = self._node.GetNumberOfItems() if self._node is not None else 0
        self._slider.setEnabled(count > 0)
        if count:
            self._slider.setRange(0, count - 1)
            self._slider.setValue(self._node.GetSelectedItemNumber())

    def slider(self) -> QtWidgets.QSlider:
        return self._slider


class qMRMLSubjectHierarchyComboBox(qMRMLWidget):
    """Can be put into a panel, and keeps an item; lists nothing."""

    currentItemChanged = Signal("qint64")
    _item = 0

    def currentItem(self) -> int:
        return self._item

    def setCurrentItem(self, item: int) -> None:
        if item != self._item:
            self._item = item
            self.currentItemChanged.emit(item)


class qMRMLSubjectHierarchyTreeView(qMRMLSubjectHierarchyComboBox):
    """The same as a tree."""


class qMRMLSliderWidget(ctkwidgets.ctkSliderWidget, SceneObserver):
    """A slider that knows the scene's units."""

    quantity = Property(str, lambda self: "", lambda self, value: None)


class qMRMLSpinBox(ctkwidgets.ctkDoubleSpinBox, SceneObserver):
    """A spin box that knows the scene's units."""

    quantity = Property(str, lambda self: "", lambda self, value: None)


class qMRMLRangeWidget(ctkwidgets.ctkRangeWidget, SceneObserver):
    """A range that knows the scene's units."""

    quantity = Property(str, lambda self: "", lambda self, value: None)


class qMRMLCoordinatesWidget(ctkwidgets.ctkCoordinatesWidget, SceneObserver):
    """Coordinates that know the scene's units."""

    quantity = Property(str, lambda self: "", lambda self, value: None)


class qMRMLScreenShotDialog:
    """The constants that ScriptedLoadableModuleTest.takeScreenshot names."""

    FullLayout, ThreeD, Red, Yellow, Green = -1, 0, 1, 2, 3
