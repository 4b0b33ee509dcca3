"""Every control of the panel does what it says, by mouse and keyboard; every disabled one says why it is."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import slicer

import scene_support as kit
from DiffPoseSlicerLib.geometry.files import read_json
from DiffPoseSlicerLib.geometry.pose import Pose
from test_panel import BAD, GOOD, MODULE, loaded, panel, register, rendered, said, settle, sign, unfold, with_images  # noqa: F401  # fmt: skip

pytest_plugins = ["slicerhost.pytest_plugin"]

UI = MODULE.parents[1] / "Resources" / "UI" / "DiffPoseSlicer.ui"
CONTROLS = {
    "QPushButton",
    "QCheckBox",
    "QComboBox",
    "QDoubleSpinBox",
    "QSlider",
    "QTreeWidget",
    "qMRMLNodeComboBox",
    "ctkSliderWidget",
    "ctkPathLineEdit",
    "ctkDirectoryButton",
    "qMRMLSequenceBrowserSeekWidget",
    "qSlicerMarkupsPlaceWidget",
    "qMRMLSegmentSelectorWidget",
}


def controls():
    """Name -> class of everything in the panel that a user can work."""
    widgets = ElementTree.parse(UI).iter("widget")
    return {w.get("name"): w.get("class") for w in widgets if w.get("class") in CONTROLS}


def test_every_control_is_worked_in_a_test():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_panel*.py"))
    assert len(controls()) > 40
    assert [name for name in controls() if not re.search(rf"ui\.{name}\b", tests)] == []


def test_every_string_of_the_form_can_be_translated():
    """No text is set aside from translation but names of parameters and node classes."""
    for string in ElementTree.parse(UI).iter("string"):
        if string.get("notr") == "true":
            assert re.fullmatch(r"\w*", string.text or ""), string.text


def sentences(path):
    """Texts of several words in a file that are neither documentation nor (also) handed to the translation."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {node: node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    translated = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            translated.add(node.body[0].value.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_", "translate"):
            translated |= {texts[inner] for inner in ast.walk(node) if inner in texts}
    words = re.compile(r"[A-Za-z]\w* \w+ \w+")
    markup = re.compile(r"[<{]")  # rich text and style sheets
    return {
        text
        for text in texts.values()
        if isinstance(text, str) and words.search(text) and not markup.search(text) and text not in translated
    }


def test_every_sentence_of_the_panel_can_be_translated():
    files = (MODULE.parent / "DiffPoseSlicerLib" / "panel").glob("*.py")
    found = {text for path in files for text in sentences(path)}
    assert found == {"no worker runs", "200 MB to 3 GB"}  # nobody reads the first; figures need no translation


def test_numbers_that_are_bound_to_parameters_wait_for_the_whole_number():
    """The binding writes the number back at every change: in the middle of typing, it would cut it off."""
    bound = [
        widget
        for widget in ElementTree.parse(UI).iter("widget")
        if widget.get("class") in ("QDoubleSpinBox", "QSpinBox")
        and any(prop.get("name") == "SlicerParameterName" for prop in widget.findall("property"))
    ]
    assert len(bound) == 4
    for widget in bound:
        tracking = [prop for prop in widget.findall("property") if prop.get("name") == "keyboardTracking"]
        assert tracking and tracking[0].findtext("bool") == "false", widget.get("name")


def test_view_angles_and_ranges_by_keyboard(host, panel, small_ct, rendered):
    from DiffPoseSlicerLib.panel.parameters import Quality, View

    ui, user, p = panel.ui, host.user, panel.parameters
    _, fluoro = with_images(panel, small_ct, rendered)
    user.choose(ui.viewCombo, "Left lateral: left side at the detector")
    user.type_text(ui.laoRaoSpin, "-8.5")
    user.type_text(ui.cranCaudSpin, "12")
    assert (p.view, p.laoRao, p.cranCaud) == (View.LEFT_LATERAL, -8.5, 12.0)
    expected = Pose.from_view("LEFT_LATERAL", small_ct.center, kit.CARM, -8.5, 12).camera_to_ras
    np.testing.assert_allclose(panel.logic.c0(fluoro), expected, atol=1e-6)
    unfold(host, ui.prepareSection)
    user.type_text(ui.rotationSpin, "22")
    user.type_text(ui.shiftSpin, "35")
    user.choose(ui.qualityCombo, "Thorough")
    assert p.quality is Quality.THOROUGH
    assert panel.prepare._order() == {
        "view": "LEFT_LATERAL", "lao_rao": -8.5, "cran_caud": 12.0, "rotation": [22.0] * 3,
        "translation": [35.0, 35.0, 70.0],
    }  # fmt: skip
    unfold(host, ui.prepareSection, False)
    settle(host, panel)


def test_a_colour_image_can_be_the_fluoroscopy(host, panel, small_ct, rendered):
    """As Slicer loads most PNG and JPEG files."""
    grey = np.clip(rendered / rendered.max() * 255, 0, 255).astype(np.uint8)
    node = kit.volume_node(np.stack([grey] * 3, -1)[None], name="Photo", class_name="vtkMRMLVectorVolumeNode")
    host.user.choose(panel.ui.fluoroscopySelector, "Photo")
    assert panel.parameters.fluoroscopy is node and "128 x 160 pixels" in panel.ui.fluoroscopyInfoLabel.text
    panel.logic.set_geometry(node, kit.CARM)
    panel.parameters.ct = kit.ct_node(small_ct, "Chest CT")
    settle(host, panel)
    assert panel.ui.registerButton.enabled


def test_the_geometry_s_figures_by_keyboard(host, panel, small_ct, rendered):
    ui, user = panel.ui, host.user
    _, fluoro = with_images(panel, small_ct, rendered, None)
    figures = ((ui.sddSpin, "985"), (ui.rowSpacingSpin, "1.5"), (ui.columnSpacingSpin, "1.25"),
               (ui.isocenterSpin, "600"))  # fmt: skip
    user.click(ui.applyGeometryButton)  # nothing is known yet
    assert sign(ui.imagesStateLabel) == BAD and "are needed" in said(ui.imagesStateLabel)
    for spin, text in figures:
        user.type_text(spin, text)
    user.choose(ui.intensityCombo, "dark (transmission)")
    user.click(ui.applyGeometryButton)
    carm = panel.logic.geometry(fluoro)
    assert (carm.source_to_detector, carm.pixel_spacing, carm.source_to_isocenter) == (985.0, (1.5, 1.25), 600.0)
    assert carm.intensity == "transmission" and carm.image_size == (160, 128)
    assert sign(ui.imagesStateLabel) == GOOD
    settle(host, panel)


def test_files_are_read_and_written_by_the_buttons(host, panel, small_ct, rendered, tmp_path, monkeypatch):
    """The system's own file dialogs are answered; PythonQt's give the path alone."""
    import qt

    ui, user = panel.ui, host.user
    _, fluoro = with_images(panel, small_ct, rendered, None)
    kit.CARM.write(tmp_path / "carm.json")
    answers = ["", str(tmp_path / "carm.json")]
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", staticmethod(lambda *_: answers.pop(0)))
    user.click(ui.readGeometryButton)  # the dialog is cancelled
    assert panel.logic.geometry(fluoro) is None
    user.click(ui.readGeometryButton)
    assert panel.logic.geometry(fluoro) == kit.CARM
    settle(host, panel)
    register(host, panel)
    files = ["", str(tmp_path / "result.json"), str(tmp_path / "ct.tfm"), str(tmp_path / "ct.doc")]
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", staticmethod(lambda *_: files.pop(0)))
    for _ in range(3):
        user.click(ui.exportButton)
    assert read_json(tmp_path / "result.json", "result")["views"] and (tmp_path / "ct.tfm").stat().st_size
    assert sign(ui.reviewStateLabel) == GOOD
    user.click(ui.exportButton)
    assert sign(ui.reviewStateLabel) == BAD and "not known" in said(ui.reviewStateLabel)


def test_the_engine_is_restarted(host, panel, small_ct, rendered):
    _, fluoro = with_images(panel, small_ct, rendered)
    settle(host, panel)
    unfold(host, panel.ui.engineSection)
    before = panel.logic.transport.pid
    host.user.click(panel.ui.restartEngineButton)
    assert panel.logic.transport.pid is None and panel.ui.registerButton.enabled
    register(host, panel)
    assert panel.logic.transport.pid not in (None, before) and panel.logic.result(fluoro) is not None
    unfold(host, panel.ui.engineSection, False)


def test_settings_are_kept_on_this_computer(host, panel, tmp_path):
    from DiffPoseSlicerLib.panel import settings

    ui, before = panel.ui, settings.models_folder()
    unfold(host, ui.engineSection)
    assert settings.keep_training() and ui.keepTrainingCheckBox.checked
    host.user.click(ui.keepTrainingCheckBox)
    assert not settings.keep_training()
    host.user.click(ui.keepTrainingCheckBox)
    assert settings.keep_training()
    try:
        ui.modelsFolderButton.directory = str(tmp_path)
        assert settings.models_folder() == panel.logic.models_folder == tmp_path
    finally:
        ui.modelsFolderButton.directory = str(before)
    assert settings.models_folder() == before
    unfold(host, ui.engineSection, False)


def test_volume_rendering_by_its_button(host, panel, small_ct, rendered):
    node, _ = with_images(panel, small_ct, rendered)
    settle(host, panel)
    unfold(host, panel.ui.reviewSection)
    host.user.click(panel.ui.volumeRenderingButton)
    display = slicer.modules.volumerendering.logic().GetFirstVolumeRenderingDisplayNode(node)
    assert display.GetVisibility()
    host.user.click(panel.ui.volumeRenderingButton)
    assert not display.GetVisibility()


@pytest.mark.parametrize("stage", ["empty", "CT alone", "images", "registering", "registered"])
def test_every_disabled_button_says_why_at_every_stage(host, panel, small_ct, rendered, stage):
    if stage == "CT alone":
        panel.parameters.ct = kit.ct_node(small_ct)
    elif stage != "empty":
        with_images(panel, small_ct, rendered)
    settle(host, panel)
    if stage == "registering":
        host.user.click(panel.ui.registerButton)
        host.user.wait(lambda: panel.register._latest is not None, 30)
    if stage == "registered":
        register(host, panel)
    buttons = {name: getattr(panel.ui, name) for name, kind in controls().items() if kind == "QPushButton"}
    disabled = {name: button for name, button in buttons.items() if not button.enabled}
    assert disabled and all(button.toolTip for button in disabled.values())
    accented = [name for name, button in buttons.items() if button.styleSheet]
    result = panel.logic.result(panel.parameters.fluoroscopy) if stage == "registered" else None
    trusted = result is not None and result["trust"]["trusted"]
    expected = {"images": ["registerButton"], "registered": ["acceptButton"] if trusted else []}
    assert accented == expected.get(stage, [])  # one next button at most
    if stage == "registering":
        panel.register.toggle()
    settle(host, panel)
