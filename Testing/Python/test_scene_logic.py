"""The logic with the real engine: what the scene shows is what the library computes."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
import slicer

import scene_support as kit
from DiffPoseSlicerLib.errors import Cancelled, InputError
from DiffPoseSlicerLib.geometry.files import read_json
from DiffPoseSlicerLib.geometry.pose import Pose, view_rotation
from DiffPoseSlicerLib.geometry.se3 import rigid, rotation_angle, so3_exp
from DiffPoseSlicerLib.scene import carm_nodes, placement
from DiffPoseSlicerLib.scene.logic import SceneLogic
from DiffPoseSlicerLib.scene.nodes import helpers, referenced
from DiffPoseSlicerLib.scene.surface import SURFACE

TURN = rigid(so3_exp([0.2, -0.4, 0.9]), [30.0, -12.0, 7.0])
OFFSET = np.array([0.06, -0.05, 0.04, 6.0, -8.0, 10.0])


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


def truth_of(ct, view="AP"):
    return Pose.about(view_rotation(view), ct.center, kit.CARM, OFFSET)


@pytest.fixture(scope="module")
def rendered(small_ct):
    from DiffPoseSlicerLib import render

    return render(small_ct, kit.CARM, truth_of(small_ct), device="cpu")


def story(logic, ct, pixels):
    node, fluoro = kit.ct_node(ct), kit.fluoroscopy_node(pixels)
    logic.set_geometry(fluoro, kit.CARM)
    logic.place_carm(node, fluoro)
    return node, fluoro


def near(pose, truth, center, mm=1.0):
    assert np.degrees(rotation_angle(pose.camera_to_ras[:3, :3].T @ truth.camera_to_ras[:3, :3])) < 0.5
    for point in center + 60 * np.vstack([np.zeros(3), np.eye(3)]):
        there = [(p.ras_to_camera @ [*point, 1])[:3] for p in (pose, truth)]
        assert np.linalg.norm(there[0] - there[1]) < mm


def test_importing_the_scene_layer_loads_no_engine_library():
    import subprocess

    code = (
        "import sys; import DiffPoseSlicerLib.scene.logic, DiffPoseSlicerLib.scene.views;"
        "print([m for m in ('torch', 'warp', 'SimpleITK', 'pydicom', 'scipy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_transform_node_says_what_the_api_and_the_command_line_say(logic, small_ct, rendered, tmp_path):
    """One start, one CT, one image: through nodes, through register() and through the command line."""
    import subprocess

    from DiffPoseSlicerLib import XrayImage, register

    node, fluoro = story(logic, small_ct, rendered)
    truth = truth_of(small_ct)
    start = Pose.about(view_rotation("AP"), small_ct.center, kit.CARM)
    result = logic.register(node, fluoro, start=start)
    direct = register(small_ct, [XrayImage.from_array(rendered, kit.CARM)], start, view="AP", device="cpu")
    near(Pose(result["views"][0]["cameraToRAS"]), truth, small_ct.center)
    np.testing.assert_allclose(result["views"][0]["cameraToRAS"], direct.pose.camera_to_ras, atol=1e-3)
    matrix = placement.get_ct_to_world(placement.find_transform(node))
    np.testing.assert_allclose(matrix, direct.ct_to_world, atol=1e-3)
    np.testing.assert_allclose(matrix, result["ctToWorld"], atol=1e-9)

    files = {name: str(tmp_path / name) for name in ("ct.nii.gz", "x.npy", "carm.json", "start.json", "result.json")}
    small_ct.write(files["ct.nii.gz"])
    np.save(files["x.npy"], rendered)
    kit.CARM.write(files["carm.json"])
    start.write(files["start.json"])
    command = [sys.executable, "-m", "DiffPoseSlicerLib", "register", files["ct.nii.gz"], files["x.npy"], "--carm",
               files["carm.json"], "--start", "pose:" + files["start.json"], "--view", "AP", "-o", files["result.json"],
               "--device", "cpu"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(read_json(files["result.json"], "result")["ctToWorld"], matrix, atol=1e-3)


def test_an_oblique_ct_under_a_parent_is_registered_where_it_lies(logic, small_ct, rendered):
    """A CT turned by its own matrix, and the same CT turned back by a parent: one pose, in the placed frame."""
    from DiffPoseSlicerLib.imaging.ct import CTVolume

    turned = CTVolume.from_array(small_ct.hu, TURN @ small_ct.affine)
    node, fluoro = kit.ct_node(turned), kit.fluoroscopy_node(rendered)
    parent = kit.transform_node(np.linalg.inv(TURN))
    node.SetAndObserveTransformNodeID(parent.GetID())
    logic.set_geometry(fluoro, kit.CARM)
    result = logic.register(node, fluoro, start=Pose.about(view_rotation("AP"), small_ct.center, kit.CARM))
    truth = truth_of(small_ct)
    near(Pose(result["views"][0]["cameraToRAS"]), truth, small_ct.center)
    # In the world, voxels now lie before the resting camera as they lay before the true one.
    voxels = np.array([[5, 6, 7, 1], [60, 20, 30, 1], [20, 60, 50, 1.0]]).T
    seen = np.linalg.inv(logic.c0(fluoro)) @ kit.node_to_world(node) @ voxels
    np.testing.assert_allclose(seen, truth.ras_to_camera @ small_ct.affine @ voxels, atol=1.0)
    assert parent.GetParentTransformNode() is placement.find_transform(node)


def test_the_synthetic_x_ray_in_the_scene_is_the_library_s(logic, small_ct, rendered):
    node, fluoro = story(logic, small_ct, rendered)
    drr = logic.render(node, fluoro, truth_of(small_ct))
    np.testing.assert_allclose(slicer.util.arrayFromVolume(drr)[0], rendered, atol=1e-4)
    np.testing.assert_allclose(
        kit.node_to_world(drr), carm_nodes.detector_matrix(kit.CARM, logic.c0(fluoro)), atol=1e-9
    )
    coarse = logic.render(node, fluoro, pixels=40)
    assert slicer.util.arrayFromVolume(coarse).shape == (1, 40, 32)
    corner = (kit.node_to_world(coarse) @ [-0.5, -0.5, 0, 1])[:3]
    np.testing.assert_allclose(corner, carm_nodes.detector_corners(kit.CARM, logic.c0(fluoro))[0], atol=1e-6)


def test_the_transform_follows_while_it_registers_and_ends_on_the_result(logic, small_ct, rendered):
    node, fluoro = story(logic, small_ct, rendered)
    logic.load_ct(node)
    transform, seen, steps, done = placement.find_transform(node), [], [], []
    tag = transform.AddObserver(
        slicer.vtkMRMLTransformNode.TransformModifiedEvent,
        lambda *_: seen.append(placement.get_ct_to_world(transform)),
    )
    task = logic.register(node, fluoro, "search", blocking=False, on_progress=steps.append, on_done=done.append)
    assert task.running and logic.busy
    while logic.poll():
        time.sleep(0.002)
    transform.RemoveObserver(tag)
    assert task.state == "done" and done == [task.result] and not logic.busy
    assert 3 <= len(seen) <= len(steps) + 1
    np.testing.assert_allclose(seen[-1], task.result["ctToWorld"], atol=1e-9)
    # What is shown on the way is an iteration's own pose.
    poses = [placement.transform_from_pose(np.array(s["cameraToRAS"]), logic.c0(fluoro)) for s in steps]
    assert all(min(np.abs(matrix - pose).max() for pose in poses) < 1e-6 for matrix in seen[:-1])
    near(Pose(task.result["views"][0]["cameraToRAS"]), truth_of(small_ct), small_ct.center)


def test_a_registration_can_start_from_where_the_ct_lies_and_be_undone(logic, small_ct, rendered):
    node, fluoro = story(logic, small_ct, rendered)
    by_hand = Pose.about(view_rotation("AP"), small_ct.center, kit.CARM, OFFSET * 0.4)
    logic.set_pose(node, fluoro, by_hand)
    transform = placement.find_transform(node)
    before = placement.get_ct_to_world(transform)
    result = logic.register(node, fluoro, start="current")
    assert result["start"] == "current"
    near(logic.pose(node, fluoro), truth_of(small_ct), small_ct.center)
    assert logic.undo(node, fluoro)
    np.testing.assert_allclose(placement.get_ct_to_world(transform), before, atol=1e-9)
    assert logic.result(fluoro) is None and not logic.undo(node, fluoro)
    with pytest.raises(InputError, match="register first"):
        logic.accept(node, fluoro)
    logic.register(node, fluoro, start="current")
    logic.accept(node, fluoro)
    assert not logic.undo(node, fluoro)


def test_a_stopped_registration_puts_the_ct_back(logic, small_ct, rendered):
    node, fluoro = story(logic, small_ct, rendered)
    logic.load_ct(node)
    errors = []
    task = logic.register(node, fluoro, "search", blocking=False, on_progress=lambda _: task.cancel(),
                          on_error=errors.append)  # fmt: skip
    while logic.poll():
        time.sleep(0.002)
    assert task.state == "cancelled" and isinstance(errors[0], Cancelled)
    np.testing.assert_allclose(placement.get_ct_to_world(placement.find_transform(node)), np.eye(4), atol=1e-12)
    assert logic.result(fluoro) is None


def test_bad_input_is_one_sentence_and_the_logic_goes_on(logic, small_ct, rendered):
    node, fluoro = story(logic, small_ct, rendered)
    with pytest.raises(InputError, match="No fluoroscopy is chosen"):
        logic.register(node, [])
    with pytest.raises(InputError, match="not rigid"):
        logic.register(node, fluoro, np.diag([2.0, 1, 1, 1]))
    with pytest.raises(InputError):
        logic.register(node, fluoro, "nowhere/to/be/found")
    assert not logic.busy
    assert logic.render(node, fluoro) is not None


def test_the_ct_goes_to_the_engine_once_and_again_when_it_changes(logic, small_ct, rendered):
    node, fluoro = story(logic, small_ct, rendered)
    first = logic.load_ct(node)
    logic.render(node, fluoro)
    assert logic.load_ct(node) is first
    slicer.util.arrayFromVolume(node)[:] = -1000
    slicer.util.arrayFromVolumeModified(node)
    assert logic.loaded(node) is None
    assert slicer.util.arrayFromVolume(logic.render(node, fluoro)).max() < 1e-3
    assert logic.load_ct(node).key != first.key


def test_a_bone_surface_comes_with_the_ct_and_moves_with_it(logic, small_ct, rendered):
    node, _ = story(logic, small_ct, rendered)
    logic.load_ct(node)
    model = referenced(node, SURFACE)
    assert model.GetPolyData().GetNumberOfPoints() > 1000
    assert model.GetParentTransformNode() is node.GetParentTransformNode()
    # It lies where bone is: the CT at the surface's points is far above soft tissue on average.
    points = slicer.util.arrayFromModelPoints(model)[::50]
    ijk = np.rint((np.linalg.inv(small_ct.affine) @ np.c_[points, np.ones(len(points))].T)[:3]).astype(int)
    inside = ((ijk >= 0) & (ijk < np.array(small_ct.hu.shape[::-1])[:, None])).all(0)
    i, j, k = ijk[:, inside]
    assert 120 < np.median(small_ct.hu[k, j, i]) < 500


def test_the_ct_s_place_goes_with_the_frame_of_a_run(logic, small_ct, rendered):
    node = kit.ct_node(small_ct)
    frames = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Run")
    for number in range(3):
        frame = slicer.vtkMRMLScalarVolumeNode()
        slicer.util.updateVolumeFromArray(frame, np.roll(rendered, 6 * number, 0)[None])
        frames.SetDataNodeAtValue(frame, str(number))
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.SetAndObserveMasterSequenceNodeID(frames.GetID())
    sequences = kit.CORE.modules["Sequences"].logic()

    def browse(number):
        browser.SetSelectedItemNumber(number)
        sequences.UpdateAllProxyNodes()

    browse(0)
    fluoro = browser.GetProxyNode(frames)
    logic.set_geometry(fluoro, kit.CARM)
    places = {}
    for number in (0, 2):
        browse(number)
        logic.register(node, fluoro, start="view")
        places[number] = np.array(logic.result(fluoro)["views"][0]["cameraToRAS"])
        np.testing.assert_allclose(logic.pose(node, fluoro).camera_to_ras, places[number], atol=1e-6)
    assert np.abs(places[0] - places[2]).max() > 0.01
    for number in (0, 2, 0):
        browse(number)
        np.testing.assert_allclose(logic.pose(node, fluoro).camera_to_ras, places[number], atol=1e-6)
    browse(1)  # not registered: the CT stays
    np.testing.assert_allclose(logic.pose(node, fluoro).camera_to_ras, places[0], atol=1e-6)
    assert placement.is_ct_to_carm(placement.find_transform(node))
    assert browser.GetNumberOfSynchronizedSequenceNodes(True) == 2
    browse(2)
    assert logic.undo(node, fluoro)
    browse(0)
    browse(2)  # no longer registered
    np.testing.assert_allclose(logic.pose(node, fluoro).camera_to_ras, places[0], atol=1e-6)


def test_a_search_may_leave_the_view_open(logic, small_ct):
    from DiffPoseSlicerLib import render

    truth = truth_of(small_ct, "LEFT_LATERAL")
    node, fluoro = story(logic, small_ct, render(small_ct, kit.CARM, truth, device="cpu"))  # the node says AP
    result = logic.register(node, fluoro, "anywhere")
    near(Pose(result["views"][0]["cameraToRAS"]), truth, small_ct.center)
    near(logic.pose(node, fluoro), truth, small_ct.center)


def test_two_views_are_registered_as_one_body(logic, small_ct, rendered):
    from DiffPoseSlicerLib import render

    truths = [truth_of(small_ct), truth_of(small_ct, "LEFT_LATERAL")]
    node, ap = story(logic, small_ct, rendered)
    lateral = kit.fluoroscopy_node(render(small_ct, kit.CARM, truths[1], device="cpu"), "Lateral")
    logic.set_geometry(lateral, kit.CARM)
    nudge = rigid(so3_exp([0.03, 0.02, -0.03]), [3.0, -2.0, 4.0])
    result = logic.register(node, [ap, lateral], [Pose(nudge @ truth.camera_to_ras) for truth in truths])
    for index, (fluoro, truth) in enumerate(zip((ap, lateral), truths, strict=True)):
        near(Pose(result["views"][index]["cameraToRAS"]), truth, small_ct.center)
        near(logic.pose(node, fluoro), truth, small_ct.center)  # each C-arm stands where it belongs in the scene


def test_a_saved_scene_comes_back_whole_twice(logic, small_ct, rendered, tmp_path):
    node, fluoro = story(logic, small_ct, rendered)
    logic.show(node, fluoro)
    result = logic.register(node, fluoro, Pose.about(view_rotation("AP"), small_ct.center, kit.CARM))
    logic.render(node, fluoro)
    pose, nodes = logic.pose(node, fluoro).camera_to_ras, slicer.mrmlScene.GetNumberOfNodes()
    roles = sorted(h.GetAttribute("DiffPoseSlicer.role") for h in helpers(slicer.mrmlScene))
    for turn in range(2):
        path = str(tmp_path / f"scene{turn}.mrb")
        assert slicer.mrmlScene.WriteToMRB(path)
        logic.forget_scene()
        kit.CORE.clear()
        assert slicer.mrmlScene.ReadFromMRB(path)
        node, fluoro = slicer.util.getNode("CT"), slicer.util.getNode("Fluoroscopy")
        assert logic.geometry(fluoro) == kit.CARM
        assert logic.result(fluoro, node) == result
        np.testing.assert_allclose(logic.pose(node, fluoro).camera_to_ras, pose, atol=1e-5)
        logic.show(node, fluoro)
        logic.render(node, fluoro)
        assert sorted(h.GetAttribute("DiffPoseSlicer.role") for h in helpers(slicer.mrmlScene)) == roles
    # Storage nodes come with saving; nothing else may have piled up.
    storage = kit.count("vtkMRMLStorageNode")
    assert slicer.mrmlScene.GetNumberOfNodes() - storage <= nodes


def test_closing_the_scene_while_it_registers_harms_nothing(logic, small_ct, rendered):
    kit.CORE.clear()
    kept = kit.count("vtkMRMLTransformNode")  # singletons of Slicer's own survive closing a scene
    node, fluoro = story(logic, small_ct, rendered)
    task = logic.register(node, fluoro, "search", blocking=False)
    for _ in range(30):
        logic.poll()
        time.sleep(0.005)
    logic.forget_scene()
    kit.CORE.clear()
    while logic.poll():
        time.sleep(0.002)
    assert task.state in ("cancelled", "failed") and kit.count("vtkMRMLTransformNode") == kept


def test_export_writes_the_result_and_a_transform_slicer_reads(logic, small_ct, rendered, tmp_path):
    node, fluoro = story(logic, small_ct, rendered)
    with pytest.raises(InputError, match="register first"):
        logic.export(node, fluoro, tmp_path / "result.json")
    result = logic.register(node, fluoro, Pose.about(view_rotation("AP"), small_ct.center, kit.CARM))
    logic.export(node, fluoro, tmp_path / "result.json")
    assert read_json(tmp_path / "result.json", "result") == result
    logic.export(node, fluoro, tmp_path / "ct_to_carm.tfm")
    loaded = slicer.modules.transforms.logic().AddTransform(str(tmp_path / "ct_to_carm.tfm"), slicer.mrmlScene)
    np.testing.assert_allclose(placement.get_ct_to_world(loaded), result["ctToWorld"], atol=1e-5)
    with pytest.raises(InputError, match="ending"):
        logic.export(node, fluoro, tmp_path / "result.doc")
    page = logic.report(node, fluoro, tmp_path / "page.html", patient="Case 7")
    text = page.read_text(encoding="utf-8")
    assert "Case 7" in text and "data:image/png" in text
    with pytest.raises(InputError, match="cannot be written"):
        logic.report(node, fluoro, tmp_path / "missing" / "page.html")
    with pytest.raises(InputError, match="cannot be written"):
        logic.export(node, fluoro, tmp_path / "missing" / "result.json")
