"""A pretraining job as a folder: made, started in a process of its own, watched, paused, stopped, gone on with.

No torch here: panels, consoles and command lines watch jobs without it. What a folder holds:

| file | what |
|---|---|
| job.json, ct.npy | the whole order: CT, task, settings; enough to run it on another machine |
| status.json | state, process, heartbeat and the latest figures; rewritten about once a second |
| progress.jsonl, log.txt | a line per report, a line per event; only ever appended to |
| checkpoint.safetensors | everything needed to go on; replaced whole every few seconds |
| model.safetensors | the finished network |
| start.safetensors | another job's network to begin with, where one was given |
| lock | held by the process that works here, as long as it lives (the system lets go of it, even after kill -9) |
| request | "pause" or "stop", from whoever watches |
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..geometry.files import read_json
from ..geometry.se3 import Array
from ..processes import with_library
from .disk import FolderLock, reason, replace_file, write_atomically
from .reporter import FORMAT, OnProgress, Reporter
from .settings import Settings, Task

if TYPE_CHECKING:
    from ..imaging.ct import CTVolume

# A process works on the job in these states; a folder that says so without one was interrupted.
ACTIVE = ("starting", "running", "certifying", "paused")
PathLike = str | os.PathLike[str]


class Job:
    """An order in a folder. Make one with :meth:`create` or :meth:`open`.

    Attributes:
        folder: Where.
        task, settings: What and how.
        seed, device, preset: As ordered.
        fingerprint: Of the CT.
    """

    def __init__(self, folder: PathLike, data: dict[str, Any]) -> None:
        self.folder = Path(folder)
        self._data = data
        try:
            version = data["format"]
            if version == FORMAT:
                self.task = Task.from_json(data["task"])
                self.settings = Settings.from_json(data["settings"])
                self.seed, self.device, self.preset = int(data["seed"]), str(data["device"]), str(data["preset"])
                self.fingerprint = str(data["fingerprint"])
                self._affine = np.array(data["affine"], float)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"job.json is not a pretraining job's ({error}); make the job again.") from None
        if version != FORMAT:
            raise InputError(
                f"The job was made by another version of DiffPoseSlicer (format {version}, this one uses {FORMAT}): "
                "make it again in a new folder."
            )

    @classmethod
    def open(cls, folder: PathLike) -> Job:
        """The job of a folder.

        Raises:
            InputError: there is none, or it is of another version.
        """
        folder = Path(folder)
        if not (folder / "job.json").is_file():
            raise InputError(f"The folder {folder.name} holds no pretraining job (no job.json); check the path.")
        return cls(folder, read_json(folder / "job.json", "job"))

    @classmethod
    def create(
        cls,
        folder: PathLike,
        ct: CTVolume,
        task: Task,
        settings: Settings,
        *,
        preset: str = "",
        seed: int = 0,
        device: str = "auto",
    ) -> Job:
        """The job of a folder, made there if the folder holds none; one that is there must be for the same task.

        Longer `settings.seconds` than before extend a job.

        Raises:
            InputError: the folder is another job's, or cannot be written.
        """
        folder = Path(folder)
        if (folder / "job.json").is_file():
            return cls.open(folder)._renewed(ct, task, settings, preset)
        job = cls(folder, order(ct.fingerprint, ct.affine, task, settings, preset=preset, seed=seed, device=device))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            job._write()
            job._keep(ct)
        except OSError as error:
            raise InputError(f"The job folder {folder.name} cannot be written: {reason(error)}.") from None
        return job

    def _keep(self, ct: CTVolume) -> None:
        """Put the CT into the folder."""
        part = self.folder / "ct.npy.part"
        with open(part, "wb") as file:
            np.save(file, ct.hu, allow_pickle=False)
        replace_file(part, self.folder / "ct.npy")

    def _renewed(self, ct: CTVolume, task: Task, settings: Settings, preset: str) -> Job:
        advice = "choose another folder for it"
        if ct.fingerprint != self.fingerprint:
            raise InputError(
                f"The job folder {self.folder.name} was made for another CT (fingerprint {self.fingerprint[:12]}, not "
                f"{ct.fingerprint[:12]}): {advice}."
            )
        old, new = self.task.to_json(), task.to_json()
        for key in new:
            if json.dumps(old.get(key)) != json.dumps(new[key]):
                raise InputError(
                    f"The job folder {self.folder.name} has another {key} ({old.get(key)}, not {new[key]}): {advice}."
                )
        if self.settings.shape() != settings.shape():
            raise InputError(
                f"The job folder {self.folder.name} trains another network (preset {self.preset!r}): {advice}."
            )
        if not (self.folder / "ct.npy").exists():  # a crash while the job was made
            self._keep(ct)
        if settings.seconds > self.settings.seconds:
            self.settings, self.preset = settings, preset
            self._data |= {"settings": settings.to_json(), "preset": preset}
            self._write()
        return self

    def start_from(self, other: PathLike) -> None:
        """Begin with the weights of another job's finished model, such as another patient's of the same view.

        Raises:
            InputError: that folder holds no finished model, or this job has already learnt something.
        """
        source = finished_model(other)
        if (self.folder / "checkpoint.safetensors").exists():
            raise InputError(f"The job {self.folder.name} has begun already; a model to start from comes before that.")
        part = self.folder / "start.safetensors.part"
        part.write_bytes(source.read_bytes())
        replace_file(part, self.folder / "start.safetensors")

    def extend(self, seconds: float) -> None:
        """Give the job so many more seconds of learning; run it again to use them."""
        self.settings = replace(self.settings, seconds=self.settings.seconds + seconds)
        self._data["settings"] = self.settings.to_json()
        self._write()

    def _write(self) -> None:
        write_atomically(self.folder / "job.json", json.dumps(self._data, indent=2, allow_nan=False) + "\n")

    def ct(self) -> CTVolume:
        """The job's CT.

        Raises:
            InputError: its file is missing, damaged or another CT's.
        """
        from ..imaging.ct import CTVolume

        try:
            hu = np.load(self.folder / "ct.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise InputError(f"ct.npy of the job folder {self.folder.name} is missing or damaged.") from None
        ct = CTVolume.from_array(hu, self._affine)
        if ct.fingerprint != self.fingerprint:
            raise InputError(
                f"ct.npy of the job folder {self.folder.name} is not the CT the job was made for (fingerprint "
                f"{ct.fingerprint[:12]}, not {self.fingerprint[:12]}): make the job again."
            )
        return ct


def finished_model(folder: PathLike) -> Path:
    """The file of a job's finished network.

    Raises:
        InputError: the folder holds none.
    """
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise InputError(f"The folder {Path(folder).name} holds no finished model to start from.")
    return path


def read_status(folder: PathLike) -> dict[str, Any]:
    """The latest figures of a job; `state` is "new" before its first run and "interrupted" where its process died."""
    try:
        status = read_json(Path(folder) / "status.json", "status")
    except InputError:
        status = {"state": "new"}
    if status.get("state") in ACTIVE and not is_running(folder):
        status["state"] = "interrupted"
    return status


def read_progress(folder: PathLike) -> list[dict[str, Any]]:
    """All reports of a job. A line torn by a crash is left out."""
    try:
        lines = (Path(folder) / "progress.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    reports = []
    for line in lines:
        try:
            report = json.loads(line)
        except ValueError:
            continue
        if isinstance(report, dict):
            reports.append(report)
    return reports


def is_running(folder: PathLike) -> bool:
    """Whether a process works on the job."""
    lock = FolderLock(folder)
    if not lock.path.exists():
        return False
    if lock.acquire():
        lock.release()
        return False
    return True


def request_stop(folder: PathLike) -> None:
    """Ask the job's process to save and end; it can be started again.

    Raises:
        InputError: the disk is full, and the process cannot be asked otherwise.
    """
    try:
        write_atomically(Path(folder) / "request", "stop")
    except OSError as error:
        status = read_status(folder)
        if sys.platform == "win32" or status["state"] not in ACTIVE or status.get("host") != platform.node():
            raise InputError(f"The job cannot be asked to stop: {reason(error)}.") from None
        os.kill(int(status["pid"]), signal.SIGTERM)  # the command line takes it as the same request


def request_pause(folder: PathLike) -> None:
    """Ask the job's process to save and wait."""
    write_atomically(Path(folder) / "request", "pause")


def request_resume(folder: PathLike) -> None:
    """Take back a request to pause (or to stop)."""
    (Path(folder) / "request").unlink(missing_ok=True)


def read_request(folder: PathLike) -> str:
    """What is asked of the job's process: "pause", "stop" or nothing."""
    try:
        return (Path(folder) / "request").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


# The processes that were started from here, by the resolved folder they work on.
_children: dict[Path, subprocess.Popen[bytes]] = {}


def order(
    fingerprint: str,
    affine: Array,
    task: Task,
    settings: Settings,
    *,
    preset: str = "",
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """The content of job.json: a job for a CT with this fingerprint and affine (4x4, voxel to RAS)."""
    return {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "affine": affine.tolist(),
        "task": task.to_json(),
        "preset": preset,
        "settings": settings.to_json(),
        "seed": int(seed),
        "device": device,
    }


def start_detached(
    folder: PathLike, python: PathLike | None = None, environment: Mapping[str, str] | None = None
) -> int:
    """Run a job in a process of its own, at lower priority, that outlives this one; gives its process id.

    Args:
        folder: The job folder.
        python: The interpreter; default this one.
        environment: The variables it runs with, beside our own; default this process's.

    Raises:
        InputError: no job there, a process already works on it, or the interpreter cannot be run.
    """
    job = Job.open(folder)
    if is_running(folder):
        raise _taken(job.folder)
    request_resume(folder)
    environment = with_library(os.environ if environment is None else environment)
    # Its threads would take the cores from the network while images are made: a threefold price at 96 pixels.
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    command = [str(python or sys.executable), "-m", "DiffPoseSlicerLib", "pretrain", "--job", str(job.folder.resolve())]
    options: dict[str, Any] = {}
    if sys.platform == "win32":
        options["creationflags"] = (
            subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.BELOW_NORMAL_PRIORITY_CLASS
        )
    else:
        options["start_new_session"] = True
    # A file and no pipe: what a dying process says lands in the log, and nobody has to read along.
    try:
        with open(job.folder / "log.txt", "ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env=environment, **options
            )
    except OSError as error:
        raise InputError(
            f"The preparation cannot be started with the interpreter {Path(command[0]).name}: {reason(error)}."
        ) from None
    if sys.platform != "win32":
        with suppress(OSError):  # it runs all the same
            os.setpriority(os.PRIO_PROCESS, process.pid, 5)
    _children[job.folder.resolve()] = process
    return process.pid


def has_ended(folder: PathLike) -> bool:
    """Whether the process that :func:`start_detached` started here for a job has ended."""
    child = _children.get(Path(folder).resolve())
    return child is not None and child.poll() is not None


def last_words(folder: PathLike) -> str:
    """The last line of a job's log, "" where there is none."""
    try:
        lines = (Path(folder) / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def run_job(
    folder: PathLike, *, on_progress: OnProgress | None = None, cancel: Callable[[], bool] | None = None
) -> dict[str, Any]:
    """Work on a job, in this process, until it is done or asked to stop; gives the last status.

    What `python -m DiffPoseSlicerLib pretrain --job FOLDER` runs. Under `torchrun` all processes call it.

    Args:
        folder: The job folder.
        on_progress: Called with each report.
        cancel: Asked at every step; true is a request to stop.

    Raises:
        InputError: no job there, another process works on it, its CT or checkpoint does not fit, or the disk is full.
    """
    job = Job.open(folder)
    leader = int(os.environ.get("RANK", "0")) == 0
    lock = FolderLock(folder)
    if leader and not lock.acquire(patience=1.0):
        raise _taken(job.folder)
    reporter = Reporter(job.folder, leader, on_progress)
    try:
        # A request to stop may be younger than this process, which takes seconds to start: it is honoured.
        if leader and read_request(folder) == "pause":
            request_resume(folder)
        reporter.status(state="starting", message="", force=True)
        from .trainer import train

        finished = train(job, reporter, cancel)
        if finished and leader and job.settings.cases:
            _certify(job, reporter, cancel)
    except BaseException as error:
        text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        if isinstance(error, OSError):
            text = reason(error)
        reporter.log(f"Failed: {text}")
        reporter.status(state="failed", message=text, force=True)
        if isinstance(error, OSError):
            raise InputError(f"The job folder {job.folder.name} cannot be written: {text}.") from error
        raise
    finally:
        if leader:
            request_resume(folder)  # it meant this run, not the next
        lock.release()
    return reporter.latest


def _certify(job: Job, reporter: Reporter, cancel: Callable[[], bool] | None) -> None:
    """Try the finished model on cases it has not seen; asked to stop, or out of time, with those there are."""
    from .certificate import Outcome, certify, read_certificate, summary_line

    settings, figures = job.settings, dict(reporter.latest)
    known = read_certificate(job.folder)
    if known and known["training"]["step"] == figures.get("step") and known["cases"] >= settings.cases:
        return
    reporter.log("Trying the model on simulated fluoroscopies.")

    def on_case(number: int, outcomes: list[Outcome]) -> None:
        good = sum(o.success for o in outcomes)
        rate = round(good / len(outcomes), 4)
        reporter.tell(state="certifying", cases=len(outcomes), ofCases=settings.cases, successRate=rate)

    stop = lambda: read_request(job.folder) == "stop" or bool(cancel and cancel())  # noqa: E731
    reporter.status(state="certifying", force=True)
    try:
        certificate = certify(
            job.folder,
            job.ct(),
            cases=settings.cases,
            seconds=settings.certify_seconds,
            seed=job.seed,
            device=job.device,
            on_case=on_case,
            cancel=stop,
        )
    except (InputError, OSError) as error:  # the model is finished all the same
        text = f"There is no certificate: {reason(error) if isinstance(error, OSError) else error}"
        reporter.log(text)
        reporter.status(state="done", message=text, force=True)
        return
    reporter.log(summary_line(certificate))
    brief = {key: certificate[key] for key in ("certified", "reasons", "cases", "interval")}
    reporter.progress({"state": "done", "certificate": brief | {"success": certificate["rate"]}})


def _taken(folder: Path) -> InputError:
    try:
        pid = read_json(folder / "status.json", "status").get("pid")
    except InputError:
        pid = None
    return InputError(
        f"Another process{f' (number {pid})' if pid else ''} already works on the job folder {folder.name}: "
        "stop it first, or wait."
    )
