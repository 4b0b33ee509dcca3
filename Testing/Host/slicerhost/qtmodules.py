"""The modules ``qt`` and ``ctk`` that Slicer's Python code imports, and the loader of .ui files."""

from __future__ import annotations

import sys
import types
from typing import Any
from xml.etree import ElementTree

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import pythonqt

# class name in a .ui file -> stand-in; filled by ctkwidgets and nodewidgets
custom_widgets: dict[str, type[QtWidgets.QWidget]] = {}


class QUiLoader(QtUiTools.QUiLoader):
    """PySide6's loader with the stand-ins for CTK and MRML widgets.

    The ``<connections>`` of a .ui file are made here, by name: PySide6 cannot match signatures with VTK types. One that
    cannot be made is reported, so a missing ``setMRMLScene`` shows up as it does in Slicer.
    """

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        stand_in = custom_widgets.get(class_name)
        if stand_in is None:
            widget = super().createWidget(class_name, parent, name)
            if widget is None:
                sys.stderr.write(f"QUiLoader: no stand-in for {class_name}\n")
            return widget
        widget = stand_in(parent)
        widget.setObjectName(name)
        self._keep.append(widget)
        return widget

    def load(self, device: Any, parent: Any = None) -> Any:
        self._keep: list[Any] = []
        tree = ElementTree.fromstring(bytes(device.readAll()))
        connections = [{part.tag: part.text for part in connection} for connection in tree.iter("connection")]
        for element in tree.findall("connections"):
            tree.remove(element)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        widget = super().load(buffer, parent)
        if widget is None:
            return None
        for connection in connections:
            sender, receiver = (_find(widget, connection[end]) for end in ("sender", "receiver"))
            if not (
                sender and receiver and pythonqt.connect(sender, connection["signal"], receiver, connection["slot"])
            ):
                sys.stderr.write(f"connection of the .ui file not made: {connection}\n")
        widget._slicerhost_keep = self._keep  # or their Python halves are collected
        return widget


def _find(root: QtWidgets.QWidget, name: str | None) -> Any:
    if root.objectName() == name:
        return root
    return root.findChild(QtCore.QObject, name)


def build_qt() -> types.ModuleType:
    """Patch PySide6 and put the flat ``qt`` module into ``sys.modules``."""
    if "qt" in sys.modules:
        return sys.modules["qt"]
    pythonqt.install()
    qt = types.ModuleType("qt")
    for module in pythonqt.QT_MODULES:
        for name, value in pythonqt.members(module):
            if name.startswith("Q") or name == "qVersion":  # Signal, Slot and Property do not exist in PythonQt
                setattr(qt, name, value)
    qt.QUiLoader = QUiLoader
    qt.Qt = QtCore.Qt
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
    sys.modules["qt"] = qt
    return qt


def build_ctk() -> types.ModuleType:
    """Put the ``ctk`` module into ``sys.modules``."""
    if "ctk" in sys.modules:
        return sys.modules["ctk"]
    from . import ctkwidgets

    ctk = types.ModuleType("ctk")
    for name, value in vars(ctkwidgets).items():
        if name.startswith("ctk"):
            setattr(ctk, name, value)
            if issubclass(value, QtWidgets.QWidget):
                custom_widgets[name] = value
    sys.modules["ctk"] = ctk
    return ctk
