"""The module's views: its layout, the fluoroscopy's slice view, the camera at the source. MRML nodes only, no Qt."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..geometry.carm import CArm
from ..geometry.coordinates import transform_points
from ..geometry.se3 import Array
from .carm_nodes import slice_to_ras
from .nodes import vtk_matrix

LAYOUT_ID = 57710  # any number that no other module has; below 100 are Slicer's own
VIEW_3D, VIEW_XRAY, VIEW_PLOT = "DiffPose3D", "DiffPoseXray", "DiffPosePlot"

_MAIN = f"""
  <layout type="horizontal" split="true">
   <item splitSize="520">
    <view class="vtkMRMLViewNode" singletontag="{VIEW_3D}">
     <property name="viewlabel" action="default">3D</property>
    </view>
   </item>
   <item splitSize="480">
    <view class="vtkMRMLSliceNode" singletontag="{VIEW_XRAY}">
     <property name="orientation" action="default">Axial</property>
     <property name="viewlabel" action="default">X</property>
     <property name="viewcolor" action="default">#E8B13C</property>
    </view>
   </item>
  </layout>"""
_PLOT = f"""
   <item splitSize="240">
    <view class="vtkMRMLPlotViewNode" singletontag="{VIEW_PLOT}">
     <property name="viewlabel" action="default">Training</property>
    </view>
   </item>"""

LAYOUT = _MAIN.strip()
LAYOUT_WITH_PLOT = f"""<layout type="vertical" split="true">
   <item splitSize="760">{_MAIN}
   </item>{_PLOT}
  </layout>"""


def add_layouts(layout_node: Any) -> None:
    """Make the module's two layouts known: LAYOUT_ID, and LAYOUT_ID + 1 with the plot below."""
    for number, description in ((LAYOUT_ID, LAYOUT), (LAYOUT_ID + 1, LAYOUT_WITH_PLOT)):
        if layout_node.IsLayoutDescription(number):
            layout_node.SetLayoutDescription(number, description)
        else:
            layout_node.AddLayoutDescription(number, description)


def tagged(scene: Any, class_name: str, tag: str) -> Any:
    """The view node with a singleton tag, or None while the layout has not been shown."""
    return scene.GetSingletonNode(tag, class_name)


def composite_of(scene: Any, tag: str) -> Any:
    """The composite node of the slice view with a tag, or None."""
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
        node = scene.GetNthNodeByClass(index, "vtkMRMLSliceCompositeNode")
        if node.GetLayoutName() == tag:
            return node
    return None


def aim_slice(slice_node: Any, carm: CArm, c0: ArrayLike) -> None:
    """Let a slice view show the whole detector as the camera sees it."""
    width, height = slice_node.GetDimensions()[:2]
    rows, columns = carm.image_size
    scale = max(columns * carm.pixel_spacing[1] / max(width, 1), rows * carm.pixel_spacing[0] / max(height, 1))
    modify = slice_node.StartModify()
    slice_node.GetSliceToRAS().DeepCopy(vtk_matrix(slice_to_ras(carm, c0)))
    slice_node.SetXYZOrigin(0.0, 0.0, 0.0)
    slice_node.SetFieldOfView(width * scale, height * scale, 1.0)
    slice_node.UpdateMatrices()
    slice_node.EndModify(modify)


def show_layers(composite: Any, background: Any, foreground: Any, opacity: float) -> None:
    """What a slice view blends; None for nothing."""
    modify = composite.StartModify()
    composite.SetBackgroundVolumeID(background.GetID() if background is not None else None)
    composite.SetForegroundVolumeID(foreground.GetID() if foreground is not None else None)
    composite.SetLabelVolumeID(None)
    composite.SetForegroundOpacity(opacity)
    composite.EndModify(modify)


def camera_of(scene: Any, view_node: Any) -> Any:
    """The camera node of a 3D view, or None."""
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLCameraNode")):
        node = scene.GetNthNodeByClass(index, "vtkMRMLCameraNode")
        if view_node is not None and node.GetLayoutName() == view_node.GetLayoutName():
            return node
    return None


def look(camera_node: Any, position: ArrayLike, target: ArrayLike, up: ArrayLike, angle: float = 30.0) -> None:
    """Aim a 3D view's camera. Points in world mm, angle of view in degrees (top to bottom)."""
    camera = camera_node.GetCamera()
    camera.SetPosition(*map(float, np.asarray(position)))
    camera.SetFocalPoint(*map(float, np.asarray(target)))
    camera.SetViewUp(*map(float, np.asarray(up)))
    camera.SetViewAngle(angle)
    camera_node.ResetClippingRange()


def look_from_source(camera_node: Any, carm: CArm, c0: ArrayLike) -> None:
    """Look as the C-arm does: from the source at the middle of the detector, which fills the view's height."""
    c0 = np.asarray(c0, float)
    rows, columns = carm.image_size
    middle = transform_points(c0, carm.detector_points([(columns - 1) / 2, (rows - 1) / 2]))
    distance = float(np.linalg.norm(middle - c0[:3, 3]))
    angle = 2 * np.degrees(np.arctan2(rows * carm.pixel_spacing[0] / 2, distance))
    look(camera_node, c0[:3, 3], middle, -c0[:3, 1], float(angle))


def look_at_scene(camera_node: Any, carm: CArm, c0: ArrayLike) -> None:
    """Look at the whole C-arm from behind the source, from the side and a little from above; fits tall views too."""
    c0 = np.asarray(c0, float)
    middle: Array = c0[:3, 3] + c0[:3, 2] * carm.source_to_detector * 0.56
    sideways, up = c0[:3, 0], -c0[:3, 1]
    direction = 0.48 * sideways + 0.42 * up - 0.77 * c0[:3, 2]
    distance = 2.8 * carm.source_to_detector
    look(camera_node, middle + direction / np.linalg.norm(direction) * distance, middle, up)
