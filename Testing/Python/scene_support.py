"""A MRML scene for tests: the host's core, CT and fluoroscopy nodes made from the library's objects."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Host"))

pytest.importorskip("slicer", reason="needs slicer-core")

from slicerhost.core import start_core

CORE = start_core()

import slicer  # noqa: E402
import vtk  # noqa: E402

from DiffPoseSlicerLib.geometry.carm import CArm  # noqa: E402
from DiffPoseSlicerLib.scene.nodes import vtk_matrix  # noqa: E402

CARM = CArm(1020.0, (160, 128), (2.0, 2.2), (60.0, 82.5), intensity="attenuation")


def volume_node(array: Any, affine: Any = None, name: str = "CT", class_name: str = "vtkMRMLScalarVolumeNode") -> Any:
    """A volume node from [k, j, i] and the map to RAS."""
    node = slicer.mrmlScene.AddNewNodeByClass(class_name, name)
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array))
    node.SetIJKToRASMatrix(vtk_matrix(np.eye(4) if affine is None else affine))
    node.CreateDefaultDisplayNodes()
    return node


def ct_node(ct: Any, name: str = "CT") -> Any:
    """A volume node of a CTVolume."""
    return volume_node(ct.hu, ct.affine, name)


def fluoroscopy_node(pixels: Any, name: str = "Fluoroscopy") -> Any:
    """A fluoroscopy node from [row, column]."""
    return volume_node(np.asarray(pixels)[None], name=name)


def transform_node(matrix: Any, name: str = "Parent") -> Any:
    """A linear transform node."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(vtk_matrix(matrix))
    return node


def node_to_world(node: Any) -> np.ndarray:
    """The 4x4 map (i, j, k, 1) -> world of a volume node, all its transforms included, as VTK computes it."""
    from DiffPoseSlicerLib.scene.nodes import array_matrix, ijk_to_ras

    matrix = vtk.vtkMatrix4x4()
    if node.GetParentTransformNode() is not None:
        node.GetParentTransformNode().GetMatrixTransformToWorld(matrix)
    return array_matrix(matrix) @ ijk_to_ras(node)


def count(class_name: str) -> int:
    """How many nodes of a class the scene has."""
    return slicer.mrmlScene.GetNumberOfNodesByClass(class_name)
