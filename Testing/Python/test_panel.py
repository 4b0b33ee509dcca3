"""The panel in the host, with the real engine: every button, every state, every failure, driven as a user does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import slicer

import scene_support as kit
from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.geometry.files import read_json
from DiffPoseSlicerLib.geometry.pose import Pose, view_rotation
from DiffPoseSlicerLib.geometry.se3 import rigid, rotation_angle, so3_exp
from DiffPoseSlicerLib.scene import carm_nodes, placement, views
from DiffPoseSlicerLib.scene.nodes import array_matrix, referenced

pytest_plugins = ["slicerhost.pytest_plugin"]

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DiffPoseSlicer" / "DiffPoseSlicer.py"
OFFSET = np.array([0.05, -0.04, 0.03, 5.0, -6.0, 8.0])
NUDGE = rigid(so3_exp([0.02, 0.03, -0.02]), [4.0, -3.0, 2.0])


@pytest.fixture(scope="module")
def loaded(running_host, tmp_path_factory):
    """The module, loaded once; its models in a folder of this run."""
    running_host.load(MODULE)
    running_host.open("DiffPoseSlicer")
    from DiffPoseSlicerLib.panel import settings

    settings.set_models_folder(str(tmp_path_factory.mktemp("models")))
    slicer.modules.DiffPoseSlicerWidget.logic.models_folder = settings.models_folder()
    slicer.modules.DiffPoseSlicerWidget.logic.device = "cpu"
    slicer.util.selectModule("Volumes")
    yield slicer.modules.DiffPoseSlicerWidget
    running_host.unload("DiffPoseSlicer")


@pytest.fixture
def panel(host, loaded):
    """The panel, shown, in an empty scene."""
    host.window.resize(1280, 900)
    widget = host.open("DiffPoseSlicer")
    yield widget.panel
    slicer.util.selectModule("Volumes")


@pytest.fixture(scope="module")
def rendered(small_ct):
    from DiffPoseSlicerLib import render

    return render(small_ct, kit.CARM, truth_of(small_ct), device="cpu")


def truth_of(ct):
    return Pose.about(view_rotation("AP"), ct.center, kit.CARM, OFFSET)


def said(label):
    """A state's sentence without its sign."""
    return label.text.split("&nbsp; ", 1)[-1]


def sign(label):
    """The colour of a state's sign."""
    return label.text.split("color:", 1)[-1][:7]


GOOD, WARN, BAD, IDLE, BUSY = "#2e9e5b", "#c98a00", "#d0453b", "#8a8f98", "#2f86d6"


def with_images(panel, ct, pixels, carm=kit.CARM):
    """A scene with both images, chosen, their geometry known."""
    node, fluoro = kit.ct_node(ct, "Chest CT"), kit.fluoroscopy_node(pixels, "Fluoroscopy")
    if carm is not None:
        panel.logic.set_geometry(fluoro, carm)
    panel.parameters.ct, panel.parameters.fluoroscopy = node, fluoro
    return node, fluoro


def unfold(host, section, on=True):
    """Open (or close) a section by its header, where it is not."""
    if section.collapsed == on:
        host.user.click(section)


def settle(host, panel):
    """Wait until nothing is under way."""
    host.user.wait(lambda: not panel.logic.busy and not panel.review.drr.pump() and not panel.logic.busy, 60)
    host.user.process_events(0.05)


def register(host, panel):
    host.user.click(panel.ui.registerButton)
    host.user.wait(lambda: panel.register.task is None, 60)
    settle(host, panel)


def in_view(view, point):
    """Where a point of the world is seen in a 3D or slice view, in the widget's pixels."""
    if hasattr(view, "sliceLogic"):
        matrix = slicer.vtkMRMLSliceNode.SafeDownCast(view.mrmlSliceNode()).GetXYToRAS()
        x, y = (np.linalg.inv(array_matrix(matrix)) @ point)[:2]
    else:
        renderer = view.renderer()
        renderer.SetWorldPoint(*point)
        renderer.WorldToDisplay()
        x, y = renderer.GetDisplayPoint()[:2]
    return round(x), round(view.height - 1 - y)


def assert_registered(panel, ct, node, fluoro):
    pose, truth = panel.logic.pose(node, fluoro), truth_of(ct)
    assert np.degrees(rotation_angle(pose.camera_to_ras[:3, :3].T @ truth.camera_to_ras[:3, :3])) < 0.5
    seen, true = ((p.ras_to_camera @ [*ct.center, 1])[:3] for p in (pose, truth))
    assert np.linalg.norm(seen - true) < 1.0


# ------------------------------------------------------------------------------------------------------ opening
def test_opening_the_module_imports_no_engine_library():
    code = f"""
import sys; sys.path.insert(0, {str(ROOT / "Testing" / "Host")!r})
from slicerhost.app import start
host = start([{str(MODULE)!r}])
host.open("DiffPoseSlicer")
print("FOUND", [m for m in ("torch", "warp", "SimpleITK", "scipy") if m in sys.modules], len(host.errors))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "FOUND [] 0" in done.stdout, done.stdout + done.stderr


def test_an_empty_scene_says_what_to_choose_and_every_disabled_button_why(panel):
    ui = panel.ui
    assert said(ui.imagesStateLabel).startswith("Choose the patient")
    for state in (ui.imagesStateLabel, ui.prepareStateLabel, ui.registerStateLabel, ui.reviewStateLabel):
        assert said(state) and sign(state) == IDLE
    buttons = (ui.registerButton, ui.prepareButton, ui.acceptButton, ui.undoButton, ui.exportButton, ui.turnLeftButton,
               ui.edgesButton, ui.lookButton, ui.pauseButton, ui.stopButton)  # fmt: skip
    for button in buttons:
        assert not button.enabled and button.toolTip, button.name


def test_the_layout_is_the_module_s_while_it_is_shown(host, panel):
    node = host.app.layoutManager().layoutLogic().GetLayoutNode()
    assert node.GetViewArrangement() == views.LAYOUT_ID
    assert views.tagged(slicer.mrmlScene, "vtkMRMLViewNode", views.VIEW_3D) is not None
    slicer.util.selectModule("Volumes")
    assert node.GetViewArrangement() == 3
    host.open("DiffPoseSlicer")
    assert node.GetViewArrangement() == views.LAYOUT_ID
    node.SetViewArrangement(4)  # the user wants another one: it stays
    slicer.util.selectModule("Volumes")
    assert node.GetViewArrangement() == 4


# ------------------------------------------------------------------------------------------------------- step 1
def test_choosing_images_and_a_preset_by_hand(host, panel, small_ct, rendered):
    user, ui = host.user, panel.ui
    kit.ct_node(small_ct, "Chest CT"), kit.ct_node(small_ct, "Another CT")
    kit.fluoroscopy_node(rendered, "Run 1"), kit.fluoroscopy_node(rendered, "Run 2")
    user.choose(ui.ctSelector, "Chest CT")
    assert ui.ctInfoLabel.text.endswith(" mm") and "Choose a fluoroscopy" in said(ui.imagesStateLabel)
    user.choose(ui.fluoroscopySelector, "Run 2")
    assert sign(ui.imagesStateLabel) == WARN and "geometry is not known" in said(ui.imagesStateLabel)
    assert not ui.geometryBox.collapsed and not ui.registerButton.enabled
    user.choose(ui.presetCombo, "Mobile C-arm, flat panel 30 x 30 cm")
    carm = panel.logic.geometry(panel.parameters.fluoroscopy)
    assert carm.source_to_detector == 1020 and carm.image_size == (160, 128)
    assert "1020 mm (typical)" in ui.fluoroscopyInfoLabel.text
    assert sign(ui.imagesStateLabel) == GOOD and ui.registerButton.enabled and "#2f6fb8" in ui.registerButton.styleSheet
    ui.geometryBox.collapsed = False
    user.type_text(ui.sddSpin, "1100")
    user.click(ui.applyGeometryButton)
    assert panel.logic.geometry(panel.parameters.fluoroscopy).source_to_detector == 1100
    assert "1100 mm (typed)" in ui.fluoroscopyInfoLabel.text
    # The next image of the same size gets the same C-arm, and says so.
    user.choose(ui.fluoroscopySelector, "Run 1")
    assert panel.logic.geometry(panel.parameters.fluoroscopy).source_to_detector == 1100
    assert "as before" in ui.fluoroscopyInfoLabel.text
    settle(host, panel)


def test_images_without_a_choice_are_chosen(host, panel, small_ct, rendered):
    node, fluoro = kit.ct_node(small_ct), kit.fluoroscopy_node(rendered)
    slicer.util.selectModule("Volumes")
    host.open("DiffPoseSlicer")
    assert panel.parameters.ct is node and panel.parameters.fluoroscopy is fluoro


def test_a_volume_is_no_fluoroscopy_and_an_image_no_ct(panel, small_ct, rendered):
    node, fluoro = kit.ct_node(small_ct, "Chest CT"), kit.fluoroscopy_node(rendered)
    panel.parameters.fluoroscopy = node
    assert sign(panel.ui.imagesStateLabel) == BAD and "no fluoroscopy" in said(panel.ui.imagesStateLabel)
    panel.parameters.fluoroscopy, panel.parameters.ct = fluoro, fluoro
    assert sign(panel.ui.imagesStateLabel) == BAD and "no CT" in said(panel.ui.imagesStateLabel)


def test_geometry_is_read_from_a_file_and_refused_where_it_does_not_fit(panel, small_ct, rendered, tmp_path):
    _, fluoro = with_images(panel, small_ct, rendered, None)
    kit.CARM.write(tmp_path / "carm.json")
    panel.images.read_geometry(str(tmp_path / "carm.json"))
    assert panel.logic.geometry(fluoro) == kit.CARM and "(file)" in panel.ui.fluoroscopyInfoLabel.text
    kit.CARM.resized((320, 256)).write(tmp_path / "other.json")
    panel.images.read_geometry(str(tmp_path / "other.json"))
    assert sign(panel.ui.imagesStateLabel) == BAD and "160 x 128" in said(panel.ui.imagesStateLabel)
    assert panel.logic.geometry(fluoro) == kit.CARM


def test_turning_and_mirroring_change_what_is_seen_as_the_button_says(host, panel, small_ct, rendered):
    _, fluoro = with_images(panel, small_ct, rendered)
    ui, user = panel.ui, host.user

    def seen():
        return slicer.util.arrayFromVolume(referenced(fluoro, carm_nodes.DETECTOR))[0]

    user.wait(lambda: not panel.showing)
    before = seen().copy()
    turns = {
        ui.turnLeftButton: lambda a: np.rot90(a),
        ui.turnRightButton: lambda a: np.rot90(a, -1),
        ui.mirrorButton: lambda a: a[:, ::-1],
    }
    expected = before
    left, right, mirror = ui.turnLeftButton, ui.turnRightButton, ui.mirrorButton
    for button in (left, mirror, left, mirror, right, right, left, left):
        point = panel.logic.geometry(fluoro).principal_point
        size = panel.logic.geometry(fluoro).image_size
        user.click(button)
        user.wait(lambda: not panel.showing)
        expected = turns[button](expected)
        np.testing.assert_array_equal(seen(), expected)
        # The principal point goes with the pixels.
        mark = np.zeros(size)
        mark[int(point[1]), int(point[0])] = 1
        carm = panel.logic.geometry(fluoro)
        row, column = np.argwhere(turns[button](mark))[0]
        assert abs(carm.principal_point[0] - column) <= 1 and abs(carm.principal_point[1] - row) <= 1
    np.testing.assert_array_equal(seen(), before)
    assert panel.logic.geometry(fluoro) == kit.CARM
    settle(host, panel)


def test_the_view_places_the_c_arm(host, panel, small_ct, rendered):
    from DiffPoseSlicerLib.panel.parameters import View

    node, fluoro = with_images(panel, small_ct, rendered)
    expected = Pose.from_view("AP", small_ct.center, kit.CARM).camera_to_ras
    np.testing.assert_allclose(panel.logic.c0(fluoro), expected, atol=1e-6)
    panel.parameters.view = View.LEFT_LATERAL
    panel.parameters.cranCaud = 12.0
    expected = Pose.from_view("LEFT_LATERAL", small_ct.center, kit.CARM, 0, 12).camera_to_ras
    np.testing.assert_allclose(panel.logic.c0(fluoro), expected, atol=1e-6)
    host.user.wait(lambda: not panel.showing)
    detector = referenced(fluoro, carm_nodes.DETECTOR)
    np.testing.assert_allclose(kit.node_to_world(detector), carm_nodes.detector_matrix(kit.CARM, expected), atol=1e-6)
    # Another image, then back: the view comes back with its image.
    other = kit.fluoroscopy_node(rendered, "Other")
    panel.logic.set_geometry(other, kit.CARM)
    panel.parameters.fluoroscopy = other
    panel.parameters.view = View.PA
    panel.parameters.fluoroscopy = fluoro
    assert panel.parameters.view is View.LEFT_LATERAL and panel.parameters.cranCaud == 12.0
    assert node is panel.parameters.ct


def test_a_run_is_shown_frame_by_frame(host, panel, small_ct, rendered):
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Run")
    for number in range(3):
        frame = slicer.vtkMRMLScalarVolumeNode()
        slicer.util.updateVolumeFromArray(frame, np.roll(rendered, 10 * number, 0)[None])
        sequence.SetDataNodeAtValue(frame, str(number))
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    slicer.modules.sequences.logic().UpdateAllProxyNodes()
    fluoro = browser.GetProxyNode(sequence)
    panel.logic.set_geometry(fluoro, kit.CARM)
    panel.parameters.ct, panel.parameters.fluoroscopy = kit.ct_node(small_ct), fluoro
    assert panel.ui.frameSeek.visible
    browser.SetSelectedItemNumber(2)
    slicer.modules.sequences.logic().UpdateAllProxyNodes()
    host.user.wait(lambda: referenced(sequence, carm_nodes.DETECTOR) is not None)
    detector = referenced(sequence, carm_nodes.DETECTOR)
    expected = np.roll(rendered, 20, 0)
    host.user.wait(lambda: np.allclose(slicer.util.arrayFromVolume(detector)[0], expected, atol=1e-3), 5)
    assert sign(panel.ui.imagesStateLabel) == GOOD
    settle(host, panel)


# ------------------------------------------------------------------------------------------------------- step 3
def test_the_whole_story_by_mouse(host, panel, small_ct, rendered, tmp_path):
    """Register, look, replay, accept, export; undo a second run."""
    user, ui = host.user, panel.ui
    node, fluoro = with_images(panel, small_ct, rendered)
    settle(host, panel)
    assert panel.logic.loaded(node) is not None  # handed over ahead of time
    assert said(ui.registerStateLabel) == "Ready to register."
    user.click(ui.registerButton)
    assert ui.registerButton.text == "Stop" and sign(ui.registerStateLabel) == BUSY
    assert not ui.ctSelector.enabled and not ui.turnLeftButton.enabled
    user.wait(lambda: panel.register.task is None, 60)
    settle(host, panel)
    assert_registered(panel, small_ct, node, fluoro)
    assert ui.registerButton.text == "Register" and "rusted" in said(ui.registerStateLabel)
    assert " s · " in ui.registerDetailLabel.text and "start: search" in ui.registerDetailLabel.text
    assert ui.ctSelector.enabled and not ui.reviewSection.collapsed
    drr = slicer.util.arrayFromVolume(referenced(fluoro, carm_nodes.DRR))[0]
    assert drr.shape == rendered.shape and np.corrcoef(drr.ravel(), rendered.ravel())[0, 1] > 0.99
    # Replay: an iteration's own pose, then the result again.
    history = panel.review._history
    user.drag_slider(ui.replaySlider, 0.0)
    expected = placement.transform_from_pose(np.array(history[0]["cameraToRAS"]), panel.logic.c0(fluoro))
    transform = placement.find_transform(node)
    np.testing.assert_allclose(placement.get_ct_to_world(transform), expected, atol=1e-6)
    assert ui.replayTextLabel.text.startswith("Replay: step 1 of")
    user.drag_slider(ui.replaySlider, 1.0)
    settle(host, panel)
    assert_registered(panel, small_ct, node, fluoro)
    user.click(ui.acceptButton)
    assert said(ui.registerStateLabel).startswith("Accepted.") and not ui.undoButton.enabled
    panel.review.export(str(tmp_path / "result.json"))
    assert read_json(tmp_path / "result.json", "result")["views"] == panel.logic.result(fluoro)["views"]
    panel.review.export(str(tmp_path / "page.html"))
    assert sign(ui.reviewStateLabel) == BUSY
    user.wait(lambda: sign(ui.reviewStateLabel) != BUSY, 60)
    assert sign(ui.reviewStateLabel) == GOOD and (tmp_path / "page.html").stat().st_size > 10_000
    panel.review.export(str(tmp_path / "nowhere" / "result.json"))
    assert sign(ui.reviewStateLabel) == BAD and "cannot be written" in said(ui.reviewStateLabel)
    accepted = placement.get_ct_to_world(transform)
    user.choose(ui.startCombo, "View as given")
    register(host, panel)
    assert "start: pose" in ui.registerDetailLabel.text
    user.click(ui.undoButton)
    np.testing.assert_allclose(placement.get_ct_to_world(transform), accepted, atol=1e-9)
    assert said(ui.reviewStateLabel) == "Undone: the CT lies where it was." and not ui.undoButton.enabled
    assert not ui.replaySlider.visible  # there is nothing to replay any more


def test_stop_puts_the_ct_back(host, panel, small_ct, rendered):
    node, _ = with_images(panel, small_ct, rendered)
    settle(host, panel)
    host.user.click(panel.ui.registerButton)
    host.user.wait(lambda: panel.register._latest is not None, 30)
    host.user.click(panel.ui.registerButton)
    host.user.wait(lambda: panel.register.task is None, 30)
    assert sign(panel.ui.registerStateLabel) == WARN and said(panel.ui.registerStateLabel).startswith("Stopped")
    np.testing.assert_allclose(placement.get_ct_to_world(placement.find_transform(node)), np.eye(4), atol=1e-9)
    register(host, panel)
    assert "rusted" in said(panel.ui.registerStateLabel)


def test_an_engine_that_dies_is_said_and_started_again(host, panel, small_ct, rendered):
    node, fluoro = with_images(panel, small_ct, rendered)
    settle(host, panel)
    host.user.click(panel.ui.registerButton)
    host.user.wait(lambda: panel.register._latest is not None, 30)
    os.kill(panel.logic.transport.pid, signal.SIGSEGV)
    host.user.wait(lambda: panel.register.task is None, 30)
    assert sign(panel.ui.registerStateLabel) == BAD and "engine ended" in said(panel.ui.registerStateLabel)
    np.testing.assert_allclose(placement.get_ct_to_world(placement.find_transform(node)), np.eye(4), atol=1e-9)
    register(host, panel)
    assert_registered(panel, small_ct, node, fluoro)


def test_an_interpreter_that_cannot_start_is_said(host, panel, small_ct, rendered, tmp_path):
    from DiffPoseSlicerLib.panel import settings

    ui = panel.ui
    unfold(host, ui.engineSection)
    ui.interpreterEdit.currentPath = str(tmp_path / "no-python")
    assert settings.interpreter() == "" and "no program" in said(ui.engineLabel)
    broken = tmp_path / "python"
    broken.write_text("#!/nowhere/to/be/found\n")
    broken.chmod(0o755)
    try:
        ui.interpreterEdit.currentPath = str(broken)
        assert settings.interpreter() == str(broken)
        host.user.click(ui.testEngineButton)
        host.user.wait(lambda: ui.testEngineButton.enabled, 20)
        assert "cannot be started" in said(ui.engineLabel)
        with_images(panel, small_ct, rendered)
        register(host, panel)
        assert sign(ui.registerStateLabel) == BAD
    finally:
        ui.interpreterEdit.currentPath = ""
    assert settings.interpreter() == ""
    host.user.click(ui.testEngineButton)
    host.user.wait(lambda: ui.testEngineButton.enabled, 60)
    assert "numpy" in ui.engineLabel.text.lower()
    register(host, panel)
    assert "rusted" in said(ui.registerStateLabel)
    unfold(host, ui.engineSection, False)


def test_dragging_the_ct_renders_it_anew_and_registration_starts_from_there(host, panel, small_ct, rendered):
    node, fluoro = with_images(panel, small_ct, rendered)
    settle(host, panel)
    transform, drawn = placement.find_transform(node), panel.review.drr.drawn
    for step in range(1, 6):  # as the transform's handles in the 3D view do it
        placement.set_ct_to_world(transform, np.linalg.matrix_power(NUDGE, step))
        host.user.process_events(0.03)
    settle(host, panel)
    assert panel.review.drr.drawn > drawn
    from DiffPoseSlicerLib import render

    expected = render(small_ct, kit.CARM, panel.logic.pose(node, fluoro), device="cpu")
    np.testing.assert_allclose(slicer.util.arrayFromVolume(referenced(fluoro, carm_nodes.DRR))[0], expected, atol=1e-3)
    host.user.choose(panel.ui.startCombo, "Where the CT is now")
    register(host, panel)
    assert "start: current" in panel.ui.registerDetailLabel.text
    assert_registered(panel, small_ct, node, fluoro)


def test_the_ct_is_dragged_by_its_handles_in_both_views(host, panel, small_ct, rendered):
    from DiffPoseSlicerLib.panel.parameters import Start

    node, fluoro = with_images(panel, small_ct, rendered)
    settle(host, panel)
    transform, manager = placement.find_transform(node), host.app.layoutManager()
    host.user.click(panel.ui.moveButton)
    assert panel.parameters.start is Start.CURRENT
    for view in (manager.threeDWidget(views.VIEW_3D).threeDView(), manager.sliceWidget(views.VIEW_XRAY).sliceView()):
        host.user.process_events(0.2)
        before, drawn = placement.get_ct_to_world(transform), panel.review.drr.drawn
        x, y = in_view(view, before @ [*small_ct.center, 1])
        host.user.drag(view, (x + 3, y), (x, y), 3, button=host.user.NO_BUTTON)  # the mouse finds the handle
        host.user.drag(view, (x, y), (x + 24, y - 16), 6)
        moved = np.linalg.inv(before) @ placement.get_ct_to_world(transform)
        assert np.linalg.norm(moved[:3, 3]) > 5 and np.allclose(moved[:3, :3], np.eye(3), atol=1e-6)
        settle(host, panel)
        assert panel.review.drr.drawn > drawn  # the synthetic X-ray has followed
    register(host, panel)
    assert "start: current" in panel.ui.registerDetailLabel.text
    assert not panel.ui.moveButton.checked and not transform.GetDisplayNode().GetEditorVisibility()
    assert_registered(panel, small_ct, node, fluoro)
    # They go with the module, and with the CT.
    host.user.click(panel.ui.moveButton)
    assert transform.GetDisplayNode().GetEditorVisibility()
    slicer.util.selectModule("Volumes")
    assert not transform.GetDisplayNode().GetEditorVisibility()
    host.open("DiffPoseSlicer")
    host.user.click(panel.ui.moveButton)
    panel.parameters.ct = None
    assert not transform.GetDisplayNode().GetEditorVisibility() and not panel.ui.moveButton.enabled


def test_only_what_is_shown_can_be_accepted(host, panel, small_ct, rendered):
    """After a hand has moved the CT, or in the middle of the replay, the result is not what is seen."""
    ui = panel.ui
    node, fluoro = with_images(panel, small_ct, rendered)
    settle(host, panel)
    register(host, panel)
    assert ui.acceptButton.enabled and not ui.registerButton.styleSheet
    host.user.drag_slider(ui.replaySlider, 0.0)
    host.user.wait(lambda: not ui.acceptButton.enabled, 5)
    assert "replay" in ui.acceptButton.toolTip and "replay" in said(ui.reviewStateLabel)
    assert not ui.registerButton.styleSheet
    host.user.drag_slider(ui.replaySlider, 1.0)
    host.user.wait(lambda: ui.acceptButton.enabled, 5)
    transform = placement.find_transform(node)
    placement.set_ct_to_world(transform, NUDGE @ placement.get_ct_to_world(transform))
    host.user.wait(lambda: not ui.acceptButton.enabled, 5)
    assert "moved" in ui.acceptButton.toolTip and "moved" in said(ui.reviewStateLabel)
    assert ui.registerButton.styleSheet and ui.undoButton.enabled  # one next button: register from there
    with pytest.raises(InputError, match="does not lie where"):
        panel.logic.accept(node, fluoro)
    host.user.choose(ui.startCombo, "Where the CT is now")
    register(host, panel)
    assert_registered(panel, small_ct, node, fluoro)
    # Another view moves the C-arm and the CT together: it is still the result.
    panel.parameters.laoRao = 10.0
    settle(host, panel)
    assert ui.acceptButton.enabled
    host.user.click(ui.acceptButton)
    assert said(ui.reviewStateLabel) == "Accepted."


def test_follow_registers_new_pixels_by_itself(host, panel, small_ct, rendered):
    from DiffPoseSlicerLib import render

    node, fluoro = with_images(panel, small_ct, rendered)
    settle(host, panel)
    register(host, panel)
    before = panel.logic.pose(node, fluoro).camera_to_ras
    host.user.click(panel.ui.followCheckBox)
    assert panel.parameters.follow
    moved = Pose(before @ rigid(so3_exp([0.0, 0.03, 0.02]), [5.0, 0.0, 0.0]))
    slicer.util.updateVolumeFromArray(fluoro, render(small_ct, kit.CARM, moved, device="cpu")[None])
    host.user.wait(lambda: panel.register.task is not None, 10)
    host.user.wait(lambda: panel.register.task is None, 60)
    settle(host, panel)
    assert "start: current" in panel.ui.registerDetailLabel.text
    found = panel.logic.pose(node, fluoro)
    seen, true = ((p.ras_to_camera @ [*small_ct.center, 1])[:3] for p in (found, moved))
    assert np.linalg.norm(seen - true) < 1.5
