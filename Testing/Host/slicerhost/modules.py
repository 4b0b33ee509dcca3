"""Scripted modules: loading the file, its panel, entering and leaving, and function stand-ins for CLI modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets

from .core import CoreModule, register_module
from .nodewidgets import qMRMLWidget


class qSlicerScriptedLoadableModule(QtCore.QObject):
    """One scripted module; what its Python class gets as ``parent``."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = str(Path(path).resolve())
        name = Path(path).stem
        self.setObjectName(name)
        self.title = self.helpText = self.acknowledgementText = ""
        self.categories: list[str] = []
        self.dependencies: list[str] = []
        self.contributors: list[str] = []
        self.associatedNodeTypes: list[str] = []
        self.icon: Any = None
        self.hidden = False
        self.widgetRepresentationCreationEnabled = True
        self._panel: qSlicerScriptedLoadableModuleWidget | None = None
        module = _import(name, self.path)
        self._instance = getattr(module, name)(self)
        register_module(self)
        setattr(slicer.modules, f"{name}Instance", self._instance)
        slicer.app.moduleManager().modules[name] = self
        slicer.app.moduleManager().moduleLoaded.emit(name)

    def self(self) -> Any:
        return self._instance

    def logic(self) -> None:
        return None

    def createNewWidgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        return qSlicerScriptedLoadableModuleWidget(self)

    def widgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget:
        if self._panel is None:
            self._panel = self.createNewWidgetRepresentation()
        return self._panel

    def unload(self) -> None:
        """What Slicer does when it quits: the panel's ``cleanup`` runs."""
        slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(self.objectName())


def _import(name: str, path: str) -> Any:
    folder = str(Path(path).parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The panel of a scripted module; what its Python widget class gets as ``parent``."""

    def __init__(self, module: qSlicerScriptedLoadableModule) -> None:
        super().__init__()
        self._module = module
        self.isEntered = False
        QtWidgets.QVBoxLayout(self)
        self.setMRMLScene(slicer.mrmlScene)
        self.reload()

    def reload(self) -> None:
        """Instantiate the Python widget class (again) and set it up."""
        name = self._module.objectName()
        self._widget = getattr(sys.modules[name], f"{name}Widget")(self)
        setattr(slicer.modules, f"{name}Widget", self._widget)
        self._widget.setup()

    def self(self) -> Any:
        return self._widget

    def module(self) -> qSlicerScriptedLoadableModule:
        return self._module

    def enter(self) -> None:
        self.isEntered = True
        getattr(self._widget, "enter", lambda: None)()

    def exit(self) -> None:
        self.isEntered = False
        getattr(self._widget, "exit", lambda: None)()


class CLINode(slicer.vtkMRMLCommandLineModuleNode):
    """A CLI node that keeps parameters: the wheel cannot describe a CLI from Python, so the C++ node drops them."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def SetParameterAsString(self, name: str, value: Any) -> None:
        self.values[name] = value

    SetParameterAsBool = SetParameterAsInt = SetParameterAsDouble = SetParameterAsFloat = SetParameterAsString

    def SetParameterAsNode(self, name: str, node: Any) -> None:
        self.values[name] = node.GetID()

    def GetParameterAsString(self, name: str) -> str:
        return str(self.values.get(name, ""))


class FunctionModule(CoreModule):
    """A CLI module whose work a Python function ``function(values: dict, update_display: bool)`` does."""

    def __init__(self, name: str, function: Callable[[dict[str, Any], bool], None]) -> None:
        super().__init__(name, None)
        self._function = function
        register_module(self)

    def logic(self) -> FunctionModule:
        return self

    def CreateNodeInScene(self) -> CLINode:
        node = CLINode()
        node.values = {}
        node.SetName(self.name)
        slicer.mrmlScene.AddNode(node)
        return node

    def SetDeleteTemporaryFiles(self, _delete: bool) -> None:
        """Nothing is written."""

    def SetHideWindow(self, _hide: bool) -> None:
        """There is no console window."""

    def ApplyAndWait(self, node: CLINode, update_display: bool = True) -> None:
        self._function(node.values, update_display)
        node.SetStatus(node.Completed)

    Apply = ApplyAndWait


slicer.qSlicerScriptedLoadableModule = qSlicerScriptedLoadableModule
slicer.qSlicerScriptedLoadableModuleWidget = qSlicerScriptedLoadableModuleWidget
