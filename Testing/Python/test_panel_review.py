"""The panel after a registration: ways to compare, scenes closed, saved and loaded, the module reloaded."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import slicer

from DiffPoseSlicerLib.scene import carm_nodes, overlays, views
from DiffPoseSlicerLib.scene.nodes import helpers, referenced
from test_panel import assert_registered, loaded, panel, register, rendered, said, settle, unfold, with_images  # noqa: F401  # fmt: skip

pytest_plugins = ["slicerhost.pytest_plugin"]


# ------------------------------------------------------------------------------------------------------- step 4
def test_every_way_to_compare_changes_the_picture(host, panel, small_ct, rendered):
    user, ui = host.user, panel.ui
    _, fluoro = with_images(panel, small_ct, rendered)
    settle(host, panel)
    unfold(host, ui.reviewSection)
    view = host.app.layoutManager().sliceWidget(views.VIEW_XRAY).sliceView()
    composite = views.composite_of(slicer.mrmlScene, views.VIEW_XRAY)

    pictures: list[bytes] = []

    def new_picture():
        """Wait until the view shows what it has not shown before: it draws when Slicer has time."""

        def drawn():
            picture = bytes(view.grab().toImage().constBits())
            if picture not in pictures:
                pictures.append(picture)
                return True
            return False

        user.process_events(0.1)
        user.wait(drawn, 10)

    new_picture()
    user.drag_slider(ui.blendSlider, 1.0)
    assert composite.GetForegroundOpacity() == pytest.approx(panel.parameters.blend / 100)
    new_picture()
    for button, mode in ((ui.checkerboardButton, overlays.CHECKERBOARD), (ui.edgesButton, overlays.EDGES),
                         (ui.differenceButton, overlays.DIFFERENCE)):  # fmt: skip
        user.click(button)
        assert panel.review.mode == mode and button.checked
        assert composite.GetForegroundVolumeID() == referenced(fluoro, carm_nodes.OVERLAY).GetID()
        new_picture()
    assert not ui.edgesButton.checked  # one at a time
    user.click(ui.differenceButton)
    assert panel.review.mode == overlays.BLEND
    user.click(ui.flickerButton)
    seen = set()
    user.wait(lambda: seen.add(composite.GetForegroundOpacity()) or seen == {0.0, 1.0}, 5)
    user.click(ui.flickerButton)
    assert composite.GetForegroundOpacity() == pytest.approx(panel.parameters.blend / 100)


def test_looking_from_the_source_and_back(host, panel, small_ct, rendered):
    _, fluoro = with_images(panel, small_ct, rendered)
    settle(host, panel)
    unfold(host, panel.ui.reviewSection)
    camera = panel.layout.camera().GetCamera()
    before = camera.GetPosition()
    host.user.click(panel.ui.lookButton)
    np.testing.assert_allclose(camera.GetPosition(), panel.logic.c0(fluoro)[:3, 3], atol=1e-6)
    host.user.click(panel.ui.lookButton)
    np.testing.assert_allclose(camera.GetPosition(), before, atol=1e-6)


def test_volume_rendering_replaces_the_surface(host, panel, small_ct, rendered):
    node, _ = with_images(panel, small_ct, rendered)
    settle(host, panel)
    panel.show_volume_rendering(True)
    display = slicer.modules.volumerendering.logic().GetFirstVolumeRenderingDisplayNode(node)
    assert display.GetVisibility() and not referenced(node, "surface").GetDisplayNode().GetVisibility()
    panel.show_volume_rendering(False)
    assert not display.GetVisibility() and referenced(node, "surface").GetDisplayNode().GetVisibility()


# --------------------------------------------------------------------------------------------- scenes and reload
def test_a_scene_closes_while_work_is_under_way_and_another_one_works(host, panel, small_ct, rendered):
    for _ in range(2):
        node, fluoro = with_images(panel, small_ct, rendered)
        settle(host, panel)
        host.user.click(panel.ui.registerButton)
        host.user.wait(lambda: panel.register._latest is not None, 30)
        slicer.mrmlScene.Clear(0)
        host.user.wait(lambda: not panel.logic.busy, 30)
        assert panel.register.task is None and panel.parameters.ct is None
        assert list(helpers(slicer.mrmlScene)) == []
    node, fluoro = with_images(panel, small_ct, rendered)
    register(host, panel)
    assert_registered(panel, small_ct, node, fluoro)


def test_a_saved_scene_comes_back_with_settings_result_and_views(host, panel, small_ct, rendered, tmp_path):
    from DiffPoseSlicerLib.panel.parameters import Start, View

    with_images(panel, small_ct, rendered)
    panel.parameters.view, panel.parameters.blend, panel.parameters.start = View.AP, 70.0, Start.VIEW
    settle(host, panel)
    register(host, panel)
    sentence, pose = said(panel.ui.registerStateLabel), panel.logic.result(panel.parameters.fluoroscopy)["views"]
    roles = sorted(h.GetAttribute("DiffPoseSlicer.role") for h in helpers(slicer.mrmlScene))
    assert slicer.mrmlScene.WriteToMRB(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    assert panel.parameters.blend == 50.0 and "Choose" in said(panel.ui.imagesStateLabel)
    assert slicer.mrmlScene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    host.user.process_events(0.1)
    p = panel.parameters
    assert (p.ct.GetName(), p.fluoroscopy.GetName()) == ("Chest CT", "Fluoroscopy")
    assert (p.view, p.blend, p.start) == (View.AP, 70.0, Start.VIEW)
    assert said(panel.ui.registerStateLabel) == sentence
    assert panel.logic.result(p.fluoroscopy)["views"] == pose
    settle(host, panel)
    assert_registered(panel, small_ct, p.ct, p.fluoroscopy)
    assert sorted(h.GetAttribute("DiffPoseSlicer.role") for h in helpers(slicer.mrmlScene)) == roles
    composite = views.composite_of(slicer.mrmlScene, views.VIEW_XRAY)
    assert composite.GetBackgroundVolumeID() == referenced(p.fluoroscopy, carm_nodes.DETECTOR).GetID()


def test_reload_ends_the_old_engine_and_keeps_the_scene(host, panel, small_ct, rendered):
    node, fluoro = with_images(panel, small_ct, rendered)
    settle(host, panel)
    old, pid = slicer.modules.DiffPoseSlicerWidget, panel.logic.transport.pid
    slicer.util.reloadScriptedModule("DiffPoseSlicer")
    new = slicer.modules.DiffPoseSlicerWidget
    assert new is not old and old.panel is None
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(pid, 0)
            time.sleep(0.05)
    slicer.util.selectModule("Volumes")
    host.open("DiffPoseSlicer")
    assert new.panel.parameters.ct is node and new.panel.parameters.fluoroscopy is fluoro
    new.logic.device = "cpu"
    settle(host, new.panel)
    register(host, new.panel)
    assert_registered(new.panel, small_ct, node, fluoro)
