"""Stand-ins for the qMRML and qSlicer widgets a panel uses, over the real scene."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import shiboken6
import slicer
import vtk
from PySide6 import QtWidgets
from PySide6.QtCore import Property, Signal

from .qtmodules import custom_widgets


def observe(subject: Any, event: Any, method: Callable[[], None]) -> int:
    """Call a widget's method at a VTK event, for as long as the widget lives. Returns the observer's tag."""
    reference = weakref.WeakMethod(method)

    def call(*_arguments: Any) -> None:
        alive = reference()
        if alive is None or not shiboken6.isValid(alive.__self__):
            subject.RemoveObserver(tag)
        else:
            alive()

    tag = subject.AddObserver(event, call)
    return tag


class SceneObserver:
    """Mixin: ``setMRMLScene`` and a call of ``scene_changed`` when nodes come or go."""

    _scene: Any = None
    _scene_tags: tuple[int, ...] = ()

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        for tag in self._scene_tags:
            self._scene.RemoveObserver(tag)
        self._scene = scene
        self._scene_tags = ()
        if scene is not None:
            events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent, scene.EndCloseEvent)
            self._scene_tags = tuple(observe(scene, event, self._changed) for event in events)
        self.scene_changed()
        if hasattr(self, "mrmlSceneChanged"):
            self.mrmlSceneChanged.emit(scene)

    def _changed(self) -> None:
        if not self._scene.IsBatchProcessing():
            self.scene_changed()

    def scene_changed(self) -> None:
        """Overridden by widgets that list nodes."""


class qMRMLWidget(QtWidgets.QWidget, SceneObserver):
    """The root of a module's .ui file; passes the scene on by its signal."""

    mrmlSceneChanged = Signal(object)


class qSlicerWidget(qMRMLWidget):
    """The same under its other name."""


def _option(name: str, kind: Any) -> tuple[Any, Any]:
    """The Qt property and the setter of one of a node selector's options. A QStringList reads as a tuple (PythonQt)."""
    is_list = kind == "QStringList"

    def get(self: Any) -> Any:
        return tuple(self._options[name]) if is_list else self._options[name]

    def put(self: Any, value: Any) -> None:
        self._options[name] = list(value) if is_list else value
        self.scene_changed()

    return Property(kind, get, put), put


class qMRMLNodeComboBox(QtWidgets.QWidget, SceneObserver):
    """Selector of one node among those of given types."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeActivated = Signal(object)
    nodeAboutToBeRemoved = Signal(object)

    _ADD, _REMOVE, _RENAME = "+", "-", "~"  # item data of the commands below the nodes

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._options: dict[str, Any] = {
            "nodeTypes": [],
            "hideChildNodeTypes": [],
            "showHidden": False,
            "showChildNodeTypes": True,
            "baseName": "",
            "noneEnabled": False,
            "noneDisplay": "None",
            "addEnabled": True,
            "removeEnabled": True,
            "editEnabled": False,
            "renameEnabled": False,
            "selectNodeUponCreation": True,
        }
        self._attributes: list[tuple[str, str, Any]] = []
        self._current: Any = None
        self._current_tag = 0
        self._filling = False
        self._combo = QtWidgets.QComboBox()
        self._combo.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._combo.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._combo.setMinimumContentsLength(12)
        self._combo.activated.connect(self._activated)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self.setFocusProxy(self._combo)

    # -------------------------------------------------------------------------------------------------------- the list
    def addAttribute(self, node_type: str, name: str, value: Any = None) -> None:
        self._attributes.append((node_type, name, value))
        self.scene_changed()

    def removeAttribute(self, node_type: str, name: str) -> None:
        self._attributes = [entry for entry in self._attributes if entry[:2] != (node_type, name)]
        self.scene_changed()

    def setNodeTypeLabel(self, label: str, node_type: str) -> None:
        """Slicer shows the label in "Create new ..."; the host shows the class name."""

    def _accepts(self, node: Any) -> bool:
        options, types = self._options, self._options["nodeTypes"]
        if options["showChildNodeTypes"]:
            fits = not types or any(node.IsA(name) for name in types)
        else:
            fits = node.GetClassName() in types
        if not fits or any(node.IsA(name) for name in options["hideChildNodeTypes"]):
            return False
        if node.GetHideFromEditors() and not options["showHidden"]:
            return False
        for node_type, name, value in self._attributes:
            found = node.GetAttribute(name)
            if node.IsA(node_type) and (found is None or (value is not None and found != str(value))):
                return False
        return True

    def _nodes(self) -> list[Any]:
        if self._scene is None:
            return []
        nodes = self._scene.GetNodes()
        every = (nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems()))
        return [node for node in every if self._accepts(node)]

    def scene_changed(self) -> None:
        if self._filling:
            return
        nodes = self._nodes()
        self._filling = True
        self._fill(nodes)
        self._filling = False
        self._select(self._current if self._current in nodes else None)  # as in Slicer, nothing is chosen by itself

    def _fill(self, nodes: list[Any]) -> None:
        options, label = self._options, "/".join(map(_label, self._options["nodeTypes"])) or "node"
        self._combo.clear()
        if options["noneEnabled"]:
            self._combo.addItem(options["noneDisplay"], None)
        elif not nodes:
            self._combo.addItem(f"Select a {label}", None)
        for node in nodes:
            self._combo.addItem(node.GetName(), node.GetID())
        if options["renameEnabled"]:
            self._combo.addItem(f"Rename current {label}", self._RENAME)
        if options["addEnabled"]:
            for name in options["nodeTypes"]:
                self._combo.addItem(f"Create new {_label(name)}", self._ADD + name)
        if options["removeEnabled"]:
            self._combo.addItem(f"Delete current {label}", self._REMOVE)

    def _select(self, node: Any) -> None:
        if node is None:
            self._combo.setCurrentIndex(max(self._combo.findData(None), 0) if self._combo.itemData(0) is None else -1)
        else:
            self._combo.setCurrentIndex(self._combo.findData(node.GetID()))
        if node is self._current:
            return
        if self._current is not None:
            self._current.RemoveObserver(self._current_tag)
        self._current = node
        if node is not None:
            self._current_tag = observe(node, vtk.vtkCommand.ModifiedEvent, self._retitle)
        self.currentNodeChanged.emit(node)
        self.currentNodeIDChanged.emit(node.GetID() if node is not None else "")

    def _retitle(self) -> None:
        node_id = self._current.GetID() if self._current is not None else None
        index = self._combo.findData(node_id) if node_id else -1
        if index >= 0 and self._combo.itemText(index) != self._current.GetName():
            self._combo.setItemText(index, self._current.GetName())

    def _activated(self, index: int) -> None:
        data = self._combo.itemData(index) or ""
        if data.startswith(self._ADD):
            self.addNode(data[1:])
        elif data == self._REMOVE:
            self.removeCurrentNode()
        elif data == self._RENAME:
            self.renameCurrentNode()
        else:
            node = self._scene.GetNodeByID(data) if data else None
            self._select(node)
            self.nodeActivated.emit(node)

    # ---------------------------------------------------------------------------------------------------- Slicer's API
    def addNode(self, class_name: str | None = None) -> Any:
        name = class_name or self._options["nodeTypes"][0]
        node = self._scene.AddNewNodeByClass(
            name, self._scene.GenerateUniqueName(self._options["baseName"] or _label(name))
        )
        for node_type, attribute, value in self._attributes:
            if node.IsA(node_type):
                node.SetAttribute(attribute, "" if value is None else str(value))
        self.scene_changed()
        if self._options["selectNodeUponCreation"]:
            self._select(node)
        self.nodeAdded.emit(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        if self._current is not None:
            self.nodeAboutToBeRemoved.emit(self._current)
            self._scene.RemoveNode(self._current)
        self.scene_changed()

    def renameCurrentNode(self) -> None:
        if self._current is not None:
            name, accepted = QtWidgets.QInputDialog.getText(self, "Rename", "New name:", text=self._current.GetName())
            if accepted:
                self._current.SetName(name)
        self.scene_changed()

    def currentNode(self) -> Any:
        return self._current

    def setCurrentNode(self, node: Any) -> None:
        if isinstance(node, str):
            node = self._scene.GetNodeByID(node) if node and self._scene else None
        self._select(node if node is not None and self._accepts(node) else None)

    def setCurrentNodeIndex(self, index: int) -> None:
        nodes = self._nodes()
        self._select(nodes[index] if 0 <= index < len(nodes) else None)

    def nodeCount(self) -> int:
        return len(self._nodes())

    def nodeFromIndex(self, index: int) -> Any:
        return self._nodes()[index]

    def setCurrentNodeID(self, node_id: str) -> None:
        self.setCurrentNode(node_id or None)

    currentNodeID = Property(
        str,
        lambda self: self._current.GetID() if self._current is not None else "",
        setCurrentNodeID,
        notify=currentNodeIDChanged,
    )
    nodeTypes, setNodeTypes = _option("nodeTypes", "QStringList")
    hideChildNodeTypes, setHideChildNodeTypes = _option("hideChildNodeTypes", "QStringList")
    showHidden, setShowHidden = _option("showHidden", bool)
    showChildNodeTypes, setShowChildNodeTypes = _option("showChildNodeTypes", bool)
    baseName, setBaseName = _option("baseName", str)
    noneEnabled, setNoneEnabled = _option("noneEnabled", bool)
    noneDisplay, setNoneDisplay = _option("noneDisplay", str)
    addEnabled, setAddEnabled = _option("addEnabled", bool)
    removeEnabled, setRemoveEnabled = _option("removeEnabled", bool)
    editEnabled, setEditEnabled = _option("editEnabled", bool)
    renameEnabled, setRenameEnabled = _option("renameEnabled", bool)
    selectNodeUponCreation, setSelectNodeUponCreation = _option("selectNodeUponCreation", bool)


def _label(class_name: str) -> str:
    return class_name.replace("vtkMRML", "").replace("Node", "")


class qMRMLSegmentSelectorWidget(qMRMLWidget):
    """Selector of a segmentation and of one of its segments."""

    currentNodeChanged = Signal(object)
    currentSegmentChanged = Signal(str)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._nodes = qMRMLNodeComboBox()
        self._nodes.setNodeTypes(["vtkMRMLSegmentationNode"])
        self._nodes.setNoneEnabled(True)
        self._nodes.setAddEnabled(False)
        self._nodes.setRemoveEnabled(False)
        self._segments = QtWidgets.QComboBox()
        self._segment = ""
        self._none_enabled = True
        self._tags: list[tuple[Any, int]] = []
        layout.addWidget(self._nodes, 1)
        layout.addWidget(self._segments, 1)
        self._nodes.currentNodeChanged.connect(self._node_changed)
        self._segments.activated.connect(lambda index: self.setCurrentSegmentID(self._segments.itemData(index) or ""))

    def setMRMLScene(self, scene: Any) -> None:
        super().setMRMLScene(scene)
        self._nodes.setMRMLScene(scene)

    def _node_changed(self, node: Any) -> None:
        for segmentation, tag in self._tags:
            segmentation.RemoveObserver(tag)
        segmentation = node.GetSegmentation() if node is not None else None
        self._tags = []
        if segmentation is not None:
            for event in (segmentation.SegmentAdded, segmentation.SegmentRemoved, segmentation.SegmentModified):
                self._tags.append((segmentation, observe(segmentation, event, self._fill)))
        self._fill()
        self.currentNodeChanged.emit(node)

    def _fill(self) -> None:
        self._segments.clear()
        if self._none_enabled:
            self._segments.addItem("None", "")
        for segment_id in self.segmentIDs():
            segment = self._nodes.currentNode().GetSegmentation().GetSegment(segment_id)
            self._segments.addItem(segment.GetName(), segment_id)
        self.setCurrentSegmentID(self._segment if self._segment in self.segmentIDs() else "")

    def segmentIDs(self) -> tuple[str, ...]:
        node = self._nodes.currentNode()
        return tuple(node.GetSegmentation().GetSegmentIDs()) if node is not None else ()

    def currentNode(self) -> Any:
        return self._nodes.currentNode()

    def setCurrentNode(self, node: Any) -> None:
        self._nodes.setCurrentNode(node)

    def setCurrentNodeID(self, node_id: str) -> None:
        self._nodes.setCurrentNodeID(node_id)

    def currentNodeID(self) -> str:
        node = self._nodes.currentNode()
        return node.GetID() if node is not None else ""

    def currentSegmentID(self) -> str:
        return self._segment

    def setCurrentSegmentID(self, segment_id: str) -> None:
        self._segments.setCurrentIndex(self._segments.findData(segment_id))
        if segment_id != self._segment:
            self._segment = segment_id
            self.currentSegmentChanged.emit(segment_id)

    def _set_none_enabled(self, enabled: bool) -> None:
        self._none_enabled = enabled
        self._fill()

    noneEnabled = Property(bool, lambda self: self._none_enabled, _set_none_enabled)
    setNoneEnabled = _set_none_enabled
    segmentationNodeSelectorVisible = Property(
        bool, lambda self: not self._nodes.isHidden(), lambda self, value: self._nodes.setVisible(value)
    )


def install() -> None:
    """Make the widgets available as ``slicer.qMRML...`` and to .ui files."""
    from . import morewidgets

    for name, value in {**globals(), **vars(morewidgets)}.items():
        if name.startswith(("qMRML", "qSlicer")):
            setattr(slicer, name, value)
            if issubclass(value, QtWidgets.QWidget):
                custom_widgets[name] = value
