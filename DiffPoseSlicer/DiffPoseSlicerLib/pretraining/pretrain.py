"""Train a model for one CT, C-arm and view: the call of the public interface."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import Cancelled
from ..geometry.carm import CArm
from .job import Job, finished_model, run_job
from .settings import Settings, Task
from .settings import preset as preset_named

if TYPE_CHECKING:
    from ..imaging.ct import CTVolume
    from .model import PoseModel


def make_job(
    ct: CTVolume,
    carm: CArm,
    view: str = "AP",
    *,
    out: str | os.PathLike[str],
    rotation: ArrayLike = (30, 30, 30),
    translation: ArrayLike = (50, 50, 100),
    lao_rao: float = 0.0,
    cran_caud: float = 0.0,
    center: ArrayLike | None = None,
    preset: str = "standard",
    settings: Settings | None = None,
    seed: int = 0,
    device: str = "auto",
    warm_start: str | os.PathLike[str] | None = None,
) -> Job:
    """The job folder for a training, made or found; see :func:`pretrain`. Run it with `job.start_detached`, or
    `job.run_job` in this process.

    Raises:
        InputError: a value is not possible, or the folder is another job's.
    """
    if warm_start is not None:
        finished_model(warm_start)  # refused before anything is made
    isocenter = np.asarray(ct.center if center is None else center, float)
    task = Task(carm, view, tuple(isocenter), tuple(rotation), tuple(translation), lao_rao, cran_caud)  # type: ignore[arg-type]
    job = Job.create(out, ct, task, settings or preset_named(preset), preset=preset, seed=seed, device=device)
    if warm_start is not None and not (job.folder / "checkpoint.safetensors").exists():
        job.start_from(warm_start)
    return job


def pretrain(
    ct: CTVolume,
    carm: CArm,
    view: str = "AP",
    *,
    out: str | os.PathLike[str],
    rotation: ArrayLike = (30, 30, 30),
    translation: ArrayLike = (50, 50, 100),
    lao_rao: float = 0.0,
    cran_caud: float = 0.0,
    center: ArrayLike | None = None,
    preset: str = "standard",
    settings: Settings | None = None,
    seed: int = 0,
    device: str = "auto",
    warm_start: str | os.PathLike[str] | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> PoseModel:
    """Train a model, in this process, and return it. A folder with an unfinished job is gone on with.

    Args:
        ct: The CT.
        carm: The C-arm whose images the model is for.
        view, lao_rao, cran_caud: The nominal view.
        out: The job folder.
        rotation, translation: Half-ranges of the poses about the view, per camera axis (right, down, depth), degrees
            and mm.
        center: Isocentre, RAS mm; default the CT's centre.
        preset: "quick", "standard" or "thorough": how much time is spent.
        settings: Instead of a preset.
        seed: Of everything random.
        device: "auto", "cpu" or "cuda:N".
        warm_start: Job folder of a finished model to begin with, such as another patient's of the same view.
        on_progress: Called with each report (a dict as in status.json).
        cancel: Asked at every step; true saves and ends the training.

    Raises:
        InputError: a value is not possible, the folder is another job's or in use, or the disk is full.
        Cancelled: `cancel` said so, or somebody asked the job to stop; it can be gone on with.
    """
    job = make_job(
        ct,
        carm,
        view,
        out=out,
        rotation=rotation,
        translation=translation,
        lao_rao=lao_rao,
        cran_caud=cran_caud,
        center=center,
        preset=preset,
        settings=settings,
        seed=seed,
        device=device,
        warm_start=warm_start,
    )
    status = run_job(job.folder, on_progress=on_progress, cancel=cancel)
    if status.get("state") == "stopped":
        raise Cancelled("The training was stopped; run it again to go on.")
    from .model import PoseModel

    return PoseModel.load(job.folder)
