"""The renderer on other devices and in other processes: CUDA compiled and, where there is one, run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from DiffPoseSlicerLib import CArm, CTVolume, InputError, Pose
from DiffPoseSlicerLib.rendering.renderer import Projector, render_structures

wp = pytest.importorskip("warp")
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
CARM = CArm(1020.0, (40, 48), (6.0, 5.5), principal_point=(20.3, 17.8))


@pytest.mark.parametrize("name", ["warp_kernels", "warp_mode_kernels"])
def test_kernels_compile_for_every_gpu_without_a_driver(tmp_path: Path, name: str) -> None:
    """Ahead of time, machine code for sm_75 (Turing) to sm_120 (Blackwell)."""
    import importlib

    from DiffPoseSlicerLib.rendering import warp_backend  # noqa: F401  sets Warp up

    wp.init()
    kernels = importlib.import_module(f"DiffPoseSlicerLib.rendering.{name}")
    module = wp.get_module(kernels.MODULE)
    paths = wp.compile_aot_module(module, arch=ARCHITECTURES, module_dir=tmp_path, use_ptx=False)
    assert [path.suffixes[-2] for path in paths] == [f".sm{arch}" for arch in ARCHITECTURES]
    assert all(path.read_bytes()[:4] == b"\x7fELF" for path in paths)


def gpu() -> str:
    from DiffPoseSlicerLib.rendering.warp_backend import cuda_devices

    devices = cuda_devices()
    if not devices:
        pytest.skip("needs an NVIDIA GPU")
    return devices[0]


def test_cuda_agrees_with_the_cpu(small_ct: CTVolume) -> None:
    device = gpu()
    pose = Pose.from_view("AP", small_ct, CARM, 20, -10).camera_to_ras
    poses = np.stack([pose, Pose.from_view("LEFT_LATERAL", small_ct, CARM).camera_to_ras])
    pixels = CARM.pixel_grid()[::7].astype(np.float32)
    for chosen in (None, pixels):
        on_cpu, there = (
            Projector(small_ct.level(), one).project(CARM, poses, chosen, jacobian=True, intrinsics=True)
            for one in ("cpu", device)
        )
        assert np.abs(on_cpu[0] - there[0]).max() < 1e-4
        assert (np.abs(on_cpu[1] - there[1]).mean((0, 1)) < 0.01 * np.abs(on_cpu[1]).mean((0, 1))).all()
    labels = small_ct.hu > 200
    one, other = (render_structures(small_ct, labels, CARM, Pose(pose), device=d) for d in ("cpu", device))
    assert np.abs(one - other).max() < 1e-3


def test_cuda_gives_torch_tensors_without_a_copy(small_ct: CTVolume) -> None:
    device = gpu()
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a torch with CUDA")
    projector = Projector(small_ct.level(8), device)
    pose = Pose.from_view("AP", small_ct, CARM).camera_to_ras
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        images = projector.project_torch(CARM, np.stack([pose] * 4))
    stream.synchronize()
    assert str(images.device) == device
    assert np.allclose(images[2].cpu().numpy(), projector.project(CARM, pose), atol=1e-5)


def test_torch_tensors_on_the_cpu(small_ct: CTVolume) -> None:
    projector = Projector(small_ct.level(8), "cpu")
    pose = Pose.from_view("AP", small_ct, CARM).camera_to_ras
    images, jacobian = projector.project_torch(CARM, pose, jacobian=True)
    expected = projector.project(CARM, pose, jacobian=True)
    assert np.array_equal(images.numpy(), expected[0]) and np.array_equal(jacobian.numpy(), expected[1])


RENDER = """
import sys
import numpy as np
from DiffPoseSlicerLib import CArm
from DiffPoseSlicerLib.imaging.attenuation import AttenuationGrid
from DiffPoseSlicerLib.rendering.renderer import Projector
grid = AttenuationGrid(np.pad(np.ones((8, 8, 8), np.float32), 1), np.eye(4), (False,) * 6)
pose = np.eye(4)
pose[:3, 3] = [4.5, 4.5, -500]
projector = Projector(grid, "cpu")
assert "torch" not in sys.modules
print("image", projector.backend, float(projector.project(CArm(1000, (9, 9), (1, 1)), pose)[40]))
"""


def test_processes_that_compile_at_once(tmp_path: Path) -> None:
    """Two processes with an empty kernel cache: none breaks another, and nothing but our own line is on stdout."""
    environment = {**os.environ, "WARP_CACHE_PATH": str(tmp_path)}
    command = [sys.executable, "-c", RENDER]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in started:
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        kind, backend, value = out.split()
        assert (kind, backend) == ("image", "warp")
        assert float(value) == pytest.approx(8, abs=0.1)


def test_without_warp_the_torch_backend_takes_over(small_ct: CTVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    pose = Pose.from_view("AP", small_ct, CARM).camera_to_ras
    image, jacobian = Projector(small_ct.level(8), "cpu").project(CARM, pose, jacobian=True)
    monkeypatch.setitem(sys.modules, "DiffPoseSlicerLib.rendering.warp_backend", None)  # makes the import fail
    projector = Projector(small_ct.level(8), "auto")
    assert projector.backend == "torch"
    other, columns = projector.project(CARM, pose, jacobian=True)
    assert np.abs(image - other).max() < 1e-4
    assert np.abs(jacobian - columns).mean() < 1e-2 * np.abs(jacobian).mean()
    with pytest.raises(InputError, match="cuda:99"):
        Projector(small_ct.level(8), "cuda:99")
