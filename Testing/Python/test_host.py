"""The test host: scripted modules on PySide6 with PythonQt's manners. Runs the same with SLICER_PYTHON set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HOST = Path(__file__).resolve().parents[1] / "Host"
sys.path.insert(0, str(HOST))
pytest_plugins = ["slicerhost.pytest_plugin"]

EXAMPLE = HOST / "example" / "HostExample.py"


def raw(widget, name):
    """A parameter as its text in the parameter node."""
    return widget._parameterNode.parameterNode.GetParameter(name)


# ------------------------------------------------------------------------------------------------- PythonQt's manners
def test_properties_are_attributes(host) -> None:
    import qt

    label = qt.QLabel("a")
    label.text = "b"
    label.name = "state"
    assert (label.text, label.objectName, label.name) == ("b", "state", "state")
    label.setText("c")
    assert label.text == "c" and label.className() == "QLabel"
    with pytest.raises(TypeError):
        label.text()
    box = qt.QDoubleSpinBox()
    box.maximum = 500
    box.value = 123.5
    assert box.value == 123.5
    with pytest.raises(AttributeError, match="does not accept"):
        box.value = "many"
    with pytest.raises(AttributeError, match="not writable"):
        label.height = 3
    for absent in ("Signal", "Slot", "QTextCodec", "QRegExp"):
        assert not hasattr(qt, absent)


def test_connect_by_signature(host) -> None:
    import qt

    calls: list[tuple] = []
    button = qt.QPushButton("a")
    button.checkable = True
    keep, none, default = (
        lambda on: calls.append(("one", on)),
        lambda: calls.append(("none",)),
        lambda i=3: calls.append(i),
    )
    for slot in (keep, none, default):
        assert button.connect("clicked(bool)", slot)
    button.click()
    assert calls == [("one", True), ("none",), True]  # a defaulted parameter gets the argument
    assert button.disconnect("clicked(bool)", keep) and not button.disconnect("clicked(bool)", keep)
    calls.clear()
    button.click()
    assert calls == [("none",), False]
    assert not button.connect("pushed(bool)", keep)


def test_find_children_by_class_name(host) -> None:
    import qt

    parent = qt.QWidget()
    child = qt.QPushButton("a", parent)
    child.setObjectName("b")
    assert parent.findChildren("QPushButton") == [child]
    assert parent.findChild("QAbstractButton", "b") is child
    assert parent.findChild("QLabel") is None


def test_exceptions_in_slots_are_caught_by_the_fixture(host) -> None:
    import qt

    button = qt.QPushButton("a")
    button.connect("clicked(bool)", lambda: 1 / 0)
    button.click()
    assert len(host.errors) == 1 and "ZeroDivisionError" in host.errors[0]
    host.errors.clear()


def test_process_and_its_failure_to_start(host) -> None:
    import qt

    ended: list[int] = []
    process = qt.QProcess()
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: ended.append(code))
    process.start(sys.executable, ["-c", "print('hello'); raise SystemExit(3)"])
    host.user.wait(lambda: ended)
    assert ended == [3] and bytes(process.readAllStandardOutput()).strip() == b"hello"
    errors: list[object] = []
    broken = qt.QProcess()
    broken.connect("errorOccurred(QProcess::ProcessError)", errors.append)
    broken.start("/no/such/program", [])
    host.user.wait(lambda: errors)
    assert errors == [qt.QProcess.FailedToStart]


# ------------------------------------------------------------------------------------------------------ a module's life
def test_module_is_known(host, example) -> None:
    import slicer

    assert slicer.modules.hostexample.path == str(EXAMPLE)
    assert slicer.util.getModule("HostExample").title == "Host Example"
    assert slicer.modules.HostExampleWidget is example
    assert slicer.util.getModuleLogic("HostExample") is example.logic
    assert slicer.util.selectedModule() == "HostExample" and example.parent.isEntered
    assert slicer.util.mainWindow().findChild("QPushButton", "applyButton") is example.ui.applyButton
    slicer.modules.HostExampleInstance.runTest(msec=1)


def test_enter_exit_and_cleanup(host, example) -> None:
    import slicer

    assert example.calls == ["enter"]
    slicer.util.selectModule("Volumes")
    assert example.calls == ["enter", "exit"] and not example.parent.isEntered
    slicer.util.selectModule("HostExample")
    slicer.util.reloadScriptedModule("HostExample")
    fresh = slicer.modules.HostExampleWidget
    assert fresh is not example and example.calls[-1] == "cleanup"
    host.user.process_events()
    assert fresh.ui.applyButton.visible
    assert slicer.util.getModuleWidget("HostExample") is fresh


def test_parameters_are_stored_as_slicer_stores_them(host, example) -> None:
    names = example._parameterNode.parameterNode.GetParameterNamesAsCommaSeparatedList().split(",")
    assert {name: raw(example, name) for name in names} == {
        "volume": "",
        "landmarks.1": "True",
        "enabled": "True",
        "angle": "30",
        "count": "4",
        "comment": "none",
        "folder": ".",
        "quality": "STANDARD",
        "view": "AP",
        "window._minimum": "10",
        "window._maximum": "90",
        "names.len": "0",
        "box.size": "2.0",
        "box.title": "box",
    }


def test_widgets_follow_parameters(host, example) -> None:
    import HostExample
    import slicer

    parameters, ui = example._parameterNode, example.ui
    parameters.volume = slicer.util.getNode("CT")
    parameters.enabled = False
    parameters.angle = -45.5
    parameters.count = 7
    parameters.comment = "text"
    parameters.folder = Path("/tmp")
    parameters.quality = HostExample.Quality.QUICK
    parameters.view = "PA"
    parameters.box.size = 3.5
    assert ui.volumeSelector.currentNode() is parameters.volume
    assert not ui.enabledBox.checked
    assert ui.angleEdit.value == -45.5 and (ui.angleEdit.minimum, ui.angleEdit.maximum) == (-90, 90)
    assert ui.countEdit.value == 7 and (ui.countEdit.minimum, ui.countEdit.maximum) == (1, 20)
    assert (ui.commentEdit.text, ui.folderEdit.currentPath) == ("text", "/tmp")
    assert (ui.qualityCombo.currentText, ui.viewCombo.currentText) == ("Quick", "PA")
    assert ui.box_sizeEdit.value == 3.5
    assert ui.volumeSelector.nodeTypes == ("vtkMRMLScalarVolumeNode",)


def test_parameters_follow_the_user(host, example) -> None:
    import HostExample

    parameters, ui, user = example._parameterNode, example.ui, host.user
    user.choose(ui.volumeSelector, "CT")
    user.choose(ui.landmarksSelector, "Create new MarkupsFiducial")
    user.click(ui.enabledBox)
    user.drag_slider(ui.angleEdit, 1.0)
    user.type_text(ui.countEdit, "9")
    user.type_text(ui.commentEdit, "typed")
    user.type_text(ui.folderEdit, "/usr")
    user.choose(ui.qualityCombo, "Quick")
    user.choose(ui.viewCombo, "LEFT_LATERAL")
    user.type_text(ui.box_sizeEdit, "4.25")
    assert parameters.volume.GetName() == "CT"
    assert parameters.landmarks.GetClassName() == "vtkMRMLMarkupsFiducialNode"
    assert parameters.enabled is False
    assert parameters.angle == 90
    assert parameters.count == 9 and isinstance(parameters.count, int)
    assert parameters.comment == "typed"
    assert parameters.folder == Path("/usr")
    assert parameters.quality is HostExample.Quality.QUICK
    assert parameters.view == "LEFT_LATERAL"
    assert parameters.box.size == 4.25
    user.click(ui.applyButton)
    assert ui.statusLabel.text == "CT at 90 degrees"


def test_parameters_refuse_what_does_not_fit(host, example) -> None:
    parameters = example._parameterNode
    for name, value, error in (
        ("angle", 91, ValueError),
        ("count", 0, ValueError),
        ("count", 2.5, TypeError),
        ("view", "AX", ValueError),
        ("comment", None, ValueError),
        ("volume", "CT", TypeError),
    ):
        with pytest.raises(error):
            setattr(parameters, name, value)
    with pytest.raises(ValueError, match="11"):
        parameters.box.size = 11
    assert parameters.angle == 30 and parameters.box.size == 2.0


def test_lists_write_back(host, example) -> None:
    parameters = example._parameterNode
    parameters.names = ["L3"]
    parameters.names.append("L4")
    assert raw(example, "names.len") == "2" and raw(example, "names.1") == "L4"
    parameters.names.pop(0)
    assert list(parameters.names) == ["L4"] and not example._parameterNode.parameterNode.HasParameter("names.1")


def test_a_change_notifies_observers_once(host, example) -> None:
    import slicer
    import vtk

    calls: list[str] = []
    tag = example._parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: calls.append("modified"))
    with slicer.util.NodeModify(example._parameterNode):
        example._parameterNode.angle = 1
        example._parameterNode.count = 2
    assert calls == ["modified"]
    example._parameterNode.RemoveObserver(tag)


def test_scene_file_keeps_parameters(host, example, tmp_path) -> None:
    import slicer

    example._parameterNode.volume = slicer.util.getNode("CT")
    example._parameterNode.angle = 12.5
    example._parameterNode.names = ["a", "b"]
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(0)
    assert not example.ui.applyButton.enabled and example.ui.angleEdit.value == 30
    assert "Choose a volume" in example.ui.applyButton.toolTip
    slicer.util.loadScene(path)
    example.initializeParameterNode()
    assert example.ui.angleEdit.value == 12.5 and list(example._parameterNode.names) == ["a", "b"]
    assert example.ui.volumeSelector.currentNode().GetName() == "CT"


def test_node_selector_follows_the_scene(host, example) -> None:
    import slicer

    selector = example.ui.volumeSelector
    assert selector.nodeCount() == 1 and selector.currentNode() is None
    example._parameterNode.volume = node = slicer.util.getNode("CT")
    node.SetName("Chest")
    assert selector.findChild("QComboBox").currentText == "Chest"
    slicer.mrmlScene.RemoveNode(node)
    assert selector.currentNode() is None and example._parameterNode.volume is None
    hidden = slicer.vtkMRMLScalarVolumeNode()
    hidden.SetHideFromEditors(True)
    slicer.mrmlScene.AddNode(hidden)
    assert selector.nodeCount() == 0


def test_files_load_and_save(host, example, tmp_path) -> None:
    import slicer

    node = slicer.util.getNode("CT")
    path = str(tmp_path / "ct.nrrd")
    assert slicer.util.saveNode(node, path)
    loaded = slicer.util.loadVolume(path, {"name": "again"})
    assert loaded.GetName() == "again"
    assert np.array_equal(slicer.util.arrayFromVolume(loaded), slicer.util.arrayFromVolume(node))
    with pytest.raises(RuntimeError):
        slicer.util.loadVolume(str(tmp_path / "none.nrrd"))


def test_dicom_database_leads_to_files_and_tags(host, tmp_path) -> None:
    import pydicom
    import slicer
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    data = pydicom.Dataset()
    data.SOPInstanceUID, data.SOPClassUID = generate_uid(), "1.2.840.10008.5.1.4.1.1.12.1"
    data.DistanceSourceToDetector = "1020"
    data.ImagerPixelSpacing = ["0.3", "0.4"]
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = tmp_path / "xa.dcm"
    data.save_as(path, enforce_file_format=True)
    uid = slicer.dicomDatabase.add(path)
    assert uid == data.SOPInstanceUID and slicer.dicomDatabase.fileForInstance(uid) == str(path)
    assert slicer.dicomDatabase.instanceValue(uid, "0018,1110") == "1020"
    assert slicer.dicomDatabase.fileValue(str(path), "0018,1164") == "0.3\\0.4"
    assert slicer.dicomDatabase.fileValue(str(path), "0018,1111") == ""
    assert slicer.dicomDatabase.fileForInstance("1.2.3") == ""


# ------------------------------------------------------------------------------------------------------------- the end
def test_exit_status_is_kept(tmp_path) -> None:
    """In a process of its own: the host quits in order, and the interpreter ends with the status it is given."""
    script = f"""
import sys
from slicerhost.app import start
host = start([{str(EXAMPLE)!r}])
widget = host.open("HostExample")
host.app.connect("aboutToQuit()", lambda: print("about to quit"))
host.quit()
print(widget.calls, host.errors)
sys.exit(3)
"""
    environment = {**os.environ, "PYTHONPATH": str(HOST), "QT_QPA_PLATFORM": "offscreen"}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 3, result.stderr[-2000:]
    assert "about to quit" in result.stdout and "['enter', 'exit', 'cleanup'] []" in result.stdout


def test_wrong_slicer_python_is_refused(tmp_path) -> None:
    from slicerhost import app

    with pytest.raises(FileNotFoundError, match="SLICER_PYTHON"):
        app._python_folder(tmp_path)
