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
from DiffPoseSlicerLib.geometry.se3 import inverse
from DiffPoseSlicerLib.imaging.dicom_export import write_dicom_xray
from DiffPoseSlicerLib.scene import landmarks
from DiffPoseSlicerLib.scene import results as kept
from test_panel import GOOD, WARN, loaded, panel, register, rendered, said, settle, sign, truth_of, with_images

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
    }
    kept.keep_result(fluoro, node, result, [])
    panel.ui.reviewSection.collapsed = False
    panel.registered()
    assert "mirrored" in said(panel.ui.reviewStateLabel) and sign(panel.ui.reviewStateLabel) == WARN
    host.user.click(panel.ui.hypothesesButton)
    np.testing.assert_allclose(panel.logic.pose(node, fluoro).camera_to_ras, other, atol=1e-6)
    assert "2 of 2" in panel.ui.hypothesesButton.text
    host.user.click(panel.ui.hypothesesButton)
    np.testing.assert_allclose(panel.logic.pose(node, fluoro).camera_to_ras, pose, atol=1e-6)
    kept.forget_result(fluoro)
    panel.registered()
    assert not panel.ui.hypothesesButton.visible and story.GOOD == GOOD
    settle(host, panel)
