"""The module as Slicer sees it: its self-test, its resources in both layouts, PythonQt's rules."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import slicer

import scene_support as kit
from test_panel import loaded  # noqa: F401

pytest_plugins = ["slicerhost.pytest_plugin"]

ROOT = Path(__file__).resolve().parents[2]


def test_the_self_test_passes(host, loaded):
    slicer.modules.DiffPoseSlicerInstance.runTest(msec=1)
    slicer.util.selectModule("Volumes")


def test_the_logic_for_the_console_is_the_widget_s(host, loaded):
    logic = slicer.util.getModuleLogic("DiffPoseSlicer")
    assert logic is slicer.modules.DiffPoseSlicerWidget.logic
    assert type(logic).__name__ == "DiffPoseSlicerLogic"
    # It waits without freezing Slicer: timers fire while a call blocks.
    import numpy as np
    import qt

    fired = []
    timer = qt.QTimer()
    timer.setInterval(5)
    timer.connect("timeout()", lambda: fired.append(1))
    timer.start()
    hu = np.full((12, 14, 16), -1000, np.int16)
    hu[3:9, 4:10, 4:12] = 500
    assert logic.load_ct(kit.volume_node(hu, np.diag([4.0, 4, 4, 1]))).center.shape == (3,)
    timer.stop()
    assert fired


def test_resources_are_found_in_the_source_tree_and_where_installed(tmp_path):
    code = """
import importlib.util, sys
sys.path[:0] = [sys.argv[1], sys.argv[3]]
from slicerhost.app import start
start()
spec = importlib.util.spec_from_file_location("DiffPoseSlicer", sys.argv[2])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print("AT", module.resourcesDir())
"""
    installed = tmp_path / "qt-scripted-modules"
    installed.mkdir()
    shutil.copy(ROOT / "DiffPoseSlicer" / "DiffPoseSlicer.py", installed)
    shutil.copytree(ROOT / "Resources", installed / "Resources")
    for module, expected in ((ROOT / "DiffPoseSlicer", ROOT / "Resources"), (installed, installed / "Resources")):
        done = subprocess.run(
            [sys.executable, "-c", code, str(ROOT / "Testing" / "Host"), str(module / "DiffPoseSlicer.py"),
             str(ROOT / "DiffPoseSlicer")],
            capture_output=True, text=True,
        )  # fmt: skip
        assert f"AT {expected}" in done.stdout, done.stdout + done.stderr


def test_the_panel_keeps_pythonqt_s_rules():
    sys.path.insert(0, str(ROOT / "Testing" / "Host"))
    import pythonqt_lint

    files = [
        ROOT / "DiffPoseSlicer" / "DiffPoseSlicer.py",
        *(ROOT / "DiffPoseSlicer/DiffPoseSlicerLib/panel").glob("*.py"),
    ]
    assert len(files) > 10
    assert [str(finding) for file in files for finding in pythonqt_lint.lint_file(file)] == []
