"""The 3D Slicer module DiffPoseSlicer: where the C-arm stood, from one fluoroscopy and the patient's CT.

Thin: the panel's behaviour is in DiffPoseSlicerLib.panel, the scene's in DiffPoseSlicerLib.scene.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from DiffPoseSlicerLib.engine.client import EngineClient
from DiffPoseSlicerLib.scene.logic import SceneLogic


def resourcesDir() -> str:
    """The folder with the panel and the icons: beside this file where installed, one level up in the source tree."""
    here = os.path.dirname(os.path.abspath(__file__))
    beside = os.path.join(here, "Resources")
    if os.path.isfile(os.path.join(beside, "UI", "DiffPoseSlicer.ui")):
        return beside
    return os.path.join(os.path.dirname(here), "Resources")


class DiffPoseSlicer(ScriptedLoadableModule):
    """What Slicer shows of the module."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("DiffPoseSlicer")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        parent.dependencies = []
        parent.contributors = ["The DiffPoseSlicer contributors"]
        parent.helpText = _(
            "Finds the pose of a C-arm relative to the patient's CT from a fluoroscopy: choose both images, then press "
            "Register. Preparing the patient beforehand makes it faster and safer. Not for clinical use."
        )
        parent.acknowledgementText = _(
            "The method follows V. Gopalakrishnan, N. Dey and P. Golland: Intraoperative 2D/3D Image Registration via "
            "Differentiable X-ray Rendering, CVPR 2024."
        )
        icon = self.resourcePath("Icons/DiffPoseSlicer.svg")
        if os.path.isfile(icon):
            parent.icon = qt.QIcon(icon)

    def resourcePath(self, filename: str) -> str:
        """The path of a file in Resources."""
        return os.path.join(resourcesDir(), filename)


class DiffPoseSlicerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: loads the .ui file and follows the life of module and scene."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: Any = None
        self.panel: Any = None

    def resourcePath(self, filename: str) -> str:
        """The path of a file in Resources."""
        return os.path.join(resourcesDir(), filename)

    def setup(self) -> None:
        """Called once, when the module is opened for the first time."""
        from DiffPoseSlicerLib.panel.panel import Panel

        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/DiffPoseSlicer.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = DiffPoseSlicerLogic()
        self.panel = Panel(self.ui, uiWidget, self.logic)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        slicer.app.connect("aboutToQuit()", self.onAboutToQuit)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when Slicer quits or the module is reloaded."""
        slicer.app.disconnect("aboutToQuit()", self.onAboutToQuit)
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()
        self.panel = None

    def onAboutToQuit(self) -> None:
        """Slicer quits: end the engine's process while there still is an event loop."""
        if self.panel is not None:
            self.panel.close()
            self.panel = None

    def enter(self) -> None:
        """Called whenever the module is shown."""
        self.initializeParameterNode()
        self.panel.enter()

    def exit(self) -> None:
        """Called whenever another module is shown."""
        if self.panel is not None:
            self.panel.exit()

    def onSceneStartClose(self, caller: Any, event: Any) -> None:
        """The scene is about to be closed."""
        if self.panel is not None:
            self.panel.scene_closes()

    def onSceneEndClose(self, caller: Any, event: Any) -> None:
        """The scene was closed: start anew if the panel is on the screen."""
        if self.panel is not None and self.parent.isEntered:
            self.initializeParameterNode()
            self.panel.enter()

    def onSceneEndImport(self, caller: Any, event: Any) -> None:
        """A scene was loaded: take over what it brings."""
        if self.panel is not None:
            self.panel.set_parameters(None)
            self.initializeParameterNode()
            if self.parent.isEntered:
                self.panel.enter()

    def initializeParameterNode(self) -> None:
        """Make sure that the panel has the scene's parameter node."""
        if self.panel is not None and self.panel.parameters is None:
            self.panel.set_parameters(self.logic.getParameterNode())

    def onReload(self) -> None:
        """Developer mode: reload the library along with this file."""
        for name in [name for name in sys.modules if name.split(".")[0] == "DiffPoseSlicerLib"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        ScriptedLoadableModuleWidget.onReload(self)


class DiffPoseSlicerLogic(SceneLogic, ScriptedLoadableModuleLogic):
    """For the Python console and for scripts: everything is in DiffPoseSlicerLib.scene.logic.SceneLogic."""

    def __init__(self) -> None:
        from DiffPoseSlicerLib.panel.transport import QProcessTransport

        ScriptedLoadableModuleLogic.__init__(self)
        self.transport = QProcessTransport()
        SceneLogic.__init__(self, slicer.mrmlScene, EngineClient(self.transport))

    def getParameterNode(self) -> Any:
        """The settings of the panel, stored in the scene."""
        from DiffPoseSlicerLib.panel.parameters import Parameters

        wrapper: Any = Parameters
        return wrapper(super().getParameterNode())

    def idle(self) -> None:
        """A call that waits lets Slicer live meanwhile: views move, the engine's answers come in."""
        self.transport.wait(0.003)
        slicer.app.processEvents()


class DiffPoseSlicerTest(ScriptedLoadableModuleTest):
    """The self-test that Slicer runs: the panel opens and says what it needs."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        self.setUp()
        self.test_panel_opens()

    def test_panel_opens(self) -> None:
        """The module opens, registers nothing without images, and says why."""
        slicer.util.selectModule("DiffPoseSlicer")
        widget = slicer.util.getModuleWidget("DiffPoseSlicer")
        self.assertFalse(widget.ui.registerButton.enabled)
        self.assertTrue(widget.ui.registerButton.toolTip)
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        image = vtk.vtkImageData()
        image.SetDimensions(8, 8, 8)
        image.AllocateScalars(vtk.VTK_SHORT, 1)
        volume.SetAndObserveImageData(image)
        widget.panel.parameters.ct = volume
        self.assertIn("8 x 8 x 8", widget.ui.ctInfoLabel.text)
        self.delayDisplay("The panel opens.")
