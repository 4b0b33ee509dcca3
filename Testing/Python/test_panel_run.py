"""A run of frames in the panel: followed by its button, stopped, browsed; what keeps the button from being pressed."""

from __future__ import annotations

import numpy as np
import slicer

import scene_support as kit
from DiffPoseSlicerLib import render
from DiffPoseSlicerLib.geometry.pose import Pose
from DiffPoseSlicerLib.geometry.se3 import rigid, so3_exp
from test_panel import BAD, BUSY, GOOD, WARN, loaded, panel, rendered, said, settle, sign, truth_of, with_images  # noqa: F401  # fmt: skip
from test_panel_images import off

pytest_plugins = ["slicerhost.pytest_plugin"]


def run(panel, ct, images):
    """The current frame of a run, its CT, and a function that shows a frame."""
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Run")
    for number, image in enumerate(images):
        frame = slicer.vtkMRMLScalarVolumeNode()
        slicer.util.updateVolumeFromArray(frame, np.ascontiguousarray(image)[None])
        sequence.SetDataNodeAtValue(frame, str(number))
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())

    def show(number):
        browser.SetSelectedItemNumber(number)
        slicer.modules.sequences.logic().UpdateAllProxyNodes()

    show(0)
    fluoro, node = browser.GetProxyNode(sequence), kit.ct_node(ct, "Chest CT")
    panel.logic.set_geometry(fluoro, kit.CARM)
    panel.parameters.ct, panel.parameters.fluoroscopy = node, fluoro
    return fluoro, node, show


def poses_of(ct, count):
    truth = truth_of(ct)
    steps = (rigid(so3_exp([0.0, 0.015 * n, 0.01 * n]), [3.0 * n, -2.0 * n, 0.0]) for n in range(count))
    return [Pose(truth.camera_to_ras @ step) for step in steps]


def test_a_run_is_followed_and_browsed(host, panel, small_ct):
    poses = poses_of(small_ct, 5)
    fluoro, node, show = run(panel, small_ct, [render(small_ct, kit.CARM, p, device="cpu") for p in poses])
    settle(host, panel)
    ui = panel.ui
    assert ui.trackButton.visible and ui.trackButton.enabled
    host.user.click(ui.trackButton)
    assert ui.registerButton.text == "Stop" and not ui.trackButton.enabled and sign(ui.registerStateLabel) == BUSY
    seen = set()
    host.user.wait(lambda: seen.add(said(ui.registerStateLabel)) or panel.register.task is None, 120)
    assert any("frame" in text and "of 5" in text for text in seen)
    assert said(ui.registerStateLabel).startswith("Followed through 5 frames") and sign(ui.registerStateLabel) == GOOD
    for number in (3, 1, 4, 0):
        show(number)
        settle(host, panel)
        assert off(panel, node, fluoro, small_ct, poses[number]) < 1.0, number
        assert "Followed to this frame" in said(ui.registerStateLabel)
    assert panel.register.task is None


def test_a_run_is_stopped_and_a_lost_frame_is_told(host, panel, small_ct):
    from DiffPoseSlicerLib.panel import registering

    poses = poses_of(small_ct, 6)
    fluoro, node, show = run(panel, small_ct, [render(small_ct, kit.CARM, p, device="cpu") for p in poses])
    settle(host, panel)
    ui = panel.ui
    host.user.click(ui.trackButton)
    host.user.wait(lambda: panel.register._latest is not None and "frame" in panel.register._latest, 60)
    host.user.click(ui.registerButton)
    host.user.wait(lambda: panel.register.task is None, 60)
    assert sign(ui.registerStateLabel) == WARN and "frames that were followed are kept" in said(ui.registerStateLabel)
    assert 0 < len(panel.logic.tracked(fluoro)) < 6
    assert off(panel, node, fluoro, small_ct, poses[0]) < 1.0
    frames = [{"frame": n, "state": "lost" if n % 3 == 1 else "tracked", "similarity": 0.9} for n in range(30)]
    kind, text = registering.describe_run(frames)
    assert kind == "warn" and "lost in 10 of them: 2, 5, 8, 11, 14, 17, 20, 23, ..." in text
    assert "lost; looking for it" in registering.describe_frame(frames[1], 30)
    panel.logic.tracked = lambda _node: frames
    try:
        show(1)
        settle(host, panel)
        assert sign(ui.registerStateLabel) == BAD and said(ui.registerStateLabel).startswith("Lost in this frame")
    finally:
        del panel.logic.tracked


def test_a_single_image_is_no_run_and_a_box_cannot_be_followed(host, panel, small_ct, rendered):
    with_images(panel, small_ct, rendered)
    settle(host, panel)
    assert not panel.ui.trackButton.visible
    fluoro, _node, _show = run(panel, small_ct, [rendered, rendered])
    settle(host, panel)
    box = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    panel.parameters.region = box
    assert not panel.ui.trackButton.enabled and "not with a box" in panel.ui.trackButton.toolTip
    panel.parameters.region = None
    second = kit.fluoroscopy_node(rendered, "Second")
    panel.logic.set_geometry(second, kit.CARM)
    panel.parameters.second = second
    assert not panel.ui.trackButton.enabled and "one view" in panel.ui.trackButton.toolTip
    panel.parameters.second = None
    assert panel.ui.trackButton.enabled and fluoro is panel.parameters.fluoroscopy
