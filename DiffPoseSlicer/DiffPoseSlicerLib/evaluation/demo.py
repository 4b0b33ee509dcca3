"""The main job on a real CT, from nothing to pictures: what `python -m DiffPoseSlicerLib demo` runs.

A network is prepared for the chest CT in a process of its own, twenty fluoroscopies are made from the whole CT by
plastimatch, and each is registered with a CT that is 15 mm shorter at both ends: once from the network and once from
the nominal pose.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.pose import Pose
from ..imaging.ct import CTVolume
from ..imaging.xray import XrayImage
from ..registration.register import Registrar, register
from ..registration.result import RegistrationResult
from .cases import BENCH_CARM, line_integrals, random_poses, shortened
from .metrics import default_points, mpe, mtre, wilson_interval
from .overlay import overlay_image
from .plastimatch import fluoroscopy
from .public_ct import public_ct

if TYPE_CHECKING:
    from ..pretraining.model import PoseModel

CASES = 20
ROTATION, TRANSLATION = (30.0, 30.0, 30.0), (50.0, 50.0, 100.0)
SUCCESS_MM = 1.0


@dataclass(frozen=True)
class Outcome:
    """One fluoroscopy: errors are mTRE in mm.

    Attributes:
        network: error of the network's guess.
        error: error after registration from it.
        seconds: the network and the registration together.
        alone: error of the same registration from the nominal pose.
        projected: mean projection error after registration, mm at the detector.
    """

    number: int
    network: float
    error: float
    seconds: float
    alone: float
    projected: float


def demo(
    seed: int = 1,
    out: str | Path = "out/demo",
    device: str = "auto",
    preset: str = "quick",
    cases: int = CASES,
    say: Callable[[str], object] = print,
    show_progress: Callable[[str], object] | None = None,
) -> list[Outcome]:
    """Run it; tables go to `say`, pictures and result files to the folder `out`.

    Args:
        seed: of the training and of the fluoroscopies.
        out: folder; one of an earlier demo is replaced.
        device: "auto", "cpu" or "cuda:N".
        preset: of the training.
        cases: how many fluoroscopies.
        say: called with each line for the user.
        show_progress: called with the state of the moment while training runs; default `say`, now and then.

    Raises:
        InputError: no network for the first fetch, plastimatch is missing, or training failed.
    """
    folder = _fresh_folder(Path(out))
    ct = CTVolume.read(public_ct("chest", say=say))
    short = shortened(ct)
    say(f"Chest CT, {' x '.join(map(str, ct.hu.shape[::-1]))} voxels; registered with 15 mm less at both ends.")
    short.write(folder / "ct.nii.gz")

    model, training_seconds = _prepare(short, folder, seed, device, preset, say, show_progress)

    say(f"Making {cases} fluoroscopies with plastimatch, from the whole CT, with scatter and noise ...")
    rng = np.random.default_rng([seed, 1])
    truths = random_poses(short, cases, rng, ROTATION, TRANSLATION)
    images = [fluoroscopy(image, rng) for image in line_integrals(ct, truths, BENCH_CARM)]
    xrays = [XrayImage.from_array(image, BENCH_CARM) for image in images]

    registrar = Registrar(short, device)
    register(short, xrays[0], model, registrar=registrar)  # builds the pyramid and loads the kernels
    outcomes, results = [], []
    say("\n  #   network guess   registered   seconds   without network")
    for number, (xray, truth) in enumerate(zip(xrays, truths, strict=True)):
        outcome, result = _register(number, xray, truth, short, model, registrar)
        outcomes.append(outcome)
        results.append(result)
        result.write(folder / f"result_{number:02d}.json")
        truth.write(folder / f"truth_{number:02d}.json")
        say(
            f" {number:2d}   {outcome.network:8.1f} mm   {outcome.error:7.2f} mm   {outcome.seconds:7.2f}   "
            f"{outcome.alone:10.2f} mm"
        )
    say("\n" + verdict(outcomes, training_seconds))
    (folder / "outcomes.json").write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    BENCH_CARM.write(folder / "carm.json")
    _pictures(folder, outcomes, images, xrays, results, model, registrar)
    say(f"Pictures and result files are in {folder}.")
    return outcomes


def verdict(outcomes: list[Outcome], training_seconds: float) -> str:
    """The demo in one line."""
    errors = np.array([o.error for o in outcomes])
    alone = np.array([o.alone for o in outcomes])
    good = int((errors < SUCCESS_MM).sum())
    low, high = wilson_interval(good, len(errors))
    return (
        f"{good} of {len(errors)} below {SUCCESS_MM:g} mm mTRE (95 % interval {100 * low:.0f} to {100 * high:.0f} %), "
        f"median {np.median(errors):.2f} mm in {np.median([o.seconds for o in outcomes]):.2f} s; "
        f"without the network {int((alone < SUCCESS_MM).sum())}; prepared in {training_seconds:.0f} s."
    )


def _fresh_folder(folder: Path) -> Path:
    """An empty folder; an earlier demo's is emptied, anything else is refused."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "demo.json").is_file():
        raise InputError(f"The folder {folder.name} holds files that are not a demo's: choose another with -o.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "demo.json").write_text('{"made by": "DiffPoseSlicer demo"}\n')
    return folder


def _prepare(
    ct: CTVolume,
    folder: Path,
    seed: int,
    device: str,
    preset: str,
    say: Callable[[str], object],
    show_progress: Callable[[str], object] | None,
) -> tuple[PoseModel, float]:
    """Train in a process of its own; the model and the seconds that took."""
    from ..pretraining.job import is_running, read_status, start_detached
    from ..pretraining.pretrain import make_job

    job = folder / "model"
    make_job(
        ct,
        BENCH_CARM,
        "AP",
        out=job,
        rotation=ROTATION,
        translation=TRANSLATION,
        preset=preset,
        seed=seed,
        device=device,
    )
    say(f"Preparing a network for this CT (AP view, preset {preset}) in a process of its own ...")
    began, spoken = time.perf_counter(), 0.0
    start_detached(job)
    while True:
        time.sleep(0.5)
        status = read_status(job)
        state = status.get("state", "new")
        seconds = time.perf_counter() - began
        if show_progress:
            show_progress(_progress_line(status, seconds))
        elif seconds - spoken > 20:
            spoken = seconds
            say("  " + _progress_line(status, seconds))
        if state in ("done", "stopped", "failed") or (seconds > 20 and not is_running(job)):
            break
    if read_status(job).get("state") != "done":
        reason = read_status(job).get("message") or "see log.txt in the job folder"
        raise InputError(f"Preparing the network did not finish ({state}): {reason}.")
    from ..pretraining.model import PoseModel

    return PoseModel.load(job), time.perf_counter() - began


def _progress_line(status: dict[str, Any], seconds: float) -> str:
    parts = [f"{seconds:4.0f} s", str(status.get("state", "starting"))]
    if status.get("step"):
        parts.append(f"step {status['step']}")
    if status.get("validationMtreMm") is not None:
        parts.append(f"error {status['validationMtreMm']:.1f} mm")
    if status.get("secondsLeft"):
        parts.append(f"{status['secondsLeft']:.0f} s left")
    return " . ".join(parts)


def _register(
    number: int, xray: XrayImage, truth: Pose, ct: CTVolume, model: PoseModel, registrar: Registrar
) -> tuple[Outcome, RegistrationResult]:
    points = default_points(ct.center)
    began = time.perf_counter()
    result = register(ct, xray, model, registrar=registrar)
    seconds = time.perf_counter() - began
    alone = register(ct, xray, model.nominal, registrar=registrar)
    outcome = Outcome(
        number,
        mtre(model.predict(xray), truth, points),
        mtre(result.pose, truth, points),
        seconds,
        mtre(alone.pose, truth, points),
        mpe(result.pose, truth, points, xray.carm),
    )
    return outcome, result


def _pictures(
    folder: Path,
    outcomes: list[Outcome],
    images: list[NDArray[np.uint16]],
    xrays: list[XrayImage],
    results: list[RegistrationResult],
    model: PoseModel,
    registrar: Registrar,
) -> None:
    """training.png, and overlays before and after for the best, the median and the worst case."""
    import SimpleITK as sitk

    ranked = sorted(outcomes, key=lambda o: o.error)
    chosen = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
    panels = []
    for name, outcome in chosen.items():
        xray, result = xrays[outcome.number], results[outcome.number]
        before = _overlay(xray, model.predict(xray), registrar)
        after = _overlay(xray, result.pose, registrar)
        panels.append((f"{name}: {outcome.network:.1f} mm", before))
        panels.append((f"{name}: {outcome.error:.2f} mm", after))
        both = np.concatenate([before, np.full((before.shape[0], 8, 3), 255, np.uint8), after], 1)
        sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(both), isVector=True), str(folder / f"{name}.png"))
        sitk.WriteImage(sitk.GetImageFromArray(images[outcome.number]), str(folder / f"{name}.tiff"))
        model.predict(xray).write(folder / f"{name}_network.json")
        result.write(folder / f"{name}_result.json")
        number = {"case": outcome.number, "network": outcome.network, "error": outcome.error}
        (folder / f"{name}.json").write_text(json.dumps(number) + "\n")
    try:
        import matplotlib
    except ImportError:
        return  # the pictures that need no plotting library are there
    matplotlib.use("Agg")
    _plots(folder, panels)


def _overlay(xray: XrayImage, pose: Pose, registrar: Registrar) -> NDArray[np.uint8]:
    projector = registrar.projector(0.75)
    drr = projector.project(xray.carm, pose.camera_to_ras).reshape(xray.carm.image_size)
    picture = overlay_image(xray.pixels, drr)
    return np.repeat(np.repeat(picture, 2, 0), 2, 1)


def _plots(folder: Path, panels: list[tuple[str, NDArray[np.uint8]]]) -> None:
    import matplotlib.pyplot as plt

    from ..pretraining.job import read_progress

    figure, axes = plt.subplots(3, 2, figsize=(8, 12.4), constrained_layout=True)
    for axis, (title, picture) in zip(axes.ravel(), panels, strict=True):
        axis.imshow(picture)
        axis.set_title(title + (" (network)" if axis in axes[:, 0] else " (registered)"))
        axis.axis("off")
    figure.savefig(folder / "overlays.png", dpi=90)
    plt.close(figure)

    reports: list[dict[str, Any]] = []
    for report in read_progress(folder / "model"):
        error = report.get("validationMtreMm")
        # Most reports repeat the last validation.
        if error is not None and (not reports or error != reports[-1]["validationMtreMm"]):
            reports.append(report)
    figure, axis = plt.subplots(figsize=(7, 4), constrained_layout=True)
    axis.plot([r["seconds"] for r in reports], [r["validationMtreMm"] for r in reports], "o-", color="#1f77b4")
    axis.set(xlabel="training time (s)", ylabel="median mTRE of held-back images (mm)", yscale="log")
    axis.set_title("Preparing the network for this CT")
    axis.grid(alpha=0.3, which="both")
    figure.savefig(folder / "training.png", dpi=100)
    plt.close(figure)
