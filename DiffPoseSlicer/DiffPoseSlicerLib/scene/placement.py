"""The transform "CT to C-arm": where the CT lies when the C-arm stands still.

Frames. A CT node's voxels reach the *placed* frame through its own IJKToRAS and the parent transforms it already has.
That frame is what the engine calls RAS: poses (cameraToRAS) are stated in it. One linear transform node, inserted above
the topmost of those parents, carries it into the world, where the C-arm stands fixed at its nominal pose C0:

    x_world = ctToWorld @ x_placed,    ctToWorld = C0 @ inv(cameraToRAS)

So an unmoved patient has the identity, and everything else under the same parents (segmentations, models, markups)
moves along.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import ArrayLike

from ..errors import InputError
from ..geometry.files import rigid_matrix
from ..geometry.se3 import Array, inverse
from .nodes import ROLE, array_matrix, helper, ijk_to_ras, refer, referenced, vtk_matrix

TRANSFORM = "ctToCarm"
COMPANIONS = ("vtkMRMLSegmentationNode", "vtkMRMLModelNode", "vtkMRMLMarkupsNode")


def is_ct_to_carm(node: Any) -> bool:
    """Whether a node is a "CT to C-arm" transform."""
    return node is not None and node.GetAttribute(ROLE) == TRANSFORM


def show_handles(transform: Any, center: ArrayLike) -> None:
    """Show handles in 3D views that shift and turn what a transform carries, about a point of the placed frame, mm."""
    if transform.GetDisplayNode() is None:
        transform.CreateDefaultDisplayNodes()
    transform.SetCenterOfTransformation(*map(float, np.asarray(center)))
    display = transform.GetDisplayNode()
    modify = display.StartModify()
    display.SetEditorTranslationEnabled(True)
    display.SetEditorRotationEnabled(True)
    display.SetEditorScalingEnabled(False)  # a patient keeps the size
    display.SetEditorVisibility3D(True)
    display.SetEditorVisibility(True)
    display.EndModify(modify)


def hide_handles(transform: Any) -> None:
    """Take back :func:`show_handles`."""
    if transform.GetDisplayNode() is not None:
        transform.GetDisplayNode().SetEditorVisibility(False)


def parents(node: Any) -> list[Any]:
    """The parent transforms a node has of its own, nearest first: those below "CT to C-arm"."""
    chain = []
    parent = node.GetParentTransformNode()
    while parent is not None and not is_ct_to_carm(parent):
        chain.append(parent)
        parent = parent.GetParentTransformNode()
    return chain


def placed_from_node(node: Any) -> Array:
    """The 4x4 map from a node's own RAS to the placed frame: the product of its :func:`parents`.

    Raises:
        InputError: one of them is not linear.
    """
    result = np.eye(4)
    for parent in parents(node):
        matrix = vtk.vtkMatrix4x4()
        if not parent.IsLinear() or not parent.GetMatrixTransformToParent(matrix):
            raise InputError(
                f"The transform '{parent.GetName()}' above '{node.GetName()}' bends space: harden it first (Data "
                "module, right click on the transform, Harden transform)."
            )
        result = array_matrix(matrix) @ result
    return result


def placed_affine(volume: Any) -> Array:
    """The 4x4 map from a volume node's (i, j, k, 1) to the placed frame, mm."""
    return placed_from_node(volume) @ ijk_to_ras(volume)


def find_transform(ct: Any) -> Any:
    """The "CT to C-arm" transform that moves a CT, or None."""
    if ct is None:
        return None
    chain = parents(ct)
    above = (chain[-1] if chain else ct).GetParentTransformNode()
    return above if is_ct_to_carm(above) else None


def insert_transform(ct: Any) -> Any:
    """The "CT to C-arm" transform of a CT, inserted above its topmost parent where it is not there yet."""
    transform = find_transform(ct)
    if transform is None:
        transform = helper(ct, TRANSFORM, "vtkMRMLLinearTransformNode", "CT to C-arm", hidden=False)
        attach(ct, transform)
    elif referenced(ct, TRANSFORM) is not transform:
        refer(ct, TRANSFORM, transform)
    return transform


def attach(node: Any, transform: Any) -> None:
    """Put a node, with the parents it has of its own, under a "CT to C-arm" transform."""
    chain = parents(node)
    (chain[-1] if chain else node).SetAndObserveTransformNodeID(transform.GetID())


def detach(ct: Any) -> None:
    """Take a CT and all that moves with it out of its "CT to C-arm" transform, which leaves the scene."""
    transform = find_transform(ct) or referenced(ct, TRANSFORM)
    if transform is None:
        return
    scene, above = transform.GetScene(), transform.GetTransformNodeID()
    for index in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(index)
        if node.IsA("vtkMRMLTransformableNode") and node.GetTransformNodeID() == transform.GetID():
            node.SetAndObserveTransformNodeID(above)
    scene.RemoveNode(transform)
    refer(ct, TRANSFORM, None)


def attach_companions(ct: Any, transform: Any) -> None:
    """Let what belongs to a CT move with it, where it does not yet.

    Those are the segmentations made on it, and the segmentations, models and markups that the subject hierarchy has
    below the CT or beside it, in the same study or folder.
    """
    scene = ct.GetScene()
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")):
        segmentation = scene.GetNthNodeByClass(index, "vtkMRMLSegmentationNode")
        role = segmentation.GetReferenceImageGeometryReferenceRole()
        if segmentation.GetNodeReference(role) is ct and find_transform(segmentation) is None:
            attach(segmentation, transform)
    for node in _filed_with(ct):
        if any(node.IsA(kind) for kind in COMPANIONS) and find_transform(node) is None and not node.GetAttribute(ROLE):
            attach(node, transform)


def _filed_with(ct: Any) -> list[Any]:
    """The nodes below a CT in the subject hierarchy, and all those in its study or folder, should it be in one."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(ct.GetScene())
    item = hierarchy.GetItemByDataNode(ct) if hierarchy is not None else 0
    if not item:
        return []
    parent = hierarchy.GetItemParent(item)
    items = vtk.vtkIdList()
    hierarchy.GetItemChildren(item if parent == hierarchy.GetSceneItemID() else parent, items, True)
    nodes = [hierarchy.GetItemDataNode(items.GetId(index)) for index in range(items.GetNumberOfIds())]
    return [node for node in nodes if node is not None]


def _world_from_parent(transform: Any) -> Array:
    """What lies above a transform node: 4x4, its parent frame to the world."""
    matrix = vtk.vtkMatrix4x4()
    parent = transform.GetParentTransformNode()
    if parent is not None:
        parent.GetMatrixTransformToWorld(matrix)
    return array_matrix(matrix)


def get_ct_to_world(transform: Any) -> Array:
    """Where a "CT to C-arm" transform puts the placed frame in the world: 4x4 rigid.

    Raises:
        InputError: someone has made it not rigid.
    """
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    return rigid_matrix(array_matrix(matrix), f"transform '{transform.GetName()}'")


def set_ct_to_world(transform: Any, matrix: Array) -> None:
    """Put the placed frame where `matrix` (4x4) says, whatever stands above the transform. One event, no copy made."""
    set_local_matrix(transform, local_matrix(transform, matrix))


def local_matrix(transform: Any, ct_to_world: Array) -> Array:
    """The matrix to its parent (4x4) that a "CT to C-arm" transform has where it puts the placed frame there."""
    return inverse_affine(_world_from_parent(transform)) @ ct_to_world


def set_local_matrix(transform: Any, matrix: Array) -> None:
    """The reverse of :func:`local_matrix`."""
    transform.SetMatrixTransformToParent(vtk_matrix(matrix))


def inverse_affine(matrix: Array) -> Array:
    """The inverse of a 4x4 affine map; of the identity exactly the identity."""
    return matrix if np.array_equal(matrix, np.eye(4)) else np.asarray(np.linalg.inv(matrix), float)


def pose_from_transform(ct_to_world: Array, c0: Array) -> Array:
    """cameraToRAS that a "CT to C-arm" transform stands for: inv(ctToWorld) @ C0."""
    return inverse(ct_to_world) @ c0


def transform_from_pose(camera_to_ras: Array, c0: Array) -> Array:
    """ctToWorld = C0 @ inv(cameraToRAS)."""
    return c0 @ inverse(camera_to_ras)
