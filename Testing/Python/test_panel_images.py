"""What comes with the images: geometry of DICOM files, landmarks, a second view; several poses and warnings."""

from __future__ import annotations

import numpy as np
import pytest
import slicer

import scene_support as kit
import test_panel as story
from DiffPoseSlicerLib import Pose, render
from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.geometry.coordinates import transform_points
from DiffPoseSlicerLib.geometry.pose import view_rotation
from DiffPoseSlicerLib.geometry.se3 import inverse, rigid, so3_exp
from DiffPoseSlicerLib.imaging.dicom_export import write_dicom_xray
from DiffPoseSlicerLib.scene import landmarks, placement, views
from DiffPoseSlicerLib.scene import results as kept
from DiffPoseSlicerLib.scene.nodes import referenced
from test_panel import BAD, GOOD, WARN, loaded, panel, register, rendered, said, settle, sign, truth_of, with_images
from test_scene_region import segmentation

pytest_plugins = ["slicerhost.pytest_plugin"]
__all__ = ["loaded", "panel", "rendered"]
POINTS = np.array([[0, 0, 0], [40, 10, 20], [-35, 20, 30], [20, -30, -40], [-20, -10, -60], [50, 30, -20]], float)


@pytest.fixture(autouse=True)
def no_files(host):
    yield
    slicer.dicomDatabase.clear()


def marked(name, world, names=None):
    """A point list at positions in the world."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for index, point in enumerate(world):
        node.AddControlPointWorld(*map(float, point), names[index] if names else f"{name}-{index}")
    return node


def both_lists(panel, node, fluoro, truth, names=None):
    """The same landmarks in the CT and, where the true pose shows them, on the detector."""
    center = panel.logic.loaded(node).center
    c0 = panel.logic.c0(fluoro)
    in_ct = POINTS + center
    camera = transform_points(inverse(truth.camera_to_ras), in_ct)
    on_detector = camera * (kit.CARM.source_to_detector / camera[:, 2:])
    seen = marked("Seen", transform_points(c0, on_detector), names and names[::-1])
    if names:  # another order: names count
        seen.RemoveAllControlPoints()
        for index in range(len(POINTS))[::-1]:
            seen.AddControlPointWorld(*transform_points(c0, on_detector)[index].tolist(), names[index])
    return marked("Points", in_ct, names), seen


@pytest.mark.parametrize("names", [None, [f"L{n}" for n in range(6)]])
def test_landmarks_start_a_registration_and_their_errors_are_shown(host, panel, small_ct, rendered, names):
    node, fluoro = with_images(panel, small_ct, rendered)
    settle(host, panel)
    truth = truth_of(small_ct)
    host.user.choose(panel.ui.startCombo, "Landmarks")
    assert panel.ui.pointsSelector.visible and panel.ui.seenSelector.visible
    assert not panel.ui.registerButton.enabled and "point lists" in said(panel.ui.registerStateLabel)
    points, seen = both_lists(panel, node, fluoro, truth, names)
    host.user.choose(panel.ui.pointsSelector, "Points")
    host.user.choose(panel.ui.seenSelector, "Seen")
    register(host, panel)
    found = np.array(panel.logic.result(fluoro)["views"][0]["cameraToRAS"])
    center = panel.logic.loaded(node).center
    assert np.linalg.norm(transform_points(inverse(found) @ truth.camera_to_ras, [0, 0, 0])) < 3
    assert np.linalg.norm(transform_points(inverse(found), center) - transform_points(truth.ras_to_camera, center)) < 1
    assert panel.logic.result(fluoro)["start"] == "landmarks"
    settle(host, panel)
    text = panel.ui.landmarksLabel.text
    assert text.count("mm") == 6 and panel.ui.landmarksLabel.visible
    # The points moved along with the CT.
    errors = panel.logic.landmark_errors(node, fluoro, points, seen)
    assert max(errors.values()) < 1.0
    host.user.choose(panel.ui.startCombo, "Automatic")
    assert not panel.ui.pointsSelector.visible


def test_landmarks_are_placed_by_mouse_in_both_views(host, panel, small_ct, rendered):
    node, fluoro = with_images(panel, small_ct, rendered)
    settle(host, panel)
    ui, user, manager = panel.ui, host.user, host.app.layoutManager()
    user.choose(ui.startCombo, "Landmarks")
    assert ui.pointsPlace.visible and not ui.pointsPlace.placeButton().enabled  # no list yet
    image, bones = manager.sliceWidget(views.VIEW_XRAY).sliceView(), manager.threeDWidget(views.VIEW_3D).threeDView()
    x, y = story.in_view(bones, [*small_ct.center, 1])
    for selector, place, view, spots in (
        (ui.seenSelector, ui.seenPlace, image, [(200, 400), (150, 450)]),
        (ui.pointsSelector, ui.pointsPlace, bones, [(x + 20, y + 10), (x - 10, y + 30)]),
    ):
        user.choose(selector, "Create new MarkupsFiducial")
        user.click(place.placeButton())
        for spot in spots:  # several in a row
            user.drag(view, (spot[0] - 5, spot[1]), spot, 3, button=user.NO_BUTTON)
            user.click(view, user.QPoint(*spot))
        user.click(place.placeButton())
        assert not place.placeModeEnabled
    seen, points = panel.parameters.seen, panel.parameters.points
    assert seen.GetNumberOfDefinedControlPoints() == points.GetNumberOfDefinedControlPoints() == 2
    in_camera = transform_points(inverse(panel.logic.c0(fluoro)), slicer.util.arrayFromMarkupsControlPoints(seen))
    np.testing.assert_allclose(in_camera[:, 2], kit.CARM.source_to_detector, atol=1e-3)
    bone = referenced(node, "surface").GetPolyData()
    for point in slicer.util.arrayFromMarkupsControlPoints(points):
        nearest = bone.GetPoint(bone.FindPoint(point.tolist()))
        assert np.linalg.norm(nearest - point) < 10  # on the bone's surface
    user.choose(ui.startCombo, "Automatic")
    settle(host, panel)


def test_landmarks_that_cannot_be_paired_are_refused(panel, small_ct, rendered):
    node, fluoro = with_images(panel, small_ct, rendered)
    points = marked("Points", POINTS)
    with pytest.raises(InputError, match="two point lists"):
        panel.logic.landmarks(node, fluoro, points, None)
    with pytest.raises(InputError, match="one list"):
        panel.logic.landmarks(node, fluoro, points, points)
    with pytest.raises(InputError, match="cannot be paired"):
        panel.logic.landmarks(node, fluoro, points, marked("Seen", POINTS[:5]))
    with pytest.raises(InputError, match="at least 4"):
        panel.logic.landmarks(node, fluoro, marked("A", POINTS[:3]), marked("B", POINTS[:3]))
    assert landmarks.to_start(panel.logic.landmarks(node, fluoro, points, marked("C", POINTS)))["landmarks"]


def test_geometry_comes_from_the_dicom_file(host, panel, small_ct, rendered, tmp_path):
    carm = kit.CARM
    path = tmp_path / "x.dcm"
    pose = Pose.about(view_rotation("PA", 12.0, -4.0), small_ct.center, carm)
    write_dicom_xray(path, render(small_ct, carm, pose, device="cpu"), carm, pose)
    stored = slicer.util.arrayFromVolume
    node = kit.fluoroscopy_node(rendered)
    node.SetAttribute("DICOM.instanceUIDs", slicer.dicomDatabase.add(path))
    panel.parameters.ct, panel.parameters.fluoroscopy = kit.ct_node(small_ct), node
    host.user.wait(lambda: panel.logic.geometry(node) is not None, 30)
    settle(host, panel)
    found = panel.logic.geometry(node)
    assert abs(found.source_to_detector - carm.source_to_detector) < 1e-3 and stored(node).size
    np.testing.assert_allclose(found.pixel_spacing, carm.pixel_spacing, atol=1e-5)
    assert "1020 mm (DICOM)" in panel.ui.fluoroscopyInfoLabel.text
    assert panel.parameters.view.value == "PA"
    assert abs(panel.parameters.laoRao - 12.0) < 0.01 and abs(panel.parameters.cranCaud + 4.0) < 0.01


def test_a_dicom_file_that_lacks_the_distance_is_said(host, panel, small_ct, rendered, tmp_path):
    import pydicom

    path = tmp_path / "x.dcm"
    write_dicom_xray(path, rendered, kit.CARM, truth_of(small_ct))
    dataset = pydicom.dcmread(path)
    for name in ("DistanceSourceToDetector", "DistanceSourceToPatient", "EstimatedRadiographicMagnificationFactor"):
        if name in dataset:
            del dataset[name]
    dataset.save_as(path)
    node = kit.fluoroscopy_node(rendered)
    node.SetAttribute("DICOM.instanceUIDs", slicer.dicomDatabase.add(path))
    panel.parameters.ct, panel.parameters.fluoroscopy = kit.ct_node(small_ct), node
    settle(host, panel)
    assert panel.logic.geometry(node) is None
    assert sign(panel.ui.imagesStateLabel) == WARN
    assert "distance from source to detector" in said(panel.ui.imagesStateLabel)


def test_two_views_are_registered_together(host, panel, small_ct, rendered):
    node, fluoro = with_images(panel, small_ct, rendered)
    settle(host, panel)
    truth = truth_of(small_ct)
    relative = Pose.about(view_rotation("LEFT_LATERAL"), small_ct.center, kit.CARM).camera_to_ras @ inverse(
        Pose.about(view_rotation("AP"), small_ct.center, kit.CARM).camera_to_ras
    )
    side = Pose(truth.camera_to_ras @ inverse(panel.logic.c0(fluoro)) @ relative @ panel.logic.c0(fluoro))
    second = kit.fluoroscopy_node(render(small_ct, kit.CARM, side, device="cpu"), name="Second")
    host.user.choose(panel.ui.secondSelector, "Second")
    assert not panel.ui.registerButton.enabled and "second view" in panel.ui.registerButton.toolTip
    panel.logic.set_geometry(second, kit.CARM)
    panel.logic.place_carm(node, second, "LEFT_LATERAL")
    panel.refresh()
    host.user.choose(panel.ui.startCombo, "View as given")
    register(host, panel)
    result = panel.logic.result(fluoro)
    assert result is not None and len(result["views"]) == 2
    host.user.choose(panel.ui.startCombo, "Automatic")


def moved(pose, turn, shift):
    """A pose off another one."""
    return Pose(pose.camera_to_ras @ rigid(so3_exp(turn), shift))


def off(panel, node, fluoro, ct, pose, axes=3):
    """How far the CT's centre is from where a pose has it, mm; with 2 axes, across the beam."""
    seen, true = ((p.ras_to_camera @ [*ct.center, 1])[:axes] for p in (panel.logic.pose(node, fluoro), pose))
    return np.linalg.norm(seen - true)


def test_a_second_fluoroscopy_has_a_result_of_its_own_and_the_first_keeps_its(host, panel, small_ct, rendered):
    node, first = with_images(panel, small_ct, rendered)
    settle(host, panel)
    register(host, panel)
    truth = truth_of(small_ct)
    before = panel.logic.pose(node, first).camera_to_ras
    other = moved(truth, [0.03, -0.02, 0.05], [-12.0, 9.0, 15.0])
    second = kit.fluoroscopy_node(render(small_ct, kit.CARM, other, device="cpu"), "Second")
    host.user.choose(panel.ui.fluoroscopySelector, "Second")
    assert "as before" in panel.ui.fluoroscopyInfoLabel.text  # the same C-arm
    settle(host, panel)
    assert said(panel.ui.registerStateLabel) == "Ready to register." and not panel.ui.acceptButton.enabled
    register(host, panel)
    assert off(panel, node, second, small_ct, other) < 1.0
    sources = [referenced(n, "source").GetDisplayNode() for n in (first, second)]
    assert [bool(display.GetVisibility()) for display in sources] == [False, True]  # one C-arm at a time
    host.user.choose(panel.ui.fluoroscopySelector, first.GetName())
    settle(host, panel)
    np.testing.assert_allclose(panel.logic.pose(node, first).camera_to_ras, before, atol=1e-9)
    assert panel.logic.result(first) is not None and "rusted" in said(panel.ui.registerStateLabel)
    assert panel.ui.acceptButton.enabled and [bool(d.GetVisibility()) for d in sources] == [True, False]
    host.user.choose(panel.ui.fluoroscopySelector, "Second")
    settle(host, panel)
    assert off(panel, node, second, small_ct, other) < 1.0


def test_follow_registers_each_frame_of_a_run_and_the_ct_goes_with_the_browser(host, panel, small_ct, rendered):
    truth = truth_of(small_ct)
    poses = [truth, moved(truth, [0, 0.02, 0], [4.0, 2.0, 0]), moved(truth, [0.01, 0.03, -0.02], [7.0, 5.0, 3.0])]
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Run")
    for number, pose in enumerate(poses):
        frame = slicer.vtkMRMLScalarVolumeNode()
        slicer.util.updateVolumeFromArray(frame, render(small_ct, kit.CARM, pose, device="cpu")[None])
        sequence.SetDataNodeAtValue(frame, str(number))
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())

    def show(number):
        browser.SetSelectedItemNumber(number)
        slicer.modules.sequences.logic().UpdateAllProxyNodes()

    show(0)
    fluoro = browser.GetProxyNode(sequence)
    panel.logic.set_geometry(fluoro, kit.CARM)
    node = kit.ct_node(small_ct, "Chest CT")
    panel.parameters.ct, panel.parameters.fluoroscopy = node, fluoro
    settle(host, panel)
    register(host, panel)
    host.user.click(panel.ui.followCheckBox)
    for number in (1, 2):
        show(number)
        host.user.wait(lambda: panel.register.task is not None, 10)
        host.user.wait(lambda: panel.register.task is None, 60)
        settle(host, panel)
        assert "start: current" in panel.ui.registerDetailLabel.text
        assert off(panel, node, fluoro, small_ct, poses[number]) < 1.0
    host.user.click(panel.ui.followCheckBox)
    for number in (0, 2, 1):  # browsing brings the CT to where it lay
        show(number)
        settle(host, panel)
        assert off(panel, node, fluoro, small_ct, poses[number]) < 1.0, number
    assert panel.register.task is None


def test_several_poses_and_warnings_are_shown(host, panel, small_ct, rendered):
    node, fluoro = with_images(panel, small_ct, rendered)
    settle(host, panel)
    pose = panel.logic.pose(node, fluoro).camera_to_ras
    other = pose @ np.array([[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    result = {
        "views": [{"cameraToRAS": pose.tolist(), "similarity": 0.9}],
        "hypotheses": [{"cameraToRAS": p.tolist(), "similarity": 0.9, "probability": 0.5} for p in (pose, other)],
        "warnings": ["The image seems to be stored mirrored."],
        "trust": {"trusted": False, "reasons": ["two poses"]},
        "c0": panel.logic.c0(fluoro).tolist(),
    }
    kept.keep_result(fluoro, node, result, [])
    panel.ui.reviewSection.collapsed = False
    panel.registered()
    assert "mirrored" in said(panel.ui.reviewStateLabel) and sign(panel.ui.reviewStateLabel) == WARN
    assert sign(panel.ui.registerStateLabel) == BAD and "two poses" in said(panel.ui.registerStateLabel)
    assert panel.ui.acceptButton.enabled and not panel.ui.acceptButton.styleSheet  # allowed, not suggested
    host.user.click(panel.ui.hypothesesButton)
    np.testing.assert_allclose(panel.logic.pose(node, fluoro).camera_to_ras, other, atol=1e-6)
    assert "2 of 2" in panel.ui.hypothesesButton.text
    host.user.click(panel.ui.hypothesesButton)
    np.testing.assert_allclose(panel.logic.pose(node, fluoro).camera_to_ras, pose, atol=1e-6)
    # The other one is accepted: the result, and what is exported, say so.
    host.user.click(panel.ui.hypothesesButton)
    host.user.click(panel.ui.acceptButton)
    result = panel.logic.result(fluoro)
    np.testing.assert_allclose(result["views"][0]["cameraToRAS"], other, atol=1e-9)
    np.testing.assert_allclose(result["hypotheses"][1]["cameraToRAS"], pose, atol=1e-9)
    transform = placement.find_transform(node)
    np.testing.assert_allclose(result["ctToWorld"], placement.get_ct_to_world(transform), atol=1e-6)
    assert "1 of 2" in panel.ui.hypothesesButton.text and "Accepted." in said(panel.ui.registerStateLabel)
    sure = {"trusted": True, "probability": 0.9993, "reasons": []}
    kept.keep_result(fluoro, node, result | {"trust": sure, "expectedErrorMm": 0.42, "warnings": []}, [])
    panel.registered()
    text = said(panel.ui.registerStateLabel)
    assert sign(panel.ui.registerStateLabel) == GOOD and "more than 99 %" in text and "0.4 mm" in text
    assert panel.ui.acceptButton.styleSheet
    kept.forget_result(fluoro)
    panel.registered()
    assert not panel.ui.hypothesesButton.visible and story.GOOD == GOOD
    settle(host, panel)


def test_one_segment_or_a_box_is_registered(host, panel, small_ct, rendered):
    """The region is chosen in step Images; the result says so; the scene keeps it; another choice is told apart."""
    node, fluoro = with_images(panel, small_ct, rendered)
    settle(host, panel)
    ui, user, truth = panel.ui, host.user, truth_of(small_ct)
    assert not ui.segmentCombo.visible
    bones, keys = segmentation(node, {"Left": small_ct.hu > 300, "Right": small_ct.hu > 150}, "Bones")
    user.choose(ui.regionSelector, "Bones")
    assert ui.segmentCombo.visible and ui.segmentCombo.currentText == "Left"
    assert panel.parameters.segment == keys[0]
    user.choose(ui.segmentCombo, "Right")
    assert panel.parameters.segment == keys[1]
    user.choose(ui.startCombo, "Automatic")
    register(host, panel)
    assert "start: search, then region" in ui.registerDetailLabel.text
    assert off(panel, node, fluoro, small_ct, truth, 2) < 2.5  # bones alone hardly know their depth
    assert bones.GetParentTransformNode() is placement.find_transform(node)
    middle = transform_points(small_ct.affine, [np.array(small_ct.hu.shape[::-1]) / 2])[0]
    box = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    box.SetSize(150.0, 150.0, 200.0)
    box.SetCenter(transform_points(placement.get_ct_to_world(placement.find_transform(node)), [middle])[0].tolist())
    user.choose(ui.regionSelector, "Box")
    assert not ui.segmentCombo.visible
    user.choose(ui.startCombo, "Where the CT is now")
    register(host, panel)
    assert off(panel, node, fluoro, small_ct, truth, 2) < 2.5
    box.SetSize(0.0, 0.0, 0.0)
    register(host, panel)
    assert sign(ui.registerStateLabel) == BAD and "not drawn yet" in said(ui.registerStateLabel)
    user.choose(ui.regionSelector, "Whole CT")
    user.choose(ui.startCombo, "Automatic")
    register(host, panel)
    assert off(panel, node, fluoro, small_ct, truth) < 1.0
