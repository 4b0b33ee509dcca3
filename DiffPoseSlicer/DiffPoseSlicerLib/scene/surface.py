"""The bone surface shown in 3D: coarse, made from the overview gathered while the CT goes to the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import vtk
from vtkmodules.util.numpy_support import numpy_to_vtk

from .nodes import helper, ijk_to_ras, vtk_matrix
from .task import Steps, finish
from .upload import Loaded

SURFACE = "surface"
BONE_HU = 180.0
_BONE_COLOR = (0.91, 0.84, 0.70)


def surface_steps(loaded: Loaded, ijk_to_world: Any, threshold: float = BONE_HU) -> Steps:
    """Steps that make triangles where the overview crosses `threshold` HU: `polydata = yield from surface_steps(...)`.

    Args:
        loaded: What the engine holds of a CT.
        ijk_to_world: (i, j, k, 1) of the full CT -> mm, 4x4.
        threshold: In HU.
    """
    blocks = loaded.overview
    nk, nj, ni = blocks.shape
    image = vtk.vtkImageData()
    image.SetDimensions(ni, nj, nk)
    image.GetPointData().SetScalars(numpy_to_vtk(blocks.ravel(), deep=True))
    yield
    edges = vtk.vtkFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, threshold)
    edges.ComputeNormalsOn()  # smooth shading
    edges.ComputeGradientsOff()
    edges.ComputeScalarsOff()
    edges.Update()
    yield
    # The middle of a block of f voxels is voxel (f - 1) / 2.
    factors = np.array(loaded.factors, float)
    to_voxel = np.diag([*factors, 1.0])
    to_voxel[:3, 3] = (factors - 1) / 2
    place = vtk.vtkTransform()
    matrix = np.asarray(ijk_to_world) @ to_voxel
    place.SetMatrix(vtk_matrix(matrix))
    last = vtk.vtkTransformPolyDataFilter()
    last.SetTransform(place)
    last.SetInputData(edges.GetOutput())
    last.Update()
    yield
    if np.linalg.det(matrix[:3, :3]) < 0:  # a grid that mirrors turns triangles inside out
        turned = vtk.vtkReverseSense()
        turned.SetInputData(last.GetOutput())
        turned.ReverseCellsOn()
        turned.ReverseNormalsOff()
        turned.Update()
        last = turned
        yield
    return last.GetOutput()


def bone_surface(loaded: Loaded, ijk_to_world: Any, threshold: float = BONE_HU) -> vtk.vtkPolyData:
    """What :func:`surface_steps` makes, at once."""
    return finish(surface_steps(loaded, ijk_to_world, threshold))


def show_surface(ct: Any, loaded: Loaded) -> Steps:
    """Steps that show the CT's bone surface as a model that moves with it; its node."""
    triangles = yield from surface_steps(loaded, ijk_to_ras(ct))
    model = helper(ct, SURFACE, "vtkMRMLModelNode", "Bone surface")
    yield
    display = model.GetDisplayNode()
    modify = display.StartModify()
    display.SetColor(*_BONE_COLOR)
    display.SetVisibility2D(False)
    display.EndModify(modify)
    model.SetAndObserveTransformNodeID(ct.GetTransformNodeID())
    model.SetAndObservePolyData(triangles)
    return model
