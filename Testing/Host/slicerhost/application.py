"""``slicer.app``: the parts of qSlicerApplication that scripted modules and ``slicer.util`` use."""

from __future__ import annotations

import sys
import types
from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets

from .core import Core
from .dicom import DicomDatabase
from .files import IOManager


class ModuleManager(QtCore.QObject):
    """``slicer.app.moduleManager()``, its own factory manager too."""

    moduleLoaded = QtCore.Signal(str)
    modulesLoaded = QtCore.Signal("QStringList")
    moduleAboutToBeUnloaded = QtCore.Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.modules: dict[str, Any] = {}

    def module(self, name: str) -> Any:
        return self.modules.get(name)

    def modulesNames(self) -> tuple[str, ...]:
        return tuple(self.modules)

    def factoryManager(self) -> ModuleManager:
        return self

    def loadedModuleNames(self) -> tuple[str, ...]:
        return tuple(self.modules)

    def isLoaded(self, name: str) -> bool:
        return name in self.modules


class ExtensionsManager:
    """``slicer.app.extensionsManagerModel()``: nothing is installed, and requests are only written down."""

    def __init__(self) -> None:
        self.requested: list[str] = []
        self.interactive = True

    def isExtensionInstalled(self, name: str) -> bool:
        return False

    def installExtensionFromServer(self, name: str, *_options: Any) -> bool:
        self.requested.append(name)
        return True


class Application(QtWidgets.QApplication):
    """The application object. Its settings and temporary folder vanish with the process."""

    startupCompleted = QtCore.Signal()
    mrmlSceneChanged = QtCore.Signal(object)

    applicationName = "Slicer"
    applicationVersion = "5.13.0"
    majorVersion, minorVersion = 5, 13
    revision = "0"
    repositoryUrl = ""
    documentationBaseUrl = "https://slicer.readthedocs.io/en/latest/"

    def __init__(self, core: Core, testing: bool, main_window: bool) -> None:
        super().__init__(sys.argv[:1])
        folder = str(core.temporary)
        self.temporaryPath = self.defaultScenePath = self.slicerHome = self.extensionsInstallPath = folder
        settings = QtCore.QSettings
        for scope in (settings.Scope.UserScope, settings.Scope.SystemScope):
            settings.setPath(settings.Format.IniFormat, scope, folder)
        QtCore.QCoreApplication.setOrganizationName("slicerhost")
        QtCore.QCoreApplication.setApplicationName("Slicer")
        self._settings = settings()
        self._core, self._testing, self._main_window = core, testing, main_window
        self._modules, self._files, self._extensions = ModuleManager(), IOManager(), ExtensionsManager()
        self._layouts: Any = None
        self._paused = 0

    def moduleManager(self) -> ModuleManager:
        return self._modules

    def ioManager(self) -> IOManager:
        return self._files

    def coreIOManager(self) -> IOManager:
        return self._files

    def extensionsManagerModel(self) -> ExtensionsManager:
        return self._extensions

    def layoutManager(self) -> Any:
        return self._layouts

    def setLayoutManager(self, manager: Any) -> None:
        self._layouts = manager

    def applicationLogic(self) -> Any:
        return self._core.application_logic

    def mrmlScene(self) -> Any:
        return self._core.scene

    def testingEnabled(self) -> bool:
        return self._testing

    def setTestingEnabled(self, testing: bool) -> None:
        """Host only: False lets ``slicer.util``'s message boxes appear."""
        self._testing = testing

    def settings(self) -> QtCore.QSettings:
        return self._settings

    userSettings = revisionUserSettings = settings

    def translate(self, _context: str, text: str, *_more: Any) -> str:
        return text

    def startupEnvironment(self) -> Any:
        return QtCore.QProcessEnvironment.systemEnvironment()

    def commandOptions(self) -> Any:
        return types.SimpleNamespace(noMainWindow=not self._main_window, testingEnabled=self._testing)

    def moduleDocumentationUrl(self, name: str) -> str:
        return self.documentationBaseUrl + name

    def errorLogModel(self) -> None:
        return None

    def restart(self) -> None:
        """Slicer would start again; a test only sees that nothing happened."""

    # ------------------------------------------------------------------------------------------------- pausing renders
    @property
    def render_paused(self) -> bool:
        return self._paused > 0

    def pauseRender(self) -> None:
        self._paused += 1

    def resumeRender(self) -> None:
        self._paused -= 1
        if not self._paused and self._layouts is not None:
            for widget in self._layouts.render_widgets():
                widget.scheduleRender()

    def setRenderPaused(self, paused: bool) -> None:
        if paused:
            self.pauseRender()
        else:
            self.resumeRender()


def install_application(core: Core, testing: bool, main_window: bool) -> Application:
    """Create the application object and name it ``slicer.app``; ``slicer.dicomDatabase`` comes with it."""
    slicer.app = Application(core, testing, main_window)
    slicer.dicomDatabase = DicomDatabase()
    for module in core.modules.values():
        slicer.app.moduleManager().modules[module.name] = module
    return slicer.app
