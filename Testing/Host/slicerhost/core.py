"""The MRML side of Slicer without Qt: one scene, its singleton nodes, the application logic and the module logics.

After ``start_core()`` code written for Slicer's Python console finds ``slicer.mrmlScene``, ``slicer.modules.volumes``
and the other loadable modules' logics. ``slicer.app`` stays absent, as in PythonSlicer, until ``slicerhost.app`` runs.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The VTK wheels pick X11 when DISPLAY is set. Views here are never shown by VTK itself, so ask for EGL, which needs no
# display; a value given by the user (vtkOSOpenGLRenderWindow, say) wins.
if sys.platform.startswith("linux"):
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

import slicer
import slicer_core
import vtk
import vtkmodules.vtkInteractionStyle
import vtkmodules.vtkRenderingContextOpenGL2
import vtkmodules.vtkRenderingFreeType
import vtkmodules.vtkRenderingVolumeOpenGL2  # noqa: F401  (the last four register VTK's implementation classes)

from . import presets

# module name -> class of its C++ logic, in an order that satisfies their dependencies
MODULE_LOGICS = {
    "Units": "vtkSlicerUnitsLogic",
    "Colors": "vtkSlicerColorLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Models": "vtkSlicerModelsLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
    "Cameras": "vtkSlicerCamerasModuleLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Texts": "vtkSlicerTextsLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "ViewControllers": "vtkSlicerViewControllersLogic",
}

# data nodes that get an item in the subject hierarchy by themselves, as Slicer's Qt plugins arrange it
_HIERARCHY_CLASSES = (
    "vtkMRMLDisplayableNode",
    "vtkMRMLTextNode",
    "vtkMRMLTableNode",
    "vtkMRMLPlotSeriesNode",
    "vtkMRMLPlotChartNode",
    "vtkMRMLSequenceBrowserNode",
    "vtkMRMLSequenceNode",
)


class CoreModule:
    """Stands for a loadable C++ module: ``slicer.modules.volumes`` and the like. It has a logic and no panel."""

    def __init__(self, name: str, logic: Any) -> None:
        self.name = self.title = self.objectName = name
        self.path = ""
        self._logic = logic

    def logic(self) -> Any:
        return self._logic

    def widgetRepresentation(self) -> None:
        return None


@dataclass
class Core:
    """What ``start_core`` made. ``temporary`` is a folder that is removed at exit."""

    scene: Any
    application_logic: Any
    temporary: Path
    modules: dict[str, Any] = field(default_factory=dict)

    def clear(self) -> None:
        """Close the scene as File / Close scene does (singleton nodes and views stay)."""
        self.scene.Clear(0)


_core: Core | None = None


def start_core() -> Core:
    """Create the scene and logics once per process; later calls return the same ``Core``."""
    global _core
    if _core is None:
        _core = _create()
    return _core


def _create() -> Core:
    _undo_flattening()
    for name in ("modules", "moduleNames"):
        module = types.ModuleType(f"slicer.{name}")
        sys.modules[f"slicer.{name}"] = module
        setattr(slicer, name, module)

    temporary = Path(tempfile.mkdtemp(prefix="slicerhost-"))
    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    _add_data_io(scene, temporary)
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetTemporaryPath(str(temporary))
    (temporary / "share" / "ColorFiles").mkdir(parents=True)
    logic.SetHomeDirectory(str(temporary))
    logic.SetShareDirectory("share")
    logic.SetSliceLogics(vtk.vtkCollection())  # views add their logics here; Slicer's Qt layer makes the collections
    logic.SetViewLogics(vtk.vtkCollection())
    logic.SetMRMLScene(scene)
    _add_singletons(scene)

    core = Core(scene, logic, temporary)
    share = temporary / "share"
    for name, class_name in MODULE_LOGICS.items():
        _add_module(core, name, getattr(slicer, class_name)(), share)
    colors = core.modules["Colors"].logic()
    logic.SetColorLogic(colors)
    colors.AddDefaultColorNodes()
    _follow_subject_hierarchy(scene)
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return core


def _undo_flattening() -> None:
    """The wheel copies slicer.util's functions into ``slicer``; Slicer does not, so nothing may rely on them."""
    for name in dir(slicer.util):
        value = getattr(slicer.util, name)
        if (
            not name.startswith("_")
            and getattr(slicer, name, None) is value
            and not isinstance(value, types.ModuleType)
        ):
            delattr(slicer, name)
    for name, value in vars(slicer_core).items():  # MRMLCorePython, ...: the names Slicer's own files import
        if isinstance(value, types.ModuleType):
            sys.modules.setdefault(f"{name}Python", value)


def _add_data_io(scene: Any, temporary: Path) -> None:
    """Readers of scenes and bundles fail without a data IO manager and a cache that has a folder."""
    cache, data_io, logic = slicer.vtkCacheManager(), slicer.vtkDataIOManager(), slicer.vtkDataIOManagerLogic()
    (temporary / "cache").mkdir()
    cache.SetRemoteCacheDirectory(str(temporary / "cache"))
    cache.SetMRMLScene(scene)
    data_io.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(data_io)
    logic.SetMRMLScene(scene)
    logic.SetAndObserveDataIOManager(data_io)
    scene._slicerhost_keep = (cache, data_io, logic)


def _add_singletons(scene: Any) -> None:
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    for node in (crosshair, slicer.vtkMRMLSelectionNode(), slicer.vtkMRMLInteractionNode()):
        scene.AddNode(node)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


def _add_module(core: Core, name: str, logic: Any, share: Path) -> None:
    if name == "VolumeRendering":
        presets.write(share / name)
    if name == "Terminologies":
        presets.write_terminologies(share / name)
    if hasattr(logic, "SetModuleShareDirectory"):  # must be known before the scene is
        logic.SetModuleShareDirectory(str(share / name))
    logic.SetMRMLApplicationLogic(core.application_logic)
    logic.SetMRMLScene(core.scene)
    core.application_logic.SetModuleLogic(name, logic)
    register_module(CoreModule(name, logic))
    core.modules[name] = getattr(slicer.modules, name.lower())


def register_module(module: Any) -> None:
    """Make a module known as ``slicer.modules.<lower-case name>`` and ``slicer.moduleNames.<name>``."""
    setattr(slicer.modules, module.name.lower(), module)
    setattr(slicer.moduleNames, module.name, module.name)


def _follow_subject_hierarchy(scene: Any) -> None:
    @vtk.calldata_type(vtk.VTK_OBJECT)
    def added(_caller: Any, _event: str, node: Any) -> None:
        if scene.IsClosing() or node.GetHideFromEditors() or not any(node.IsA(c) for c in _HIERARCHY_CLASSES):
            return
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        if hierarchy and not hierarchy.GetItemByDataNode(node):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    scene.AddObserver(scene.NodeAddedEvent, added)
    restore = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode  # makes the node where it is missing
    scene.AddObserver(scene.EndCloseEvent, lambda *_: restore(scene))
