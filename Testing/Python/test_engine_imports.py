"""What is imported when: Slicer's process must get neither torch nor warp, and each must be dispensable."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from DiffPoseSlicerLib import CArm, Pose, render

HEAVY = ("torch", "warp", "vtk", "slicer", "qt")
CARM = CArm(1020.0, (64, 64), (4.7, 4.7), intensity="attenuation")

LIST = """
import importlib, json, pkgutil, sys
for name in {modules!r}:
    module = importlib.import_module(name)
    if {recursive}:
        for found in pkgutil.walk_packages(module.__path__, name + "."):
            importlib.import_module(found.name)
print(json.dumps([name for name in {unwanted!r} if name in sys.modules]))
"""

REGISTER = """
import json, sys
from pathlib import Path
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
import numpy as np
from DiffPoseSlicerLib import CArm, CTVolume, Pose, XrayImage, register, render
from DiffPoseSlicerLib.registration.register import PLAN, Registrar
folder = Path({folder!r})
ct, carm = CTVolume.read(folder / "ct.nii.gz"), CArm.read(folder / "carm.json")
truth, start = Pose.read(folder / "truth.json"), Pose.read(folder / "start.json")
xrays = [XrayImage.read(folder / "xray.npy", carm)]
if {missing!r} == "torch":
    result = register(ct, xrays, start)
else:  # the slow renderer: hardly any training, two starts, one level
    from DiffPoseSlicerLib.pretraining.pretrain import pretrain
    from DiffPoseSlicerLib.pretraining.settings import preset
    model = pretrain(ct, carm, out=folder / "job", settings=preset("tiny", most_steps=2))
    candidates = np.stack([start.ras_to_camera, model.predict(xrays[0]).ras_to_camera])
    result = Registrar(ct).register(xrays, candidates, plan=PLAN[1:2])
points = np.vstack([ct.center + 50 * np.eye(3), ct.center]).T
moved = [pose.ras_to_camera[:3, :3] @ points + pose.ras_to_camera[:3, 3:] for pose in (result.pose, truth)]
error = float(np.linalg.norm(moved[0] - moved[1], axis=0).mean())
image = render(ct, carm, truth)
np.save(folder / "again.npy", image)
print(json.dumps([error, {missing!r} in sys.modules, sorted(result.versions)]))
"""


def python(code: str) -> list:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("modules", "recursive", "unwanted"),
    [
        (["DiffPoseSlicerLib"], False, [*HEAVY, "SimpleITK", "numpy"]),
        (["DiffPoseSlicerLib.engine.client", "DiffPoseSlicerLib.engine.launch"], False, [*HEAVY, "SimpleITK"]),
        (["DiffPoseSlicerLib.geometry", "DiffPoseSlicerLib.imaging"], True, HEAVY),
        (["DiffPoseSlicerLib.registration", "DiffPoseSlicerLib.engine"], True, HEAVY),
        (["DiffPoseSlicerLib.cli"], True, HEAVY),
        (["DiffPoseSlicerLib.pretraining.job", "DiffPoseSlicerLib.rendering.renderer"], False, HEAVY),
    ],
)
def test_importing_loads_nothing_heavy(modules, recursive, unwanted):
    assert python(LIST.format(modules=modules, recursive=recursive, unwanted=list(unwanted))) == []


@pytest.mark.parametrize("missing", ["torch", "warp"])
def test_registration_runs_without(missing, small_ct, tmp_path):
    small_ct.write(tmp_path / "ct.nii.gz")
    CARM.write(tmp_path / "carm.json")
    truth = Pose.from_view("AP", small_ct, CARM, lao_rao=5)
    image = render(small_ct, CARM, truth)
    np.save(tmp_path / "xray.npy", image)
    truth.write(tmp_path / "truth.json")
    Pose.from_view("AP", small_ct.center + [5, 4, -6], CARM, lao_rao=8).write(tmp_path / "start.json")
    error, loaded, versions = python(REGISTER.format(missing=missing, folder=str(tmp_path)))
    assert error < 1.0
    assert not loaded and {"torch": "warp-lang", "warp": "torch"}[missing] in versions
    np.testing.assert_allclose(np.load(tmp_path / "again.npy"), image, atol=2e-3 * image.max())
