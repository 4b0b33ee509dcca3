"""Preparing a patient: a pretraining job made from nodes, started in a process of its own, watched, found again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..geometry.carm import CArm
from ..pretraining import disk
from ..pretraining import job as jobs
from ..pretraining.settings import Settings, Task, preset
from .task import Steps
from .upload import Loaded, ct_array

PathLike = str | os.PathLike[str]
# A process that was started has so long to show a sign of life, and a job is looked at so often.
START_S = 60.0
_LOOK_S = 0.2
# States in which nothing more will come.
ENDED = ("done", "failed", "stopped", "interrupted", "new")


@dataclass(frozen=True)
class Prepared:
    """A job folder that was found.

    Attributes:
        folder: Where.
        view, lao_rao, cran_caud, rotation, translation: What it is for, as in :func:`order`.
        carm: Its C-arm.
        fingerprint: Of its CT.
        preset: How it was trained.
        status: Its latest figures; "state" is one of new, starting, running, certifying, paused, interrupted, stopped,
            failed, done.
        usable: Whether it can start a registration.
        size: Bytes on disk, its copy of the CT included.
    """

    folder: Path
    view: str
    lao_rao: float
    cran_caud: float
    rotation: tuple[float, float, float]
    translation: tuple[float, float, float]
    carm: CArm
    fingerprint: str
    preset: str
    status: dict[str, Any]
    usable: bool
    size: int

    @property
    def certificate(self) -> dict[str, Any] | None:
        """What the job certifies, or None."""
        found = self.status.get("certificate")
        return found if isinstance(found, dict) else None

    @property
    def report(self) -> Path | None:
        """The certificate as a page to look at, or None."""
        page = self.folder / "certificate.html"
        return page if page.is_file() else None


def models_folder() -> Path:
    """Where models are kept when nobody says otherwise."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", home / ".local" / "share"))
    return base / "DiffPoseSlicer" / "models"


def order(
    carm: CArm,
    loaded: Loaded,
    *,
    view: str,
    lao_rao: float,
    cran_caud: float,
    rotation: Sequence[float],
    translation: Sequence[float],
) -> Task:
    """What a preparation of a CT is for.

    Args:
        carm: The C-arm.
        loaded: The CT, as the engine holds it; the view turns about its centre.
        view, lao_rao, cran_caud: The nominal view; degrees.
        rotation, translation: Half-ranges about it, degrees and mm in camera axes (right, down, depth).
    """
    return Task(
        carm=carm,
        view=view,
        lao_rao=lao_rao,
        cran_caud=cran_caud,
        center=tuple(loaded.center.tolist()),
        rotation=tuple(map(float, rotation)),  # type: ignore[arg-type]
        translation=tuple(map(float, translation)),  # type: ignore[arg-type]
    )


def job_folder(base: Path, fingerprint: str, task: Task, name: str) -> Path:
    """The folder of a job: the same order finds the same folder, and its name says nothing of the patient."""
    order = hashlib.sha256(json.dumps([task.to_json(), name], sort_keys=True).encode()).hexdigest()
    return base / f"{fingerprint[:12]}-{task.view.lower()}-{name}-{order[:8]}"


def make_job(folder: Path, ct: Any, loaded: Loaded, task: Task, name: str, device: str, seed: int = 0) -> Steps:
    """Steps that write a job's order, the CT in slabs; a job that is there already stays as it is."""
    if (folder / "job.json").is_file():
        return jobs.Job.open(folder)
    settings: Settings = preset(name)
    hu = ct_array(ct)
    data = jobs.order(loaded.key, loaded.affine, task, settings, preset=name, seed=seed, device=device)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / "ct.npy.part"
        with open(part, "wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(hu.dtype), "fortran_order": False, "shape": hu.shape}
            np.lib.format.write_array_header_1_0(file, header)
            thick = max(1, (4 << 20) // hu[0].nbytes)
            for k in range(0, len(hu), thick):
                file.write(np.ascontiguousarray(hu[k : k + thick]).data)
                yield
        disk.replace_file(part, folder / "ct.npy")
        disk.write_atomically(folder / "job.json", json.dumps(data, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise InputError(f"The model's folder cannot be written: {disk.reason(error)}.") from None
    return jobs.Job.open(folder)


def find(base: Path, fingerprint: str | None = None) -> list[Prepared]:
    """All jobs below a folder (of one CT, where a fingerprint is given), the latest first."""
    found = []
    for order in sorted(base.glob("*/job.json"), key=lambda path: -path.stat().st_mtime) if base.is_dir() else []:
        try:
            job = jobs.Job.open(order.parent)
        except InputError:
            continue  # another version's, or half of one
        if fingerprint is None or job.fingerprint == fingerprint:
            found.append(describe(job))
    return found


def describe(job: jobs.Job) -> Prepared:
    """What is to be known of a job."""
    files = [path for path in job.folder.iterdir() if path.is_file()]
    return Prepared(
        folder=job.folder,
        view=job.task.view,
        lao_rao=job.task.lao_rao,
        cran_caud=job.task.cran_caud,
        rotation=job.task.rotation,
        translation=job.task.translation,
        carm=job.task.carm,
        fingerprint=job.fingerprint,
        preset=job.preset,
        status=jobs.read_status(job.folder),
        usable=(job.folder / "model.safetensors").is_file(),
        size=sum(path.stat().st_size for path in files),
    )


def best(models: list[Prepared], carm: CArm, view: dict[str, Any]) -> Prepared | None:
    """The model to start from: usable, and trained for about this view (within 20 degrees) and this C-arm."""
    fitting = [
        model
        for model in models
        if model.usable
        and model.view == view["view"]
        and np.hypot(model.lao_rao - view["laoRao"], model.cran_caud - view["cranCaud"]) < 20
        and abs(model.carm.source_to_detector / carm.source_to_detector - 1) < 0.1
    ]
    return fitting[0] if fitting else None


def is_ending(folder: PathLike) -> bool:
    """Whether a job's process has said its last word and is about to end."""
    return jobs.is_running(folder) and jobs.read_status(folder).get("state") not in jobs.ACTIVE


def watch(folder: PathLike, since: float, on_progress: Callable[[dict[str, Any]], None] | None) -> Steps:
    """Steps that last until a job, whose process was started at the time `since`, has ended; its last status."""
    seen: Any = None
    alive, looked = False, 0.0
    while True:
        if time.time() - looked < _LOOK_S:
            yield
            continue
        looked = time.time()
        status = jobs.read_status(folder)
        heartbeat = float(status.get("heartbeat") or 0.0)
        alive = alive or heartbeat > since or jobs.is_running(folder)
        if on_progress and alive and heartbeat != seen:
            seen = heartbeat
            on_progress(status)
        if alive and status.get("state") in ENDED:
            return status
        if not alive and (jobs.has_ended(folder) or looked - since > START_S):
            return not_started(folder)


def not_started(folder: PathLike) -> dict[str, Any]:
    """The status of a job whose process has ended without a sign of life."""
    words = jobs.last_words(folder)
    return {"state": "failed", "message": f"The preparation did not start: {words or 'its log.txt says no more'}"}


def delete(folder: PathLike) -> None:
    """Delete a job folder with its model and its copy of the CT.

    Raises:
        InputError: a process still works there, or it is no job folder.
    """
    folder = jobs.Job.open(folder).folder
    if jobs.is_running(folder) and not is_ending(folder):
        raise InputError("The preparation is still running: stop it first.")
    shutil.rmtree(folder, ignore_errors=True)
