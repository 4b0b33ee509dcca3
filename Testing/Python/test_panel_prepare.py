"""Preparing a patient from the panel: a real training, watched, paused, stopped, found again; and what is missing."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import json
import os
import signal
from pathlib import Path

import pytest
import slicer

import scene_support as kit
import test_panel as story
from DiffPoseSlicerLib.scene import views
from test_panel import GOOD, IDLE, WARN, loaded, panel, rendered, said, settle, sign, unfold  # noqa: F401

pytest_plugins = ["slicerhost.pytest_plugin"]


@pytest.fixture
def short(monkeypatch):
    """Quick means a few seconds: the job's own process reads its settings from the job's folder."""
    from DiffPoseSlicerLib.pretraining import settings

    monkeypatch.setitem(settings.PRESETS, "quick", settings.PRESETS["tiny"])


def start(host, panel, ct, pixels):
    node, fluoro = story.with_images(panel, ct, pixels)
    settle(host, panel)
    unfold(host, panel.ui.prepareSection)
    host.user.click(panel.ui.prepareButton)
    host.user.wait(lambda: panel.parameters.job, 30)
    return node, fluoro


def clear_models(panel):
    from DiffPoseSlicerLib.scene import prepare

    for model in panel.logic.models():
        prepare.delete(model.folder)
    panel.prepare.list_models()


def test_a_preparation_runs_to_its_end_and_starts_the_registration(host, panel, small_ct, rendered, short):
    ui, user = panel.ui, host.user
    start(host, panel, small_ct, rendered)
    assert not ui.prepareButton.enabled and ui.stopButton.enabled and "under way" in ui.prepareButton.toolTip
    node = host.app.layoutManager().layoutLogic().GetLayoutNode()
    user.wait(lambda: not panel.showing)
    assert node.GetViewArrangement() == views.LAYOUT_ID + 1  # the plot is shown
    user.wait(lambda: not panel.prepare.active, 120)
    assert sign(ui.prepareStateLabel) == GOOD, said(ui.prepareStateLabel)
    assert ui.modelsTree.topLevelItemCount == 1 and not ui.trainingBar.visible
    item = ui.modelsTree.topLevelItem(0)
    assert item.text(0) == "AP, quick" and item.text(2).endswith("MB")
    settle(host, panel)
    story.register(host, panel)
    assert "start: model" in ui.registerDetailLabel.text
    # The name of the folder says nothing of the patient; deleting asks first, then the model is gone.
    folder = Path(panel.parameters.job)
    assert "Chest" not in folder.name
    user.click(ui.modelsTree.viewport(), ui.modelsTree.visualItemRect(item).center())
    assert ui.deleteModelButton.enabled
    host.app.setTestingEnabled(False)  # questions are asked
    asked = user.answer("Cancel")
    user.click(ui.deleteModelButton)
    assert folder.exists() and "Delete this model" in asked[0]
    user.answer("OK")
    user.click(ui.deleteModelButton)
    assert not folder.exists() and not panel.logic.models() and not ui.modelsTree.visible
    unfold(host, ui.prepareSection, False)


def test_pause_resume_stop_and_go_on(host, panel, small_ct, rendered, monkeypatch):
    from dataclasses import replace

    from DiffPoseSlicerLib.pretraining import settings

    monkeypatch.setitem(settings.PRESETS, "quick", replace(settings.PRESETS["tiny"], seconds=600))
    ui, user = panel.ui, host.user
    start(host, panel, small_ct, rendered)
    user.wait(lambda: panel.prepare._status.get("state") == "running" and panel.prepare._status.get("step"), 90)
    assert " left" in ui.trainingLabel.text and ui.trainingBar.visible
    user.wait(lambda: ui.pauseButton.enabled, 10)
    user.click(ui.pauseButton)
    user.wait(lambda: said(ui.prepareStateLabel) == "Paused.", 60)
    assert sign(ui.prepareStateLabel) == WARN and ui.pauseButton.text == "Resume"
    user.click(ui.pauseButton)
    user.wait(lambda: panel.prepare._status.get("state") == "running", 60)
    user.click(ui.stopButton)
    user.wait(lambda: not panel.prepare.active, 60)
    assert said(ui.prepareStateLabel).startswith("Stopped.") and ui.prepareButton.text == "Resume"
    # Going on uses the same folder; killed from outside, it is found interrupted, also by a scene opened anew.
    folder = panel.parameters.job
    user.click(ui.prepareButton)
    user.wait(lambda: panel.prepare._status.get("state") == "running", 60)
    assert panel.parameters.job == folder
    slicer.mrmlScene.Clear(0)
    assert panel.parameters.job == "" and "choose its CT" in said(ui.prepareStateLabel)
    panel.parameters.job = folder
    panel.prepare.found_again()
    assert panel.prepare.active  # it went on without its scene
    os.kill(json.loads((Path(folder) / "status.json").read_text())["pid"], signal.SIGKILL)
    user.wait(lambda: not panel.prepare.active, 30)
    assert said(ui.prepareStateLabel) == "Interrupted: its process ended. Choose its CT to go on."
    panel.parameters.job = ""
    clear_models(panel)
    unfold(host, ui.prepareSection, False)


def test_a_preparation_without_any_image_uses_the_c_arm_that_is_known(host, panel, small_ct, rendered, short):
    ui = panel.ui
    panel.parameters.ct = kit.ct_node(small_ct, "Chest CT")
    settle(host, panel)
    unfold(host, ui.prepareSection)
    assert not ui.prepareButton.enabled and "preset in step Images" in ui.prepareButton.toolTip
    ui.geometryBox.collapsed = False
    host.user.choose(ui.presetCombo, "Mobile C-arm, flat panel 30 x 30 cm")
    assert ui.prepareButton.enabled
    host.user.click(ui.prepareButton)
    host.user.wait(lambda: panel.parameters.job, 30)
    host.user.wait(lambda: not panel.prepare.active, 120)
    assert panel.logic.models()[0].carm.source_to_detector == 1020
    clear_models(panel)
    unfold(host, ui.prepareSection, False)


def test_a_preparation_is_found_again_with_its_ct_and_only_with_it(host, panel, small_ct, rendered, monkeypatch):
    """Slicer starts again: an empty scene, the CT loaded from its file. What goes on, or was cut off, is taken up."""
    from dataclasses import replace

    from DiffPoseSlicerLib.imaging.ct import CTVolume
    from DiffPoseSlicerLib.panel.parameters import Quality
    from DiffPoseSlicerLib.pretraining import job, settings

    for name in ("quick", "standard"):
        monkeypatch.setitem(settings.PRESETS, name, replace(settings.PRESETS["tiny"], seconds=600))
    ui, user = panel.ui, host.user
    story.with_images(panel, small_ct, rendered)
    settle(host, panel)
    panel.parameters.rotation, panel.parameters.quality = 25.0, Quality.STANDARD
    unfold(host, ui.prepareSection)
    user.click(ui.prepareButton)
    user.wait(lambda: panel.prepare._status.get("state") == "running", 90)
    folder = Path(panel.parameters.job)

    def start_anew(ct):
        slicer.mrmlScene.Clear(0)
        host.user.wait(lambda: not panel.logic.busy, 30)
        elsewhere = said(ui.prepareStateLabel)
        with_ct(ct)
        return elsewhere

    def with_ct(ct):
        panel.parameters.ct = kit.ct_node(ct, "CT")
        settle(host, panel)

    assert "choose its CT" in start_anew(small_ct)
    assert Path(panel.parameters.job) == folder and panel.prepare.active and ui.stopButton.enabled
    assert panel.parameters.rotation == 25.0 and panel.parameters.quality is Quality.STANDARD
    assert panel.carm() == kit.CARM  # the C-arm came back with it
    assert ui.trainingBar.visible
    # Another patient's CT: it is not shown there, and goes on.
    with_ct(CTVolume.from_array(small_ct.hu[:-4], small_ct.affine))
    assert panel.parameters.job == "" and sign(ui.prepareStateLabel) == IDLE and job.is_running(folder)
    with_ct(small_ct)
    assert Path(panel.parameters.job) == folder
    # Cut off and found at the next start: Resume goes on with it, unless another order is given.
    os.kill(json.loads((folder / "status.json").read_text())["pid"], signal.SIGKILL)
    user.wait(lambda: not panel.prepare.active, 30)
    start_anew(small_ct)
    assert Path(panel.parameters.job) == folder and said(ui.prepareStateLabel).startswith("Interrupted")
    assert ui.prepareButton.text == "Resume"
    panel.parameters.rotation = 20.0
    assert ui.prepareButton.text == "Prepare" and "another one" in said(ui.prepareStateLabel)
    panel.parameters.rotation = 25.0
    user.click(ui.prepareButton)
    user.wait(lambda: panel.prepare._status.get("state") == "running", 90)
    assert Path(panel.parameters.job) == folder
    user.click(ui.stopButton)
    user.wait(lambda: not panel.prepare.active, 60)
    clear_models(panel)
    unfold(host, ui.prepareSection, False)


def test_a_certificate_is_told_with_its_figures(host, panel, small_ct, rendered, short, monkeypatch):
    from DiffPoseSlicerLib.pretraining import job

    ui, user = panel.ui, host.user
    node, _ = story.with_images(panel, small_ct, rendered)
    settle(host, panel)
    panel.parameters.job = str(panel.logic.pretrain(node, kit.CARM, view="AP"))
    folder, read = Path(panel.parameters.job), job.read_status
    page = folder / "certificate.html"
    page.unlink(missing_ok=True)
    unfold(host, ui.prepareSection)
    opened: list[Path] = []
    monkeypatch.setattr(panel.prepare, "browse", opened.append)
    good = {"certified": True, "success": 0.985, "interval": [0.957, 0.995], "cases": 200, "reasons": []}
    poor = {"certified": False, "success": 0.8, "interval": [0.74, 0.85], "cases": 200, "reasons": ["too few"]}
    for certificate, colour, cell, words in (
        (None, GOOD, "", "Prepared: registration can start"),
        (good, GOOD, "certified 98.5 %", "Prepared and certified: 98.5 % of 200 simulated images"),
        (poor, WARN, "not certified, 80 %", "Prepared, but not certified: 80.0 % of 200"),
    ):
        state = {**read(folder), "certificate": certificate}
        monkeypatch.setattr(job, "read_status", lambda _folder, state=state: state)
        panel.prepare.found_again()
        panel.prepare.list_models()
        panel.refresh()
        assert sign(ui.prepareStateLabel) == colour and said(ui.prepareStateLabel).startswith(words)
        assert ui.modelsTree.topLevelItem(0).text(1).startswith(cell)
        if certificate is None:
            assert not ui.certificateButton.enabled and "no certificate yet" in ui.certificateButton.toolTip
            page.write_text("<p>figures</p>")
        else:
            user.click(ui.certificateButton)  # of the model in the list's first line
            assert opened[-1] == page
    assert "too few" in said(ui.prepareStateLabel) and "too few" in ui.modelsTree.topLevelItem(0).toolTip(1)
    user.click(ui.openModelButton)
    assert opened[-1] == folder
    monkeypatch.undo()
    panel.parameters.job = ""
    clear_models(panel)
    unfold(host, ui.prepareSection, False)


# ------------------------------------------------------------------------------------------ what is not installed
@pytest.fixture
def bare(monkeypatch):
    """An interpreter with neither torch nor Warp nor safetensors, as far as package metadata tell."""
    gone, version = {"torch", "warp-lang", "safetensors"}, importlib.metadata.version

    def lookup(name):
        if name in gone:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    from DiffPoseSlicerLib.panel import packages

    monkeypatch.setattr(importlib.metadata, "version", lookup)
    packages.look_again()
    yield gone
    monkeypatch.undo()
    packages.look_again()


def test_with_neither_torch_nor_warp_the_panel_says_what_to_install(host, panel, bare, small_ct, rendered):
    ui = panel.ui
    story.with_images(panel, small_ct, rendered)
    panel.refresh()
    assert sign(ui.registerStateLabel) == WARN and "NVIDIA Warp" in said(ui.registerStateLabel)
    assert not ui.registerButton.enabled and "Install NVIDIA Warp" in ui.registerButton.toolTip
    assert ui.installWarpButton.visible and "100 MB" in ui.installWarpButton.text
    unfold(host, ui.prepareSection)
    assert ui.installTorchButton.visible and "torch" in ui.installTorchButton.text
    assert not ui.prepareButton.enabled and "Registration works without" in said(ui.prepareStateLabel)
    unfold(host, ui.prepareSection, False)


@pytest.mark.parametrize("packaging", ["present", "absent"])
def test_warp_is_installed_by_a_click_and_registration_opens(host, panel, bare, packaging, small_ct, rendered):
    ui = panel.ui
    host.pip(packaging)
    story.with_images(panel, small_ct, rendered)
    panel.refresh()
    host.pip.on_install = lambda text: bare.discard(text)
    host.app.setTestingEnabled(False)
    asked = host.user.answer("OK")
    try:
        host.user.click(ui.installWarpButton)
    finally:
        host.pip.on_install = lambda text: None
    assert host.pip.installed == ["warp-lang"] and "100 MB" in asked[0]
    assert ui.registerButton.enabled and not ui.installWarpButton.visible
    settle(host, panel)


def test_a_failed_installation_is_said_and_nothing_breaks(host, panel, bare):
    def fail(text):
        raise RuntimeError("no network")

    panel.refresh()
    host.pip.on_install = fail
    host.app.setTestingEnabled(False)
    host.user.answer("OK")
    try:
        host.user.click(panel.ui.installWarpButton)
    finally:
        host.pip.on_install = lambda text: None
    assert panel.ui.installWarpButton.visible
    assert said(panel.ui.registerStateLabel) == "The installation failed: no network"


def test_torch_comes_through_slicer_s_extension(host, panel, bare, monkeypatch):
    unfold(host, panel.ui.prepareSection)
    panel.refresh()
    host.app.setTestingEnabled(False)
    asked = host.user.answer("OK")
    host.user.click(panel.ui.installTorchButton)
    assert "PyTorch" in asked[0]
    assert host.app.extensionsManagerModel().requested == ["PyTorch"]  # not there: the extension is offered
    import sys
    import types

    calls = []

    class Logic:
        def installTorch(self, **options):
            calls.append(options)
            bare.clear()

    module = types.ModuleType("PyTorchUtils")
    module.__spec__ = importlib.machinery.ModuleSpec("PyTorchUtils", None)
    module.PyTorchUtilsLogic = Logic
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    host.user.click(panel.ui.installTorchButton)
    assert len(calls) == 1 and not panel.ui.installTorchButton.visible
    unfold(host, panel.ui.prepareSection, False)
