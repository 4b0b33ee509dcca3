"""The bone surface shown in 3D: coarse, made from the overview gathered while the CT goes to the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import vtk
from vtkmodules.util.numpy_support import numpy_to_vtk

from .nodes import helper, ijk_to_ras, vtk_matrix
from .upload import Loaded

SURFACE = "surface"
BONE_HU = 220.0
_BONE_COLOR = (0.91, 0.84, 0.70)


def bone_surface(loaded: Loaded, ijk_to_world: Any, threshold: float = BONE_HU) -> vtk.vtkPolyData:
    """Triangles where the overview crosses `threshold` HU, mapped by a (i, j, k, 1) -> mm matrix of the full CT."""
    blocks = loaded.overview
    nk, nj, ni = blocks.shape
    image = vtk.vtkImageData()
    image.SetDimensions(ni, nj, nk)
    image.GetPointData().SetScalars(numpy_to_vtk(blocks.ravel(), deep=True))
    edges = vtk.vtkFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, threshold)
    edges.ComputeNormalsOn()  # smooth shading
    edges.ComputeGradientsOff()
    edges.ComputeScalarsOff()
    # The middle of a block of f voxels is voxel (f - 1) / 2.
    factors = np.array(loaded.factors, float)
    to_voxel = np.diag([*factors, 1.0])
    to_voxel[:3, 3] = (factors - 1) / 2
    place = vtk.vtkTransform()
    matrix = np.asarray(ijk_to_world) @ to_voxel
    place.SetMatrix(vtk_matrix(matrix))
    moved = vtk.vtkTransformPolyDataFilter()
    moved.SetTransform(place)
    moved.SetInputConnection(edges.GetOutputPort())
    if np.linalg.det(matrix[:3, :3]) > 0:
        moved.Update()
        return moved.GetOutput()
    turned = vtk.vtkReverseSense()  # a grid that mirrors turns triangles inside out
    turned.SetInputConnection(moved.GetOutputPort())
    turned.ReverseCellsOn()
    turned.ReverseNormalsOff()
    turned.Update()
    return turned.GetOutput()


def show_surface(ct: Any, loaded: Loaded) -> Any:
    """The CT's bone surface as a model that moves with it."""
    model = helper(ct, SURFACE, "vtkMRMLModelNode", "Bone surface")
    model.SetAndObservePolyData(bone_surface(loaded, ijk_to_ras(ct)))
    model.SetAndObserveTransformNodeID(ct.GetTransformNodeID())
    display = model.GetDisplayNode()
    display.SetColor(*_BONE_COLOR)
    display.SetVisibility2D(False)
    return model
