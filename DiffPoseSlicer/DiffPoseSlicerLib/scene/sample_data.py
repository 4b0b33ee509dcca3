"""Something to try the module with: a CT that Slicer downloads, a phantom, and a fluoroscopy made from either.

The chest CT is Slicer's own sample; this module only names it. The fluoroscopy is rendered by the engine at a pose off
the nominal view and given scatter and noise, so nothing but the CT is ever fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import slicer
import slicer.util
from numpy.typing import NDArray

from ..geometry.pose import Pose, view_rotation
from ..imaging.carm_presets import preset_carm
from .nodes import vtk_matrix
from .task import Steps, Task

CATEGORY = "DiffPoseSlicer"
CT_SAMPLE, FLUOROSCOPY_SAMPLE = "Chest CT", "Chest CT with simulated fluoroscopy"
CT_NAME = "CTChest"
FLUOROSCOPY_NAME = "Simulated fluoroscopy"
_CT_SHA256 = "4507b664690840abb6cb9af2d919377ffc4ef75b167cb6fd0f747befdb12e38e"

CARM = replace(preset_carm("mobile-flat-30", (256, 256)), intensity="transmission")
# How the patient lies off the nominal AP view: turn (radians), shift (mm), in camera axes (right, down, depth).
OFFSET = np.array([0.10, -0.07, 0.05, 10.0, -8.0, 20.0])

_WHITE = 60000  # stored value of the unattenuated beam
_SCATTER = 0.2  # of the image's mean primary
_NOISE = 0.01  # standard deviation at the unattenuated beam, relative


def register_sources(logic: Any, fluoroscopy: Callable[[Any], Any], thumbnail: str | None = None) -> None:
    """Offer the samples in Slicer's module Sample Data, in a category of their own.

    Args:
        logic: The class SampleData.SampleDataLogic.
        fluoroscopy: Called with the source when its button is pressed.
        thumbnail: Path of the picture on the buttons.
    """
    ct = {
        "category": CATEGORY,
        "uris": f"{slicer.util.TESTING_DATA_URL}SHA256/{_CT_SHA256}",
        "fileNames": "CT-chest.nrrd",
        "nodeNames": CT_NAME,
        "checksums": f"SHA256:{_CT_SHA256}",
        "thumbnailFileName": thumbnail,
    }
    logic.registerCustomSampleDataSource(sampleName=CT_SAMPLE, **ct)
    logic.registerCustomSampleDataSource(sampleName=FLUOROSCOPY_SAMPLE, customDownloader=fluoroscopy, **ct)


def sample_ct(download: Callable[[], Any]) -> Any:
    """The node of the sample's CT: the one in the scene, or what `download` returns."""
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return next((node for node in nodes if node.GetName() == CT_NAME), None) or download()


def simulate_fluoroscopy(logic: Any, ct: Any, seed: int = 0) -> tuple[Any, Pose]:
    """Make a fluoroscopy of a CT in the scene, its geometry stored on it. The CT does not move.

    Args:
        logic: The module's SceneLogic, whose engine renders.
        ct: The CT's volume node.
        seed: Chooses the noise.

    Returns:
        The new volume node, and the pose it was made from.

    Raises:
        InputError: the CT is none.
        EngineError: the engine has no renderer.
    """
    center = logic.load_ct(ct).center
    pose = Pose.about(view_rotation("AP"), center, CARM, OFFSET)
    task = Task("simulate")
    logic.tasks.append(task.begin(_render(task, logic, ct, pose)))
    stored = expose(logic.wait(task), seed)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", FLUOROSCOPY_NAME)
    slicer.util.updateVolumeFromArray(node, stored[None])
    node.SetSpacing(CARM.pixel_spacing[1], CARM.pixel_spacing[0], 1.0)
    node.CreateDefaultDisplayNodes()
    logic.set_geometry(node, CARM, dict.fromkeys(("sourceToDetector", "pixelSpacing"), "simulated"))
    return node, pose


def _render(task: Task, logic: Any, ct: Any, pose: Pose) -> Steps:
    request = {
        "ct": logic.loaded(ct).key,
        "carm": CARM.to_json(),
        "pose": pose.to_json(),
        "device": logic.device,
    }
    answer = yield from task.ask(logic.client, "render", request)
    return answer["image"]


def expose(paths: NDArray[Any], seed: int) -> NDArray[np.int32]:
    """What a detector stores of line integrals [row, column]: transmission, a pedestal of scatter, quantum noise."""
    primary = np.exp(-np.asarray(paths, float))
    seen = (primary + _SCATTER * primary.mean()) / (1 + _SCATTER * primary.mean())
    noise = np.random.default_rng(seed).standard_normal(seen.shape) * _NOISE
    return np.rint(_WHITE * np.clip(seen + noise * np.sqrt(seen), 0, 1)).astype(np.int32)


def phantom_ct(name: str = "Phantom CT") -> Any:
    """A volume node of a small chest without data of anybody: a trunk with lungs, spine and ribs, no two sides alike.

    60 x 72 x 80 voxels of 4 mm in Hounsfield units; axes as in the patient (RAS).
    """
    z, y, x = np.meshgrid(*(4.0 * (np.arange(n) - (n - 1) / 2) for n in (80, 60, 72)), indexing="ij")
    hu = np.full(x.shape, -1000, np.int16)

    def fill(value: int, inside: NDArray[np.bool_]) -> None:
        hu[inside] = value

    fill(20, (x / 130) ** 2 + (y / 95) ** 2 < 1)
    fill(-800, ((x - 58) / 48) ** 2 + ((y - 8) / 62) ** 2 + ((z - 20) / 120) ** 2 < 1)
    fill(-820, ((x + 60) / 44) ** 2 + ((y - 8) / 58) ** 2 + ((z - 32) / 105) ** 2 < 1)
    fill(45, ((x + 22) / 48) ** 2 + ((y - 30) / 38) ** 2 + ((z + 5) / 52) ** 2 < 1)
    ring = np.abs(np.hypot(x / 112, y / 80) - 1) < 0.055
    for number in range(8):
        drop = 26 * (number - 3.5) - 0.22 * y + 0.05 * x  # ribs hang down in front, lower on one side
        fill(600, ring & (np.abs(z - drop) < 6))
    fill(500, (np.hypot(x - 3, (y + 62) * 0.8) < 19) & (np.abs((z + 150) % 30 - 15) > 3))
    fill(900, (np.hypot(x - 3, y + 86) < 7) & (np.abs((z + 150) % 30 - 15) < 9))
    fill(700, np.hypot((x - 62) / 1.0, (z - 118 - 0.2 * x) / 0.6) + np.abs(y - 20) < 22)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, hu)
    matrix = np.diag([4.0, 4.0, 4.0, 1.0])
    matrix[:3, 3] = [x.min(), y.min(), z.min()]
    node.SetIJKToRASMatrix(vtk_matrix(matrix))
    node.CreateDefaultDisplayNodes()
    return node
