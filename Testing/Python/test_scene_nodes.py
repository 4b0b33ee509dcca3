"""Nodes and their places: the transform above the CT, the C-arm's nodes, what a fluoroscopy keeps."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk

import scene_support as kit
from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.geometry.carm import CArm
from DiffPoseSlicerLib.geometry.coordinates import transform_points
from DiffPoseSlicerLib.geometry.pose import Pose
from DiffPoseSlicerLib.geometry.se3 import rigid, so3_exp
from DiffPoseSlicerLib.scene import carm_nodes, fluoroscopy, overlays, placement, views
from DiffPoseSlicerLib.scene.logic import SceneLogic
from DiffPoseSlicerLib.scene.nodes import FOLDER_NAME, folder_item, helpers, referenced
from DiffPoseSlicerLib.scene.upload import ct_array, ct_center, ct_volume

SHEAR = np.array([[0.9, 0.1, 0.0, -40.0], [-0.2, 0.8, 0.3, -30.0], [0.0, -0.3, 2.0, 15.0], [0, 0, 0, 1.0]])
TURN = rigid(so3_exp([0.2, -0.4, 0.9]), [30.0, -12.0, 7.0])


@pytest.fixture(autouse=True)
def empty_scene():
    kit.CORE.clear()
    yield
    kit.CORE.clear()


@pytest.fixture
def logic():
    logic = SceneLogic(slicer.mrmlScene)
    yield logic
    logic.close()


def small(affine=SHEAR, shape=(5, 6, 7)):
    return kit.volume_node(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), affine)


def image():
    return kit.fluoroscopy_node(np.random.default_rng(0).random((160, 128)).astype(np.float32))


def test_a_ct_node_and_a_ct_volume_have_every_voxel_in_the_same_place():
    node = small()
    node.SetAndObserveTransformNodeID(kit.transform_node(TURN).GetID())
    ct = ct_volume(node)
    assert np.array_equal(ct.hu, slicer.util.arrayFromVolume(node))
    np.testing.assert_allclose(ct.affine, kit.node_to_world(node), atol=1e-9)
    np.testing.assert_allclose(ct_center(node), ct.center, atol=1e-9)


@pytest.mark.parametrize("parents", [[], [TURN], [TURN, SHEAR]], ids=["none", "one", "two, the upper sheared"])
def test_the_transform_goes_above_the_topmost_parent_and_moves_nothing_by_itself(parents):
    node = small()
    bottom = node
    for matrix in parents:
        parent = kit.transform_node(matrix)
        bottom.SetAndObserveTransformNodeID(parent.GetID())
        bottom = parent
    before = kit.node_to_world(node)
    transform = placement.insert_transform(node)
    assert bottom.GetParentTransformNode() is transform
    assert placement.insert_transform(node) is transform
    np.testing.assert_allclose(kit.node_to_world(node), before, atol=1e-9)
    np.testing.assert_allclose(placement.placed_affine(node), before, atol=1e-9)
    placement.set_ct_to_world(transform, TURN)
    np.testing.assert_allclose(kit.node_to_world(node), TURN @ before, atol=1e-9)
    np.testing.assert_allclose(placement.placed_affine(node), before, atol=1e-9)


def test_a_transform_put_above_ours_by_the_user_is_accounted_for():
    node = small()
    transform = placement.insert_transform(node)
    transform.SetAndObserveTransformNodeID(kit.transform_node(TURN).GetID())
    wanted = rigid(so3_exp([0.1, 0, 0]), [1.0, 2.0, 3.0])
    placement.set_ct_to_world(transform, wanted)
    np.testing.assert_allclose(placement.get_ct_to_world(transform), wanted, atol=1e-9)
    np.testing.assert_allclose(kit.node_to_world(node), wanted @ SHEAR, atol=1e-9)


def test_detaching_puts_the_ct_back_under_what_was_above():
    node = small()
    transform = placement.insert_transform(node)
    placement.set_ct_to_world(transform, TURN)
    placement.detach(node)
    np.testing.assert_allclose(kit.node_to_world(node), SHEAR, atol=1e-9)
    assert transform.GetScene() is None


def test_a_transform_that_bends_space_is_refused_with_what_to_do():
    node = small()
    bent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "Bent")
    spline = slicer.vtkOrientedBSplineTransform()
    coefficients = vtk.vtkImageData()
    coefficients.SetDimensions(4, 4, 4)
    coefficients.AllocateScalars(vtk.VTK_DOUBLE, 3)
    spline.SetCoefficientData(coefficients)
    bent.SetAndObserveTransformToParent(spline)
    node.SetAndObserveTransformNodeID(bent.GetID())
    with pytest.raises(InputError, match="'Bent'.*harden"):
        placement.placed_affine(node)


def test_a_segmentation_made_on_the_ct_moves_with_it(logic):
    ct, other = small(), small()
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Spine")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(ct)
    stranger = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Other")
    stranger.SetReferenceImageGeometryParameterFromVolumeNode(other)
    fluoro = image()
    logic.set_geometry(fluoro, kit.CARM)
    logic.place_carm(ct, fluoro)
    assert segmentation.GetParentTransformNode() is placement.find_transform(ct)
    assert stranger.GetParentTransformNode() is None


def test_what_is_filed_with_the_ct_moves_with_it(logic):
    """Models, markups and segmentations of the same study or folder; not another one's, nor what lies loose beside."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    ct, fluoro = small(), image()
    study, other = (hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), name) for name in ("Study", "Other"))
    kinds = ("vtkMRMLModelNode", "vtkMRMLMarkupsFiducialNode", "vtkMRMLSegmentationNode", "vtkMRMLScalarVolumeNode")
    along, strange, loose = (
        [slicer.mrmlScene.AddNewNodeByClass(kind, f"{place}{kind}") for kind in kinds] for place in ("a", "b", "c")
    )
    for folder, nodes in ((study, [ct, *along]), (other, strange)):
        for node in nodes:
            hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), folder)
    below = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "Below")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(below), hierarchy.GetItemByDataNode(ct))
    logic.set_geometry(fluoro, kit.CARM)
    logic.place_carm(ct, fluoro)
    transform = placement.find_transform(ct)
    assert all(node.GetParentTransformNode() is transform for node in (*along[:3], below))
    assert all(node.GetParentTransformNode() is None for node in (along[3], *strange, *loose))


def test_the_detector_stands_where_the_camera_says(logic):
    ct, fluoro = small(), image()
    logic.set_geometry(fluoro, kit.CARM)
    c0 = logic.place_carm(ct, fluoro, "AP", lao_rao=10, cran_caud=-5)
    detector = logic.show(ct, fluoro)
    matrix = kit.node_to_world(detector)
    for column, row in ((0, 0), (127, 0), (127, 159), (0, 159), (60, 82.5)):
        expected = transform_points(c0, kit.CARM.detector_points([column, row]))
        np.testing.assert_allclose((matrix @ [column, row, 0, 1])[:3], expected, atol=1e-9)
    # The principal point is where the perpendicular from the source meets the plane, at the detector's distance.
    foot = (matrix @ [60, 82.5, 0, 1])[:3]
    assert np.linalg.norm(foot - c0[:3, 3]) == pytest.approx(1020.0)
    bounds = np.zeros(6)
    referenced(fluoro, carm_nodes.BEAM).GetPolyData().GetBounds(bounds)
    corners = carm_nodes.detector_corners(kit.CARM, c0)
    everything = np.vstack([corners, c0[:3, 3]])
    np.testing.assert_allclose(bounds.reshape(3, 2), np.stack([everything.min(0), everything.max(0)], 1), atol=1e-3)
    # An unmoved patient: the CT's centre lies on the central ray at the isocentre's distance.
    center = ct_center(ct)
    np.testing.assert_allclose(center, transform_points(c0, [0, 0, kit.CARM.source_to_isocenter]), atol=1e-9)
    np.testing.assert_allclose(placement.get_ct_to_world(placement.find_transform(ct)), np.eye(4), atol=1e-12)


def test_ap_has_the_source_in_front_and_the_head_up(logic):
    ct, fluoro = small(np.diag([1.0, 1, 1, 1])), image()
    logic.set_geometry(fluoro, kit.CARM)
    c0 = logic.place_carm(ct, fluoro, "AP")
    assert c0[1, 3] > 600  # anterior of a CT near the origin
    slice_axes = carm_nodes.slice_to_ras(kit.CARM, c0)[:3, :3]
    np.testing.assert_allclose(slice_axes[:, 1], [0, 0, 1], atol=1e-12)  # up in the view is towards the head
    assert np.linalg.det(slice_axes) == pytest.approx(1)


def test_a_slice_view_shows_the_whole_detector():
    c0 = Pose.from_view("AP", np.zeros(3), kit.CARM).camera_to_ras
    node = slicer.vtkMRMLSliceNode()
    slicer.mrmlScene.AddNode(node)
    node.SetDimensions(400, 300, 1)
    views.aim_slice(node, kit.CARM, c0)
    width, height, _ = node.GetFieldOfView()
    assert height == pytest.approx(160 * 2.0) and width == pytest.approx(160 * 2.0 * 400 / 300)
    xy_to_ras = np.array([[node.GetXYToRAS().GetElement(r, c) for c in range(4)] for r in range(4)])
    # The middle of the view is the middle of the image; +y of the view is up, against the rows.
    middle = (xy_to_ras @ [200, 150, 0, 1])[:3]
    np.testing.assert_allclose(middle, carm_nodes.detector_corners(kit.CARM, c0).mean(0), atol=1.0)
    up = (xy_to_ras @ [200, 250, 0, 1])[:3] - middle
    assert up @ c0[:3, 1] < 0


def test_looking_from_the_source_fills_the_view_with_the_detector():
    camera = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCameraNode", "Camera")
    carm = CArm(1000.0, (100, 100), (2.0, 2.0))
    c0 = Pose.from_view("PA", np.zeros(3), carm).camera_to_ras
    views.look_from_source(camera, carm, c0)
    np.testing.assert_allclose(camera.GetCamera().GetPosition(), c0[:3, 3], atol=1e-9)
    matrix = camera.GetCamera().GetProjectionTransformMatrix(1.0, -1, 1)
    view = camera.GetCamera().GetViewTransformMatrix()
    top_left = [*carm_nodes.detector_corners(carm, c0)[0], 1.0]
    clip = matrix.MultiplyPoint(view.MultiplyPoint(top_left))
    np.testing.assert_allclose(np.array(clip[:2]) / clip[3], [-1, 1], atol=1e-6)


def test_helpers_are_hidden_kept_in_one_folder_and_never_pile_up(logic):
    ct, fluoro = small(), image()
    logic.set_geometry(fluoro, kit.CARM)
    for view in ("AP", "PA", "AP"):
        logic.place_carm(ct, fluoro, view)
        logic.show(ct, fluoro)
    found = list(helpers(slicer.mrmlScene))
    roles = [node.GetAttribute("DiffPoseSlicer.role") for node in found]
    assert sorted(roles) == sorted({"ctToCarm", "detector", "source", "beam"})
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    folder = folder_item(hierarchy)
    assert hierarchy.GetItemName(folder) == FOLDER_NAME
    for node in found:
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == folder
        assert bool(node.GetHideFromEditors()) == (node.GetAttribute("DiffPoseSlicer.role") != "ctToCarm")
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    carm_nodes.remove_carm(fluoro)
    assert slicer.mrmlScene.GetNumberOfNodes() < nodes - 5  # display nodes left as well
    assert referenced(fluoro, "detector") is None


def test_geometry_survives_a_change_of_frame():
    """Slicer replaces a frame's attributes when another frame is shown; what belongs to the run must stay."""
    sequences = slicer.modules.sequences.logic()
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Run")
    for number in range(3):
        frame = slicer.vtkMRMLScalarVolumeNode()
        slicer.util.updateVolumeFromArray(frame, np.full((1, 160, 128), number, np.int16))
        sequence.SetDataNodeAtValue(frame, str(number))
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    sequences.UpdateAllProxyNodes()
    frame = browser.GetProxyNode(sequence)
    assert fluoroscopy.record(frame) is sequence
    fluoroscopy.set_carm(frame, kit.CARM, {"sourceToDetector": "typed"})
    browser.SetSelectedItemNumber(2)
    sequences.UpdateAllProxyNodes()
    assert fluoroscopy.stored_pixels(frame)[0, 0] == 2
    assert fluoroscopy.get_carm(frame) == kit.CARM
    assert fluoroscopy.get_sources(frame) == {"sourceToDetector": "typed"}


def test_colour_images_become_grey():
    pixels = np.zeros((1, 4, 5, 3), np.uint8)
    pixels[0, 1, 2] = (30, 60, 90)
    node = kit.volume_node(pixels, class_name="vtkMRMLVectorVolumeNode")
    grey = fluoroscopy.stored_pixels(node)
    assert grey.shape == (4, 5) and grey[1, 2] == 60


def test_what_is_no_ct_or_no_fluoroscopy_is_said(logic):
    ct, fluoro = small(), image()
    with pytest.raises(InputError, match="single values is needed"):
        ct_array(fluoro)
    with pytest.raises(InputError, match="no fluoroscopy: choose an image of one slice"):
        fluoroscopy.stored_pixels(ct)
    with pytest.raises(InputError, match="geometry of 'Fluoroscopy' is not known"):
        logic.place_carm(ct, fluoro)
    with pytest.raises(InputError, match="No CT is chosen"):
        ct_array(None)
    with pytest.raises(InputError, match="has 160 x 128"):
        logic.set_geometry(fluoro, CArm(1000, (128, 160), (1, 1)))
    logic.set_geometry(fluoro, CArm(1000, (128, 160), (1, 1), rotation=90))  # turned, it fits


def test_dragging_the_ct_by_hand_changes_the_pose_and_setting_the_pose_moves_the_ct(logic):
    ct, fluoro = small(), image()
    logic.set_geometry(fluoro, kit.CARM)
    c0 = logic.place_carm(ct, fluoro)
    transform = placement.find_transform(ct)
    np.testing.assert_allclose(logic.pose(ct, fluoro).camera_to_ras, c0, atol=1e-9)
    placement.set_ct_to_world(transform, TURN)
    pose = logic.pose(ct, fluoro)
    point = np.array([3.0, -4.0, 5.0])  # where a point of the CT lies in the camera, both ways
    seen = transform_points(np.linalg.inv(c0), transform_points(TURN, point))
    np.testing.assert_allclose(transform_points(pose.ras_to_camera, point), seen, atol=1e-9)
    placement.set_ct_to_world(transform, np.eye(4))
    logic.set_pose(ct, fluoro, pose)
    np.testing.assert_allclose(placement.get_ct_to_world(transform), TURN, atol=1e-9)


def test_overlays_show_and_hide_what_they_should():
    drr = np.zeros((64, 48), np.float32)
    drr[:, 24:] = 1.0
    marks = overlays.edges(drr)
    # One line along the step, in every row, and nothing elsewhere.
    assert set(np.flatnonzero((marks > 0).any(0))) <= {23, 24} and (marks > 0).any(1).all()
    board = overlays.checkerboard(drr)
    assert (board == overlays.HIDDEN).mean() == pytest.approx(0.5, abs=0.05) and set(np.unique(board)) == {
        -1.0,
        0.0,
        1.0,
    }
    assert np.abs(overlays.difference(drr * 3 + 5, drr)).max() < 1e-5
    assert overlays.fitted(drr, (32, 24)).shape == (32, 24)


def test_dragging_renders_as_many_pixels_as_come_back_in_time(monkeypatch):
    """Slow computers get fewer pixels while things move, fast ones more; all of them once things rest."""
    from types import SimpleNamespace

    from DiffPoseSlicerLib.scene import live

    clock = [0.0]
    monkeypatch.setattr(live.time, "perf_counter", lambda: clock[0])
    asked = []

    def render(_ct, _node, *, pixels, blocking, on_done, on_error):
        asked.append((pixels, on_done))

    node = SimpleNamespace(GetScene=lambda: True)
    drr = live.LiveDrr(SimpleNamespace(render=render), lambda: None, lambda _error: None)

    def rendering(took):
        drr.pump()
        clock[0] += took
        asked[-1][1](None)

    for took, fits in ((0.4, lambda now, before: now < before), (0.005, lambda now, before: now > before)):
        for _ in range(12):
            before = drr.pixels
            drr.want(node, node)
            rendering(took)
            assert fits(drr.pixels, before) or drr.pixels in (drr.FEWEST_PIXELS, drr.MOST_PIXELS)
        assert drr.pixels == (drr.FEWEST_PIXELS if took > 0.1 else drr.MOST_PIXELS)
    assert drr.pump() and len(asked) == 24  # not at rest yet
    clock[0] += 1.0
    rendering(5.0)
    assert asked[-1][0] is None and drr.pixels == drr.MOST_PIXELS and not drr.pump()
