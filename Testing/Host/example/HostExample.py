"""A scripted module that uses what the host offers: the tests run it on the host's Python files and on Slicer's own."""

import enum
import pathlib
from typing import Annotated, Optional

import qt
import slicer
import vtk
from slicer import vtkMRMLMarkupsFiducialNode, vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import (
    Choice,
    Decimals,
    Default,
    FloatRange,
    Maximum,
    Minimum,
    RangeBounds,
    SingleStep,
    WithinRange,
    parameterNodeWrapper,
    parameterPack,
)
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class HostExample(ScriptedLoadableModule):
    """The module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Host Example")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Testing")]


class Quality(enum.Enum):
    """An enumeration with labels of its own."""

    QUICK = 1
    STANDARD = 2

    def label(self):
        return self.name.capitalize()


@parameterPack
class Box:
    """Parameters that belong together."""

    size: Annotated[float, WithinRange(0, 10)] = 2.0
    title: str = "box"


@parameterNodeWrapper
class HostExampleParameterNode:
    """One parameter of each kind."""

    volume: vtkMRMLScalarVolumeNode
    landmarks: Optional[vtkMRMLMarkupsFiducialNode]  # noqa: UP045  (what Slicer's modules write)
    enabled: bool = True
    angle: Annotated[float, WithinRange(-90, 90), Decimals(1), SingleStep(5)] = 30
    count: Annotated[int, Minimum(1), Maximum(20), Default(4)]
    comment: str = "none"
    folder: pathlib.Path
    quality: Quality = Quality.STANDARD
    view: Annotated[str, Choice(["AP", "PA", "LEFT_LATERAL"])] = "AP"
    window: Annotated[FloatRange, RangeBounds(0, 100), Default(FloatRange(10, 90))]
    names: list[str]
    box: Box


class HostExampleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._guiTag = None
        self.calls = []

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/HostExample.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = HostExampleLogic()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.initializeParameterNode()

    def cleanup(self):
        self.calls.append("cleanup")
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        self.calls.append("enter")
        self.initializeParameterNode()

    def exit(self):
        self.calls.append("exit")
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, node):
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._guiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onModified)
        self._parameterNode = node
        if node is not None:
            self._guiTag = node.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.onModified)
            self.onModified()

    def onModified(self, caller=None, event=None):
        self.ui.applyButton.enabled = self._parameterNode.volume is not None
        self.ui.applyButton.toolTip = "" if self.ui.applyButton.enabled else _("Choose a volume")

    def onApply(self):
        with slicer.util.tryWithErrorDisplay(_("Failed."), waitCursor=True):
            self.ui.statusLabel.text = self.logic.describe(self._parameterNode)


class HostExampleLogic(ScriptedLoadableModuleLogic):
    """The computation."""

    def getParameterNode(self):
        return HostExampleParameterNode(super().getParameterNode())

    def describe(self, parameters):
        if parameters.count == 13:
            raise ValueError("13 is refused")
        return f"{parameters.volume.GetName()} at {parameters.angle:.0f} degrees"


class HostExampleTest(ScriptedLoadableModuleTest):
    """The self-test."""

    def test_logic(self):
        parameters = HostExampleLogic().getParameterNode()
        parameters.volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "V")
        self.delayDisplay("described")
        self.assertEqual(HostExampleLogic().describe(parameters), "V at 30 degrees")
        self.assertTrue(qt.QLabel("a").text == "a")
