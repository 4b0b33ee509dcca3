"""What every test shares: the library on the path, a clean environment, and the public CT."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[2]
# Ahead of the repository's root, where the folder DiffPoseSlicer would be taken for a namespace package.
sys.path.insert(0, str(ROOT / "DiffPoseSlicer"))
# Subprocesses that tests start find it too; a setting in the developer's shell must not change what is tested.
os.environ["PYTHONPATH"] = str(ROOT / "DiffPoseSlicer")
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("MPLBACKEND", "Agg")
for _name in [name for name in os.environ if name.startswith("DIFFPOSESLICER_") and name != "DIFFPOSESLICER_CACHE"]:
    del os.environ[_name]

# Examples are drawn the same way in every run, and no example is timed: the machine may be busy.
settings.register_profile(
    "project", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("project")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data that lies beside the repository and may be absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the data folder ../shared/data, which is not here")
    return folder


@pytest.fixture(scope="session")
def chest_ct_path() -> Path:
    """The public chest CT as a file: 512 x 512 x 133 voxels of 0.70 x 0.70 x 2.5 mm, fetched once a machine."""
    from DiffPoseSlicerLib.errors import InputError
    from DiffPoseSlicerLib.evaluation.public_ct import public_ct

    try:
        return public_ct("chest")
    except InputError as error:
        # Without the network the tests that need a real CT cannot run; CI must not pass for that reason.
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def small_ct(chest_ct_path: Path):
    """The public chest CT averaged to voxels of about 4 mm: light enough for any test, and of real anatomy."""
    from DiffPoseSlicerLib.imaging.ct import CTVolume

    ct = CTVolume.read(chest_ct_path)
    i, j, k = (max(1, round(4.0 / spacing)) for spacing in ct.spacing)
    nk, nj, ni = (n // f for n, f in zip(ct.hu.shape, (k, j, i), strict=True))
    hu = ct.hu[: nk * k, : nj * j, : ni * i].reshape(nk, k, nj, j, ni, i).mean((1, 3, 5))
    scale = np.diag([i, j, k, 1.0])
    scale[:3, 3] = [(i - 1) / 2, (j - 1) / 2, (k - 1) / 2]
    return CTVolume.from_array(np.rint(hu).astype(np.int16), ct.affine @ scale, "small chest")


@pytest.fixture(scope="session", autouse=True)
def no_training_outlives_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trainings are detached processes that survive whoever started them: a failed test must not leave one running."""
    yield
    from DiffPoseSlicerLib.pretraining.job import is_running, read_status

    for status in tmp_path_factory.getbasetemp().rglob("status.json"):
        pid = read_status(status.parent).get("pid")
        if pid and pid != os.getpid() and is_running(status.parent):
            with contextlib.suppress(OSError):
                os.kill(int(pid), signal.SIGTERM)


@pytest.fixture
def example(host):
    """The example module's widget, opened with one volume in the scene; unloaded afterwards."""
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    slicer.util.updateVolumeFromArray(node, np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    host.load(ROOT / "Testing" / "Host" / "example" / "HostExample.py")
    yield host.open("HostExample")
    host.unload("HostExample")
