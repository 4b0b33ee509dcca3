"""One part of a CT: a segment with air around it, a box as a CT cut there; where they lie, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from vtkmodules.util.numpy_support import numpy_to_vtk

import scene_support as kit
from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.geometry.coordinates import transform_points
from DiffPoseSlicerLib.geometry.pose import Pose, view_rotation
from DiffPoseSlicerLib.geometry.se3 import rigid, so3_exp
from DiffPoseSlicerLib.scene import placement, region
from DiffPoseSlicerLib.scene.logic import SceneLogic
from DiffPoseSlicerLib.scene.task import finish

AFFINE = rigid(so3_exp([0.2, -0.1, 0.3]), [12.0, -30.0, 50.0]) @ np.diag([2.0, 2.5, 3.0, 1.0])


@pytest.fixture
def ct():
    kit.CORE.clear()
    rng = np.random.default_rng(0)
    yield kit.volume_node(rng.integers(-100, 1200, (18, 22, 26)).astype(np.int16), AFFINE)
    kit.CORE.clear()


def segmentation(ct, masks, name="Spine"):
    """A segmentation of a CT with a segment for each mask [k, j, i]; their IDs."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(ct)
    keys = []
    for label, mask in masks.items():
        keys.append(node.GetSegmentation().AddEmptySegment(label, label))
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, keys[-1], ct)
    return node, keys


def box(center, size, turn=((1, 0, 0), (0, 1, 0), (0, 0, 1))):
    """A region of interest in the world, mm."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    node.SetCenter([0.0, 0.0, 0.0])
    node.SetSize(*map(float, size))
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, center
    node.SetAndObserveObjectToNodeMatrix(kit.vtk_matrix(matrix))
    return node


def masks(shape=(18, 22, 26)):
    first, second = np.zeros(shape, bool), np.zeros(shape, bool)
    first[4:9, 6:14, 8:17] = True
    first[5, 7, 9] = False
    second[10:15, 3:9, 12:20] = True
    return {"L3": first, "L4": second}


@pytest.mark.parametrize("which", [0, 1])
def test_a_segment_s_block_holds_its_voxels_where_they_are_and_air_around(ct, which):
    node, keys = segmentation(ct, masks())
    block = finish(region.cut(ct, region.checked((node, keys[which]))))
    hu, mask = slicer.util.arrayFromVolume(ct), list(masks().values())[which]
    part = block.slab(0, len(block.hu))
    i, j, k = block.start
    expected = np.where(mask, hu, region.AIR_HU)[k:, j:, i:][: part.shape[0], : part.shape[1], : part.shape[2]]
    np.testing.assert_array_equal(part, expected)
    assert (part > region.AIR_HU).sum() == (np.where(mask, hu, region.AIR_HU) > region.AIR_HU).sum()  # all of it
    np.testing.assert_allclose(
        transform_points(block.affine, [[0, 0, 0], [3, 2, 1]]),
        transform_points(AFFINE, [[i, j, k], [i + 3, j + 2, k + 1]]),
        atol=1e-9,
    )
    assert min(np.array(part.shape) - 2) > 0 and part[0].max() == region.AIR_HU  # a margin


def test_segments_that_share_a_labelmap_are_told_apart(ct):
    parts = list(masks().values())
    labels = slicer.vtkOrientedImageData()
    labels.DeepCopy(slicer.vtkSlicerSegmentationsModuleLogic.CreateOrientedImageDataFromVolumeNode(ct))
    shared = numpy_to_vtk((parts[0] + 2 * parts[1]).astype(np.uint8).ravel(), deep=True)
    labels.GetPointData().SetScalars(shared)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Spine")
    for value in (1, 2):
        segment = slicer.vtkSegment()
        segment.SetLabelValue(value)
        segment.AddRepresentation("Binary labelmap", labels)
        node.GetSegmentation().AddSegment(segment, str(value))
    for value, mask in enumerate(parts, 1):
        block = finish(region.cut(ct, region.checked((node, str(value)))))
        assert (block.slab(0, len(block.hu)) > region.AIR_HU).sum() == mask.sum()


def test_a_segmentation_on_another_grid_is_taken_by_the_nearest_label(ct):
    """A finer labelmap, turned against the CT, with a sphere in it: the CT's voxels inside the sphere are kept."""
    fine = kit.volume_node(np.zeros((60, 60, 60), np.uint8), rigid(so3_exp([0.4, 0, -0.2]), [0, 0, 0]))
    middle = transform_points(AFFINE, [[13.0, 11.0, 9.0]])[0]
    matrix = kit.node_to_world(fine)
    matrix[:3, 3] = middle - matrix[:3, :3] @ [30, 30, 30]
    fine.SetIJKToRASMatrix(kit.vtk_matrix(matrix))
    k, j, i = np.indices((60, 60, 60))
    node, keys = segmentation(fine, {"Ball": (i - 30) ** 2 + (j - 30) ** 2 + (k - 30) ** 2 < 15**2})
    block = finish(region.cut(ct, region.checked((node, keys[0]))))
    part = block.slab(0, len(block.hu))
    kk, jj, ii = np.indices(part.shape)
    world = transform_points(block.affine, np.stack([ii, jj, kk], -1).reshape(-1, 3))
    away = np.linalg.norm(world - middle, axis=1).reshape(part.shape)
    assert (part[away > 16] == region.AIR_HU).all()
    kept = slicer.util.arrayFromVolume(ct)[block.start[2] :, block.start[1] :, block.start[0] :]
    kept = kept[: part.shape[0], : part.shape[1], : part.shape[2]]
    np.testing.assert_array_equal(part[away < 14], kept[away < 14])


def test_a_turned_box_is_cut_to_its_bounds_and_moves_along_with_the_ct(ct):
    center = transform_points(AFFINE, [[13.0, 11.0, 9.0]])[0]
    node = box(center, [14, 12, 15], AFFINE[:3, :3] / np.linalg.norm(AFFINE[:3, :3], axis=0))
    block = finish(region.cut(ct, region.checked(node)))
    np.testing.assert_array_equal(block.start, [9, 8, 6])  # 13 - 7 / 2, 11 - 6 / 2.5, 9 - 7.5 / 3, rounded outwards
    assert block.hu.shape == (7, 7, 9)
    # Drawn on a CT that has moved: it lies in the patient where it was drawn.
    transform = placement.insert_transform(ct)
    moved = rigid(so3_exp([0.0, 0.3, 0.1]), [40.0, 5.0, -20.0])
    placement.set_ct_to_world(transform, moved)
    other = box(transform_points(moved, [center])[0], [14, 12, 15], moved[:3, :3] @ AFFINE[:3, :3] / [2, 2.5, 3])
    region._take_along(other, ct)
    assert other.GetParentTransformNode() is transform
    for roi in (other, node):
        if roi is node:
            placement.attach(node, transform)
        again = finish(region.cut(ct, region.checked(roi)))
        np.testing.assert_array_equal(again.start, block.start)
        assert again.hu.shape == block.hu.shape


def test_what_is_no_region_is_refused_in_words(ct):
    node, keys = segmentation(ct, {"L3": masks()["L3"], "Nothing": np.zeros((18, 22, 26), bool)})
    assert region.checked(None) is None and region.segments(ct) == []
    assert region.segments(node) == [("L3", "L3"), ("Nothing", "Nothing")]
    with pytest.raises(InputError, match="is no region"):
        region.checked(ct)
    with pytest.raises(InputError, match="Choose which segment"):
        region.checked(node)
    with pytest.raises(InputError, match="empty"):
        finish(region.cut(ct, region.checked((node, keys[1]))))
    with pytest.raises(InputError, match="outside the CT"):
        finish(region.cut(ct, region.checked(box([900.0, 0, 0], [20, 20, 20]))))
    with pytest.raises(InputError, match="not drawn"):
        finish(region.cut(ct, region.checked(box([0.0, 0, 0], [0, 0, 0]))))


@pytest.mark.parametrize("kind", ["segment", "box"])
def test_a_region_is_registered_to_where_it_lies_while_the_rest_has_moved(small_ct, kind):
    """The image shows the left half of the chest moved against the right one; the region is the right half."""
    from DiffPoseSlicerLib import CTVolume, render

    kit.CORE.clear()
    node = kit.ct_node(small_ct)
    truth = Pose.about(view_rotation("AP"), small_ct.center, kit.CARM, [0.03, -0.02, 0.02, 4.0, -5.0, 6.0])
    half = small_ct.hu.shape[2] // 2
    mine, rest = (np.full_like(small_ct.hu, -1000) for _ in range(2))
    mine[:, :, half:], rest[:, :, :half] = small_ct.hu[:, :, half:], small_ct.hu[:, :, :half]
    apart = Pose(truth.camera_to_ras @ rigid(so3_exp([0.02, 0.0, 0.05]), [6.0, 4.0, 0.0]))
    image = sum(
        render(CTVolume.from_array(hu, small_ct.affine), kit.CARM, pose, device="cpu")
        for hu, pose in ((mine, truth), (rest, apart))
    )
    fluoro = kit.fluoroscopy_node(image)
    logic = SceneLogic(slicer.mrmlScene, device="cpu")
    try:
        logic.set_geometry(fluoro, kit.CARM)
        if kind == "segment":
            seg, keys = segmentation(node, {"Ribs": mine > 150})
            part = (seg, keys[0])
        else:
            corners = transform_points(small_ct.affine, [[half, 0, 0], np.array(small_ct.hu.shape[::-1]) - 1.0])
            part = box(corners.mean(0), np.abs(corners[1] - corners[0]))
        middle = transform_points(small_ct.affine, [[half * 1.5, *np.array(small_ct.hu.shape[1::-1]) / 2]])[0]

        def off():
            seen = transform_points(logic.pose(node, fluoro).ras_to_camera, [middle])[0]
            return np.linalg.norm((seen - transform_points(truth.ras_to_camera, [middle])[0])[:2])

        logic.register(node, fluoro, "view")
        whole = off()
        steps = []
        result = logic.register(node, fluoro, "current", region=part, on_progress=steps.append)
        assert steps and result["start"] == "current"
        assert off() < 2.0 and 2 * off() < whole  # half a voxel of 4 mm
        again = logic.register(node, fluoro, "search", region=part)  # found with all of the CT first
        assert again["start"] == "search, then region" and 2 * off() < whole
    finally:
        logic.close()
        kit.CORE.clear()
