"""What the module keeps on MRML nodes: JSON attributes, referenced helper nodes, one subject hierarchy folder.

Everything is found again through attributes and node references that begin with `PREFIX`, never through names, so it
survives renaming and a scene saved and opened elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import ArrayLike

from ..geometry.se3 import Array

PREFIX = "DiffPoseSlicer."
ROLE = PREFIX + "role"
FOLDER_NAME = "DiffPoseSlicer"


def vtk_matrix(matrix: ArrayLike) -> vtk.vtkMatrix4x4:
    """A 4x4 array as VTK wants it."""
    result = vtk.vtkMatrix4x4()
    result.DeepCopy(np.asarray(matrix, float).ravel().tolist())
    return result


def array_matrix(matrix: vtk.vtkMatrix4x4) -> Array:
    """A VTK matrix as a 4x4 float64 array."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def ijk_to_ras(volume: Any) -> Array:
    """The 4x4 map (i, j, k, 1) -> RAS mm of a volume node, its parent transforms left out."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return array_matrix(matrix)


def get_data(node: Any, key: str) -> Any:
    """What :func:`set_data` stored on a node, or None (also where it is unreadable)."""
    text = node.GetAttribute(PREFIX + key) if node is not None else None
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def set_data(node: Any, key: str, value: Any) -> None:
    """Store a JSON-able value on a node, where it is saved with the scene. None takes it off."""
    if value is None:
        node.RemoveAttribute(PREFIX + key)
    else:
        node.SetAttribute(PREFIX + key, json.dumps(value, allow_nan=False))


def referenced(node: Any, role: str) -> Any:
    """The node that `node` refers to as `role`, or None."""
    return node.GetNodeReference(PREFIX + role) if node is not None else None


def refer(node: Any, role: str, target: Any) -> None:
    """Make `node` refer to `target` (None: to nothing) as `role`."""
    node.SetNodeReferenceID(PREFIX + role, target.GetID() if target is not None else None)


def helper(owner: Any, role: str, class_name: str, name: str, *, hidden: bool = True) -> Any:
    """The helper node that `owner` refers to as `role`: made on first need, in the module's folder, then reused."""
    node = referenced(owner, role)
    if node is not None and node.IsA(class_name):
        return node
    scene = owner.GetScene()
    node = scene.CreateNodeByClass(class_name)
    node.UnRegister(None)  # CreateNodeByClass hands over a reference that Python has counted already
    node.SetName(scene.GenerateUniqueName(name))
    node.SetAttribute(ROLE, role)
    node.SetHideFromEditors(hidden)
    scene.AddNode(node)
    if hasattr(node, "CreateDefaultDisplayNodes"):
        node.CreateDefaultDisplayNodes()
    refer(owner, role, node)
    put_in_folder(node)
    return node


def helpers(scene: Any) -> Iterator[Any]:
    """All helper nodes in a scene, whoever owns them."""
    for index in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(index)
        if node.GetAttribute(ROLE):
            yield node


def remove_helper(owner: Any, role: str) -> None:
    """Take the helper that `owner` refers to as `role` out of the scene, with its display and storage nodes."""
    node = referenced(owner, role)
    if node is not None:
        remove_node(node)
    if owner.GetScene() is not None:
        refer(owner, role, None)


def remove_node(node: Any) -> None:
    """Take a node out of its scene together with its display and storage nodes."""
    scene = node.GetScene()
    if scene is None:
        return
    parts = []
    for kind in ("Display", "Storage"):
        if hasattr(node, f"GetNth{kind}Node"):
            number = getattr(node, f"GetNumberOf{kind}Nodes")()
            parts += [getattr(node, f"GetNth{kind}Node")(index) for index in range(number)]
    scene.RemoveNode(node)
    for part in parts:
        if part is not None and part.GetScene() is scene:
            scene.RemoveNode(part)


def put_in_folder(node: Any) -> None:
    """Move a node into the module's one subject hierarchy folder, which is made on first need."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    if hierarchy is None:
        return
    folder = folder_item(hierarchy)
    if not folder:
        folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), FOLDER_NAME)
        hierarchy.SetItemAttribute(folder, ROLE, "folder")
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, folder)
    else:
        hierarchy.CreateItem(folder, node)


def folder_item(hierarchy: Any) -> int:
    """The item of the module's subject hierarchy folder, 0 where there is none."""
    items = vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), items, False)
    for index in range(items.GetNumberOfIds()):
        if hierarchy.GetItemAttribute(items.GetId(index), ROLE) == "folder":
            return int(items.GetId(index))
    return 0
