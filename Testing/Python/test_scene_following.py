"""Runs and structures in the scene, by the real engine."""

from __future__ import annotations

import numpy as np
import pytest
import slicer

import scene_support as kit
from DiffPoseSlicerLib import CTVolume, render
from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.evaluation.metrics import default_points, mtre
from DiffPoseSlicerLib.geometry.pose import Pose, view_rotation
from DiffPoseSlicerLib.scene.fluoroscopy import browser_of
from DiffPoseSlicerLib.scene.logic import SceneLogic
from DiffPoseSlicerLib.scene.placement import find_transform, get_ct_to_world


@pytest.fixture(scope="module")
def logic():
    logic = SceneLogic(slicer.mrmlScene, device="cpu")
    yield logic
    logic.close()


@pytest.fixture(autouse=True)
def empty_scene(logic):
    kit.CORE.clear()
    yield
    logic.forget_scene()
    kit.CORE.clear()


def poses_of(ct: CTVolume, count: int) -> list[Pose]:
    steps = [n * np.array([0.02, -0.02, 0.02, 3, -2, 3]) for n in range(count)]
    return [Pose.about(view_rotation("AP"), ct.center, kit.CARM, step) for step in steps]


def run_node(images: list[np.ndarray]):
    """The current frame of a sequence of fluoroscopies, and what browses it."""
    frames = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Run")
    for number, image in enumerate(images):
        frame = slicer.vtkMRMLScalarVolumeNode()
        slicer.util.updateVolumeFromArray(frame, image[None])
        frames.SetDataNodeAtValue(frame, str(number))
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.SetAndObserveMasterSequenceNodeID(frames.GetID())
    sequences = kit.CORE.modules["Sequences"].logic()

    def browse(number: int) -> None:
        browser.SetSelectedItemNumber(number)
        sequences.UpdateAllProxyNodes()

    browse(0)
    return browser.GetProxyNode(frames), browse


def test_a_run_is_followed_and_the_ct_lies_right_in_each_frame(logic, small_ct):
    poses = poses_of(small_ct, 5)
    images = [render(small_ct, kit.CARM, pose, device="cpu") for pose in poses]
    node = kit.ct_node(small_ct)
    fluoro, browse = run_node(images)
    logic.set_geometry(fluoro, kit.CARM)
    told = []
    result = logic.track(node, fluoro, "view", first=1, last=4, on_frame=told.append)
    assert [frame["frame"] for frame in result["frames"]] == [1, 2, 3, 4] == [frame["frame"] for frame in told]
    points = default_points(small_ct.center)
    for number in (4, 2, 1, 3):
        browse(number)
        assert mtre(logic.pose(node, fluoro), poses[number], points) < 1.0
    assert [frame["state"] for frame in logic.tracked(fluoro)] == ["found", "tracked", "tracked", "tracked"]
    # From the shown frame on, and from where the CT lies in it.
    browse(3)
    again = logic.track(node, fluoro, "current")
    assert [frame["frame"] for frame in again["frames"]] == [3, 4]
    assert [frame["frame"] for frame in logic.tracked(fluoro)] == [1, 2, 3, 4]
    with pytest.raises(InputError, match="no frames 2 to 9"):
        logic.track(node, fluoro, first=2, last=9)
    single = kit.fluoroscopy_node(images[0])
    logic.set_geometry(single, kit.CARM)
    with pytest.raises(InputError, match="single image"):
        logic.track(node, single)


def test_a_stopped_run_keeps_what_is_done(logic, small_ct):
    poses = poses_of(small_ct, 4)
    node = kit.ct_node(small_ct)
    fluoro, _ = run_node([render(small_ct, kit.CARM, pose, device="cpu") for pose in poses])
    logic.set_geometry(fluoro, kit.CARM)
    done = []

    def stop(frame):
        done.append(frame)
        task.cancel()

    task = logic.track(node, fluoro, "view", blocking=False, on_frame=stop)
    while task.running:
        logic.poll()
    assert task.state == "cancelled"
    kept = logic.tracked(fluoro)
    assert kept and len(kept) == len(done) < 4
    assert find_transform(node) is not None and browser_of(fluoro)[0].GetSelectedItemNumber() == 0


def test_structures_get_transforms_of_their_own(logic, small_ct):
    """Two halves of the chest as segments: each is found, and the CT stays where it is."""
    middle = small_ct.hu.shape[2] // 2
    labels = np.zeros(small_ct.hu.shape, np.uint8)
    labels[:, :, :middle][small_ct.hu[:, :, :middle] > 100] = 1
    labels[:, :, middle:][small_ct.hu[:, :, middle:] > 100] = 2
    truth = poses_of(small_ct, 2)[1]
    image = render(small_ct, kit.CARM, truth, device="cpu")
    node, fluoro = kit.ct_node(small_ct), kit.fluoroscopy_node(image)
    logic.set_geometry(fluoro, kit.CARM)
    logic.place_carm(node, fluoro)
    map_node = kit.volume_node(labels, small_ct.affine, "Labels", "vtkMRMLLabelMapVolumeNode")
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Bones")
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(map_node, segmentation)
    right, left = segmentation.GetSegmentation().GetSegmentIDs()
    structures = {"right": (segmentation, right), "left": (segmentation, left)}
    before = logic.pose(node, fluoro).camera_to_ras
    found = logic.register_structures(node, fluoro, structures, "view")
    assert set(found) == {"right", "left"}
    assert logic.pose(node, fluoro).camera_to_ras == pytest.approx(before)
    for name, entry in found.items():
        transform = slicer.util.getNode(f"{name} to C-arm")
        np.testing.assert_allclose(get_ct_to_world(transform), entry["ctToWorld"], atol=1e-6)
        pose = Pose(np.array(entry["views"][0]["cameraToRAS"]))
        # Bones alone, soft tissue around them: what a view across its beam tells is what is judged.
        middle_of = small_ct.center + [0, 0, 0]
        seen, expected = ((p.ras_to_camera @ [*middle_of, 1])[:2] for p in (pose, truth))
        assert np.linalg.norm(seen - expected) < 3.0
    with pytest.raises(InputError, match="no segment 'spine'"):
        logic.register_structures(node, fluoro, {"spine": (segmentation, "spine")})
