"""The C-arm in the scene: the image on its detector plane, the synthetic X-ray on the same grid, source and beam.

All of them stand in world coordinates where a nominal pose C0 (cameraToRAS of the C-arm at rest) puts the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer.util
import vtk
from numpy.typing import ArrayLike, NDArray

from ..geometry.carm import CArm
from ..geometry.coordinates import transform_points
from ..geometry.se3 import Array
from .nodes import ROLE, helper, helpers, referenced, remove_helper, vtk_matrix
from .task import Steps

DETECTOR, DRR, OVERLAY, SOURCE, BEAM = "detector", "drr", "overlay", "source", "beam"
ROLES = (DETECTOR, DRR, OVERLAY, SOURCE, BEAM)

_SOURCE_COLOR = (0.98, 0.78, 0.25)
_BEAM_COLOR = (0.95, 0.85, 0.55)
_SOURCE_RADIUS_MM = 12.0


def detector_matrix(carm: CArm, c0: ArrayLike) -> Array:
    """The 4x4 map (column, row, 0, 1) -> world mm of a detector's pixels; the third axis is 1 mm along the beam."""
    to_camera = np.eye(4)
    to_camera[:3, :2] = carm.detector_from_pixel[:, :2]
    to_camera[:3, 3] = carm.detector_from_pixel[:, 2]
    return np.asarray(c0, float) @ to_camera


def detector_corners(carm: CArm, c0: ArrayLike) -> Array:
    """World position of the outer corners of the image, (4, 3): top left, top right, bottom right, bottom left."""
    rows, columns = carm.image_size
    pixels = np.array([[-0.5, -0.5], [columns - 0.5, -0.5], [columns - 0.5, rows - 0.5], [-0.5, rows - 0.5]])
    return transform_points(c0, carm.detector_points(pixels))


def slice_to_ras(carm: CArm, c0: ArrayLike) -> Array:
    """SliceToRAS of a slice view that shows the detector plane as the camera sees it, centred on the image."""
    c0 = np.asarray(c0, float)
    rows, columns = carm.image_size
    result = np.eye(4)
    result[:3, :3] = c0[:3, :3] @ np.diag([1.0, -1.0, -1.0])
    result[:3, 3] = transform_points(c0, carm.detector_points([(columns - 1) / 2, (rows - 1) / 2]))
    return result


def show_detector(record: Any, pixels: NDArray[Any], carm: CArm, c0: ArrayLike, *, inverted: bool = False) -> Steps:
    """Steps that put an image (camera frame, bone bright) on its detector plane and draw source and beam; its node.

    Args:
        record: the node that keeps what belongs to the fluoroscopy.
        pixels: [row, column].
        carm, c0: where the C-arm stands.
        inverted: show bone dark, as in the image the user knows.
    """
    detector = helper(record, DETECTOR, "vtkMRMLScalarVolumeNode", "Fluoroscopy on its detector")
    modify = detector.StartModify()
    set_pixels(detector, pixels)
    place(detector, carm, c0)
    detector.EndModify(modify)
    yield
    set_display(detector, inverted, window_of(pixels))
    yield
    for role in (DRR, OVERLAY):
        other = referenced(record, role)
        if other is not None and other.GetImageData() is not None:  # perhaps of fewer pixels
            columns, rows, _ = other.GetImageData().GetDimensions()
            place(other, carm.resized((rows, columns)), c0)
    _draw_source(record, c0)
    yield
    _draw_beam(record, carm, c0)
    return detector


def show_drr(record: Any, pixels: NDArray[Any], carm: CArm, c0: ArrayLike, *, inverted: bool = False) -> Any:
    """Put a synthetic X-ray (line integrals, bone bright) on the detector that `carm` describes. Its node."""
    drr = helper(record, DRR, "vtkMRMLScalarVolumeNode", "Synthetic X-ray")
    set_pixels(drr, pixels)
    place(drr, carm, c0)
    set_display(drr, inverted, window_of(pixels))
    return drr


def show_overlay(
    record: Any, pixels: NDArray[Any], carm: CArm, c0: ArrayLike, *, color: str, window: tuple[float, float]
) -> Any:
    """Put what compares two images on the detector's grid. Values below the window's 0 are not drawn. Its node.

    Args:
        record, carm, c0: As for :func:`show_detector`.
        pixels: [row, column].
        color: ID of a colour node.
        window: (lowest, highest) shown value.
    """
    overlay = helper(record, OVERLAY, "vtkMRMLScalarVolumeNode", "Comparison")
    set_pixels(overlay, pixels)
    place(overlay, carm, c0)
    display = overlay.GetDisplayNode()
    modify = display.StartModify()
    display.SetAndObserveColorNodeID(color)
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*window)
    display.SetInterpolate(False)  # between a hidden and a shown pixel there is nothing
    display.SetAutoThreshold(False)
    display.SetThreshold(0.0, 1e9)
    display.SetApplyThreshold(window[0] >= 0)
    display.EndModify(modify)
    return overlay


def place(volume: Any, carm: CArm, c0: ArrayLike) -> None:
    """Put a volume node of one slice on the detector."""
    volume.SetIJKToRASMatrix(vtk_matrix(detector_matrix(carm, c0)))


def set_pixels(volume: Any, pixels: NDArray[Any]) -> None:
    """Write [row, column] into a volume node, in place where size and type allow."""
    pixels = np.asarray(pixels, np.float32)[None]
    if volume.GetImageData() is not None:
        held = slicer.util.arrayFromVolume(volume)
        if held.shape == pixels.shape and held.dtype == pixels.dtype:
            held[:] = pixels
            slicer.util.arrayFromVolumeModified(volume)
            return
    slicer.util.updateVolumeFromArray(volume, pixels)


def window_of(pixels: NDArray[Any]) -> tuple[float, float]:
    """(lowest, highest) shown value: the image's own, without its darkest and brightest hundredth."""
    step = max(1, int(np.sqrt(pixels.size / 40000)))
    low, high = np.nanpercentile(pixels[::step, ::step], [1.0, 99.5])
    return float(low), float(max(high, low + 1e-6))


def set_display(volume: Any, inverted: bool, window: tuple[float, float]) -> None:
    """Grey scale and window of a volume node, set in one event."""
    display = volume.GetDisplayNode()
    if display is None:
        volume.CreateDefaultDisplayNodes()
        display = volume.GetDisplayNode()
    color = "vtkMRMLColorTableNodeInvertedGrey" if inverted else "vtkMRMLColorTableNodeGrey"
    modify = display.StartModify()
    display.SetAndObserveColorNodeID(color)
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*window)
    display.EndModify(modify)


def show_only(shown: Sequence[Any]) -> None:
    """Draw source and beam of these records (nodes that keep what belongs to a fluoroscopy) and of no others."""
    for role in (SOURCE, BEAM):
        kept = [referenced(record, role) for record in shown]
        for node in helpers(shown[0].GetScene()) if shown else ():
            if node.GetAttribute(ROLE) == role and node.GetDisplayNode() is not None:
                visible = any(node is one for one in kept)
                if bool(node.GetDisplayNode().GetVisibility()) != visible:
                    node.GetDisplayNode().SetVisibility(visible)


def remove_carm(record: Any) -> None:
    """Take all helpers of a fluoroscopy out of the scene."""
    for role in ROLES:
        remove_helper(record, role)


def _draw_source(record: Any, c0: ArrayLike) -> None:
    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(_SOURCE_RADIUS_MM)
    sphere.SetThetaResolution(24)
    sphere.SetPhiResolution(16)
    sphere.SetCenter(*np.asarray(c0, float)[:3, 3])
    sphere.Update()
    model = helper(record, SOURCE, "vtkMRMLModelNode", "X-ray source")
    model.SetAndObservePolyData(sphere.GetOutput())
    display = model.GetDisplayNode()
    display.SetColor(*_SOURCE_COLOR)
    display.SetBackfaceCulling(True)  # unseen from inside, where the view from the source stands
    display.SetVisibility2D(False)


def _draw_beam(record: Any, carm: CArm, c0: ArrayLike) -> None:
    """Lines from the source to the image's corners, the image's outline and the central ray."""
    source = np.asarray(c0, float)[:3, 3]
    center = transform_points(c0, carm.detector_points(carm.principal_point))
    points = vtk.vtkPoints()
    for point in (source, *detector_corners(carm, c0), center):
        points.InsertNextPoint(*point)
    lines = vtk.vtkCellArray()
    for ends in ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1), (0, 5)):
        lines.InsertNextCell(2)
        for end in ends:
            lines.InsertCellPoint(end)
    beam = vtk.vtkPolyData()
    beam.SetPoints(points)
    beam.SetLines(lines)
    model = helper(record, BEAM, "vtkMRMLModelNode", "X-ray beam")
    model.SetAndObservePolyData(beam)
    display = model.GetDisplayNode()
    display.SetColor(*_BEAM_COLOR)
    display.SetLineWidth(2)
    display.SetVisibility2D(False)
    display.SetLighting(False)
