"""The 3D Slicer module DiffPoseSlicer: where the C-arm stood, from one fluoroscopy and the patient's CT.

Thin: the panel's behaviour is in DiffPoseSlicerLib.panel, the scene's in DiffPoseSlicerLib.scene.
"""

from __future__ import annotations

import importlib
import os
import sys
import unittest
from typing import Any

import numpy as np
import qt
import slicer
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
from DiffPoseSlicerLib.scene import sample_data
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
        if hasattr(slicer.modules, "sampledata"):  # loaded into a Slicer that runs
            registerSampleData()
        else:
            slicer.app.connect("startupCompleted()", registerSampleData)

    def resourcePath(self, filename: str) -> str:
        """The path of a file in Resources."""
        return os.path.join(resourcesDir(), filename)


def registerSampleData() -> None:
    """Offer a chest CT, and a fluoroscopy made from it, in Slicer's module Sample Data."""
    try:
        import SampleData
    except ImportError:  # a Slicer without that module
        return
    icon = os.path.join(resourcesDir(), "Icons", "DiffPoseSlicer.png")
    sample_data.register_sources(SampleData.SampleDataLogic, makeSampleFluoroscopy, icon)


def makeSampleFluoroscopy(source: Any) -> Any:
    """Load the sample's CT where the scene lacks it, and make a fluoroscopy of it: the button in Sample Data.

    Args:
        source: The SampleData.SampleDataSource of the CT.

    Returns:
        The fluoroscopy's node, or None where nothing can render and installing was declined.
    """
    import SampleData

    from DiffPoseSlicerLib.panel import packages

    with slicer.util.tryWithErrorDisplay(_("The fluoroscopy could not be made."), waitCursor=False):
        reason = _("The fluoroscopy is rendered from the CT, which needs NVIDIA Warp (or PyTorch).")
        if not packages.can_register() and not packages.install(packages.WARP, reason):
            return None
        ct = sample_data.sample_ct(lambda: SampleData.SampleDataLogic().downloadFromSource(source)[0])
        return sample_data.simulate_fluoroscopy(slicer.util.getModuleLogic("DiffPoseSlicer"), ct)[0]


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
    """The self-test that Slicer runs: the panel opens, and a fluoroscopy of a phantom is registered back to it."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        for test in (self.test_panel_opens, self.test_fluoroscopy_is_registered):
            self.setUp()
            try:
                test()
            except unittest.SkipTest as reason:
                self.delayDisplay(f"Skipped {test.__name__}: {reason}")

    def test_panel_opens(self) -> None:
        """The module opens, registers nothing without images, and says why."""
        slicer.util.selectModule("DiffPoseSlicer")
        widget = slicer.util.getModuleWidget("DiffPoseSlicer")
        self.assertFalse(widget.ui.registerButton.enabled)
        self.assertTrue(widget.ui.registerButton.toolTip)
        widget.panel.parameters.ct = sample_data.phantom_ct()
        self.assertIn("72 x 60 x 80", widget.ui.ctInfoLabel.text)
        self.delayDisplay("The panel opens.")

    def test_fluoroscopy_is_registered(self) -> None:
        """A fluoroscopy rendered from a phantom brings the phantom from the nominal view to where it was taken."""
        logic = slicer.util.getModuleLogic("DiffPoseSlicer")
        machine = logic.client.call("doctor", {})["lines"]
        renderer = next(line for line in machine if line.startswith("renderer")).partition(" ")[2].strip()
        if renderer.startswith("none"):
            self.skipTest(f"rendering and registration need NVIDIA Warp or PyTorch (renderer: {renderer})")
        ct = sample_data.phantom_ct()
        fluoroscopy, truth = sample_data.simulate_fluoroscopy(logic, ct)
        result = logic.register(ct, fluoroscopy, start="view")
        center = np.append(logic.loaded(ct).center, 1.0)
        found = logic.pose(ct, fluoroscopy)  # what the scene shows, not what the result says
        apart = np.linalg.inv(truth.camera_to_ras) @ center - np.linalg.inv(found.camera_to_ras) @ center
        self.assertLess(np.linalg.norm(apart[:2]), 1.0)
        self.assertLess(abs(apart[2]), 5.0)
        turn = truth.camera_to_ras[:3, :3].T @ found.camera_to_ras[:3, :3]
        self.assertGreater(np.trace(turn), 1 + 2 * np.cos(np.deg2rad(1.0)))
        self.assertIsNotNone(ct.GetParentTransformNode())
        millimetres, seconds = np.linalg.norm(apart), result["seconds"]
        self.delayDisplay(f"Registered within {millimetres:.2f} mm in {seconds:.1f} s on {renderer}.")
