"""Preparing a patient from the panel: a real training, watched, paused, stopped, found again; and what is missing."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import json
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
    assert panel.parameters.job == "" and sign(ui.prepareStateLabel) == IDLE
    panel.parameters.job = folder
    panel.prepare.found_again()
    assert panel.prepare.active  # it went on without its scene
    import os
    import signal

    os.kill(json.loads((Path(folder) / "status.json").read_text())["pid"], signal.SIGKILL)
    user.wait(lambda: not panel.prepare.active, 30)
    assert said(ui.prepareStateLabel).startswith("Interrupted") and ui.prepareButton.text == "Resume"
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
