"""Slice, 3D and plot views drawn off screen by Slicer's real displayable managers, no Qt: ``view.image()`` is an array.

core = start_core()
view = SliceView((400, 300), "Red", "Axial")
view.show_volume(volume)
write_png(view.image(), "red.png")
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtkmodules.util.numpy_support import vtk_to_numpy

from .core import start_core

Image = NDArray[np.uint8]  # [row, column, 3], RGB, row 0 at the top

_MANAGERS_3D = (
    "Camera",
    "View",
    "Model",
    "ThreeDReformat",
    "CrosshairDisplayableManager3D",
    "OrientationMarker",
    "Ruler",
    "VolumeRendering",
    "Markups",
    "SegmentationsDisplayableManager3D",
    "TransformsDisplayableManager3D",
    "LinearTransforms",
    "ColorLegend",
)
_MANAGERS_2D = (
    "VolumeGlyphSlice",
    "ModelSlice",
    "Crosshair",
    "OrientationMarker",
    "Ruler",
    "ScalarBar",
    "Markups",
    "SegmentationsDisplayableManager2D",
    "TransformsDisplayableManager2D",
    "LinearTransforms",
    "ColorLegend",
)


class OnePerTag(type):
    """Metaclass of the views: asking again for a tag gives the same view, resized.

    A node shown twice would have two sizes, and VTK calls observers of views that Python collects as garbage; so there
    is one view for a tag, and it lives as long as the process.
    """

    def __init__(cls, *arguments: Any) -> None:
        super().__init__(*arguments)
        cls._views: dict[str, Any] = {}

    def __call__(cls, size: tuple[int, int] = (400, 400), tag: str = "", orientation: str | None = None) -> Any:
        tag = tag or cls.default_tag
        if tag not in cls._views:
            cls._views[tag] = super().__call__(size, tag)
        view = cls._views[tag]
        view.resize(size)
        if orientation:
            view.node.SetOrientation(orientation)
        return view


class View(metaclass=OnePerTag):
    """A render window, its interactor and a group of displayable managers around one view node."""

    default_tag = ""

    def __init__(self, factory: Any, managers: tuple[str, ...], layers: int) -> None:
        self.core = start_core()
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.renderer = vtk.vtkRenderer()
        self.window.AddRenderer(self.renderer)
        if layers > 1:  # the 2D displayable managers draw markups in a layer of their own
            self.window.SetNumberOfLayers(layers)
            self.window.SetAlphaBitPlanes(1)
            overlay = vtk.vtkRenderer()
            overlay.SetLayer(1)
            overlay.GetActiveCamera().ParallelProjectionOn()
            self.window.AddRenderer(overlay)
        self.interactor = vtk.vtkGenericRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
        self.interactor.Initialize()
        self.managers = _managers(factory, managers, self.core.application_logic, self.renderer)
        self.node: Any = None

    def on_render_request(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when a displayable manager wants the view drawn again."""
        self.managers.AddObserver(vtk.vtkCommand.UpdateEvent, lambda *_: callback())

    def resize(self, size: tuple[int, int]) -> None:
        """Set the size in pixels (width, height)."""
        self.size = size
        self.window.SetSize(*size)
        self.interactor.UpdateSize(*size)  # it counts rows from the bottom

    def image(self) -> Image:
        """Render and return the picture, uint8 [row, column, 3]."""
        self.window.Render()
        return grab(self.window)


class ThreeDView(View):
    """``ThreeDView(size, tag)``: a 3D view. ``tag`` is its view node's; a node with that tag is used or made."""

    default_tag = "1"

    def __init__(self, _size: tuple[int, int], tag: str) -> None:
        super().__init__(slicer.vtkMRMLThreeDViewDisplayableManagerFactory, _MANAGERS_3D, layers=1)
        self.renderer.GradientBackgroundOn()
        self.logic = slicer.vtkMRMLViewLogic()
        self.logic.SetMRMLApplicationLogic(self.core.application_logic)
        self.logic.SetMRMLScene(self.core.scene)
        # AddViewNode makes a second node where the layout has made one: adopt that by its layout name instead
        if self.core.scene.GetSingletonNode(tag, "vtkMRMLViewNode") is None:
            self.logic.AddViewNode(tag)
        self.logic.SetName(tag)
        self.node = self.logic.GetViewNode()
        self.core.application_logic.GetViewLogics().AddItem(self.logic)
        self.managers.SetMRMLDisplayableNode(self.node)
        self.style = slicer.vtkMRMLThreeDViewInteractorStyle()
        self.style.SetDisplayableManagers(self.managers)
        self.style.SetInteractor(self.interactor)

    def camera_node(self) -> Any:
        return self.managers.GetDisplayableManagerByClassName("vtkMRMLCameraDisplayableManager").GetCameraNode()

    def reset_camera(self) -> None:
        """Make everything visible."""
        self.renderer.ResetCamera()

    def reset_focal_point(self) -> None:
        """Turn about the middle of what is visible."""
        bounds = [0.0] * 6
        self.renderer.ComputeVisiblePropBounds(bounds)
        centre = [(bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)]
        self.renderer.GetActiveCamera().SetFocalPoint(*centre)


class SliceView(View):
    """``SliceView(size, tag, orientation)``: a slice view. ``tag`` is its slice node's, "Red" for example."""

    default_tag = "Red"

    def __init__(self, _size: tuple[int, int], tag: str) -> None:
        super().__init__(slicer.vtkMRMLSliceViewDisplayableManagerFactory, _MANAGERS_2D, layers=2)
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        self._actor = _image_actor()
        self._connection: Any = None
        scene = self.core.scene
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(self.core.application_logic)
        self.core.application_logic.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(scene)
        self.node = scene.GetSingletonNode(tag, "vtkMRMLSliceNode")
        if self.node is None:
            self.node = self.logic.AddSliceNode(tag)
        else:
            self.logic.SetSliceNode(self.node)
        self.managers.SetMRMLDisplayableNode(self.node)
        self.logic.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._connect())
        self.style = slicer.vtkMRMLSliceViewInteractorStyle()
        self.style.SetSliceLogic(self.logic)
        self.style.SetDisplayableManagers(self.managers)
        self.style.SetInteractor(self.interactor)
        self._connect()

    def on_render_request(self, callback: Callable[[], None]) -> None:
        """Also when the slice image changes: blending and new voxels are no displayable manager's business."""
        super().on_render_request(callback)
        self.logic.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: callback())

    def _connect(self) -> None:
        """The slice image itself is not drawn by a displayable manager: put the logic's output behind them."""
        connection = self.logic.GetImageDataConnection()
        if connection is self._connection:
            return
        self._connection = connection
        self._actor.GetMapper().SetInputConnection(connection)
        if connection:
            self.renderer.AddViewProp(self._actor)
        else:
            self.renderer.RemoveViewProp(self._actor)

    def resize(self, size: tuple[int, int]) -> None:
        super().resize(size)
        self.logic.ResizeSliceNode(max(size[0], 2), max(size[1], 2))

    def show_volume(self, volume: Any, foreground: Any = None, opacity: float = 0.5) -> None:
        """Show ``volume`` (and ``foreground`` blended over it), fitted to the view."""
        composite = self.logic.GetSliceCompositeNode()
        composite.SetBackgroundVolumeID(volume.GetID() if volume else None)
        composite.SetForegroundVolumeID(foreground.GetID() if foreground else None)
        composite.SetForegroundOpacity(opacity)
        self.logic.FitSliceToBackground()


def grab(window: Any) -> Image:
    """The picture a render window holds, uint8 [row, column, 3], row 0 at the top."""
    reader = vtk.vtkWindowToImageFilter()
    reader.SetInput(window)
    reader.ReadFrontBufferOff()
    reader.ShouldRerenderOff()
    reader.Update()
    output = reader.GetOutput()
    width, height, _ = output.GetDimensions()
    pixels = vtk_to_numpy(output.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3]
    return np.ascontiguousarray(pixels)


def write_png(image: Image, path: str | Path) -> None:
    """Write an RGB image [row, column, 3] as PNG."""
    from vtkmodules.util.numpy_support import numpy_to_vtk

    data = vtk.vtkImageData()
    data.SetDimensions(image.shape[1], image.shape[0], 1)
    flipped = np.ascontiguousarray(image[::-1]).reshape(-1, image.shape[2])
    data.GetPointData().SetScalars(numpy_to_vtk(flipped, deep=True))
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(path))
    writer.SetInputData(data)
    writer.Write()


def _managers(factory_class: Any, names: tuple[str, ...], application_logic: Any, renderer: Any) -> Any:
    factory = factory_class.GetInstance()
    factory.SetMRMLApplicationLogic(application_logic)
    for name in names:
        full = f"vtkMRML{name}" if "DisplayableManager" in name else f"vtkMRML{name}DisplayableManager"
        if not factory.IsDisplayableManagerRegistered(full):
            factory.RegisterDisplayableManager(full)
    group = slicer.vtkMRMLDisplayableManagerGroup()
    group.SetRenderer(renderer)
    group.Initialize(factory, renderer)
    return group


def _image_actor() -> Any:
    mapper = vtk.vtkImageMapper()
    mapper.SetColorWindow(255)
    mapper.SetColorLevel(127.5)
    actor = vtk.vtkActor2D()
    actor.SetMapper(mapper)
    actor.GetProperty().SetDisplayLocationToBackground()
    return actor
