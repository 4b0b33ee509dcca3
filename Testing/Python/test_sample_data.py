"""Data to try the module with: Sample Data's two buttons, the phantom, and the self-test with and without renderers.

With SLICER_SOURCE_DIR (a checkout of Slicer) in the environment, the buttons are tried in its own Sample Data as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import slicer

import scene_support as kit
from DiffPoseSlicerLib.geometry.pose import Pose, view_rotation
from DiffPoseSlicerLib.geometry.se3 import rotation_angle
from DiffPoseSlicerLib.scene import sample_data
from test_panel import loaded  # noqa: F401

pytest_plugins = ["slicerhost.pytest_plugin"]

ROOT = Path(__file__).resolve().parents[2]


class Downloads:
    """Stands in for SampleData.SampleDataLogic: what was registered, and a download that takes the CT at hand."""

    def __init__(self, ct) -> None:
        self.ct, self.sources, self.fetched = ct, [], 0

    def registerCustomSampleDataSource(self, **source) -> None:
        self.sources.append(SimpleNamespace(**source))

    def downloadFromSource(self, source) -> list:
        self.fetched += 1
        return [kit.ct_node(self.ct, source.nodeNames)]


@pytest.fixture
def downloads(small_ct, monkeypatch):
    logic = Downloads(small_ct)
    module = ModuleType("SampleData")
    module.SampleDataLogic = lambda: logic
    module.SampleDataLogic.registerCustomSampleDataSource = logic.registerCustomSampleDataSource
    monkeypatch.setitem(sys.modules, "SampleData", module)
    return logic


def test_sample_data_gets_a_ct_and_a_fluoroscopy_that_registers_to_it(host, loaded, downloads):
    sys.modules["DiffPoseSlicer"].registerSampleData()
    ct_source, fluoroscopy_source = downloads.sources
    for source in downloads.sources:
        assert source.category == "DiffPoseSlicer"
        assert source.uris.endswith(source.checksums.replace("SHA256:", "SHA256/"))
        assert Path(source.thumbnailFileName).is_file()
    assert not hasattr(ct_source, "customDownloader")  # Slicer downloads and loads it by itself

    node = fluoroscopy_source.customDownloader(fluoroscopy_source)
    assert downloads.fetched == 1
    logic, ct = slicer.util.getModuleLogic("DiffPoseSlicer"), slicer.util.getNode(sample_data.CT_NAME)
    assert ct.GetParentTransformNode() is None  # nothing tells where the C-arm stood
    assert logic.geometry(node) == sample_data.CARM
    panel = host.open("DiffPoseSlicer").panel  # understands the scene by itself
    assert (panel.parameters.ct, panel.parameters.fluoroscopy) == (ct, node)
    assert panel.ui.registerButton.enabled

    logic.register(ct, node, start="search")
    truth = Pose.about(view_rotation("AP"), logic.loaded(ct).center, sample_data.CARM, sample_data.OFFSET)
    found = logic.pose(ct, node)
    center = np.append(logic.loaded(ct).center, 1)
    apart = np.linalg.solve(truth.camera_to_ras, center) - np.linalg.solve(found.camera_to_ras, center)
    assert np.linalg.norm(apart[:2]) < 0.5 and abs(apart[2]) < 3
    assert np.rad2deg(rotation_angle(truth.camera_to_ras[:3, :3].T @ found.camera_to_ras[:3, :3])) < 0.5

    fluoroscopy_source.customDownloader(fluoroscopy_source)
    assert downloads.fetched == 1  # the CT was there


def test_without_a_renderer_sample_data_offers_to_install_one(host, loaded, downloads, monkeypatch):
    from DiffPoseSlicerLib.panel import packages  # needs the host

    monkeypatch.setattr(packages, "can_register", lambda: False)
    asked = []
    monkeypatch.setattr(packages, "install", lambda need, reason: asked.append((need, reason)))  # declined
    sys.modules["DiffPoseSlicer"].registerSampleData()
    assert downloads.sources[1].customDownloader(downloads.sources[1]) is None
    ((need, reason),) = asked
    assert need is packages.WARP
    assert "Warp (or PyTorch)" in reason
    assert downloads.fetched == 0


def test_in_slicers_own_sample_data(small_ct, tmp_path):
    checkout = os.environ.get("SLICER_SOURCE_DIR")
    if not checkout:
        pytest.skip("needs a checkout of Slicer, named by SLICER_SOURCE_DIR")
    small_ct.write(tmp_path / "CT-chest.nrrd")
    code = """
import sys
from pathlib import Path
from slicerhost.app import start
host = start()
sample_module, module, ct = sys.argv[1:]
import slicer
type(slicer.app).cachePath = str(Path(ct).parent)  # the host has no cache
host.load(sample_module)
import SampleData
SampleData.SampleDataLogic.downloadFileIntoCache = lambda self, uri, name, checksum=None, **options: ct
host.load(module)
host.open("SampleData")
for name in ("Chest CT", "Chest CT with simulated fluoroscopy"):
    slicer.util.findChild(slicer.modules.SampleDataWidget.parent, name + "PushButton").click()
print("errors:", host.errors)
print("volumes:", [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")])
host.unload("DiffPoseSlicer")
"""
    sample = Path(checkout, "Modules", "Scripted", "SampleData", "SampleData.py")
    said = in_host(code, sample, ROOT / "DiffPoseSlicer" / "DiffPoseSlicer.py", tmp_path / "CT-chest.nrrd")
    assert "errors: []" in said, said
    assert "'CTChest', 'Simulated fluoroscopy'" in said, said


SELF_TEST = """
import sys
from slicerhost.app import start
host = start()
host.load(sys.argv[1])
import slicer
slicer.util.delayDisplay = lambda message, *args: print("said:", message)
slicer.modules.DiffPoseSlicerInstance.runTest(msec=1)
print("errors:", host.errors)
host.unload("DiffPoseSlicer")
"""


def in_host(code: str, *arguments: str | Path, blocked: Path | None = None) -> str:
    """Run code in a host of its own; what it prints. Packages in the folder `blocked` stand in for installed ones."""
    folders = [str(folder) for folder in (blocked, ROOT / "Testing" / "Host") if folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("missing", [("warp", "torch"), ("torch",), ("warp",)], ids=" and ".join)
def test_self_test_passes_without(missing, tmp_path):
    for name in missing:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('{name} is not here')\n")
    said = in_host(SELF_TEST, ROOT / "DiffPoseSlicer" / "DiffPoseSlicer.py", blocked=tmp_path)
    assert "said: The panel opens." in said
    assert "errors: []" in said
    if len(missing) == 2:
        assert "said: Skipped test_fluoroscopy_is_registered: rendering and registration need NVIDIA Warp or" in said
    else:
        (other,) = {"warp", "torch"} - set(missing)
        assert "said: Registered within" in said and f"on {other} on " in said, said


def test_exposure_is_what_a_detector_stores():
    stored = sample_data.expose(np.array([[0.0, 1.0], [2.0, 6.0]]), seed=1)
    assert (np.diff(stored.ravel()) < 0).all()  # bone dark
    assert stored.min() > 0.02 * stored.max()  # scatter
    assert (stored == sample_data.expose(np.array([[0.0, 1.0], [2.0, 6.0]]), seed=1)).all()
