"""Running a study: case by case, on all cores or a Dask cluster, resumable.

The folder of a study holds study.json (what it is), cases/NAME.json (one a finished case, written whole or not at all),
models/ (networks it trained), cases.csv and index.html (made at the end). Started again, it does what is missing.
"""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..evaluation import metrics
from ..evaluation.published import diffpose_mtre, xvr_mtre
from ..geometry.files import read_json
from ..registration.result import RegistrationResult
from ..rendering.threads import cores
from .methods import METHODS
from .plan import Case, Study
from .problems import WORKSHOP, Posed, with_model

# One case at a time in a process: what it keeps is not for several threads (a Dask worker may have them).
_ONE = threading.Lock()
Models = dict[str, str]  # method and CT and view -> job folder
# What differs between two runs of the same case.
TIMINGS = ("seconds",)


def run_case(study: Study, case: Case, methods: Sequence[str], models: Models) -> dict[str, Any]:
    """One case by some methods: what its file says. Wrong input is written down as the outcome, not raised."""
    with _ONE:
        try:
            posed = WORKSHOP.posed(study, case)
        except InputError as error:
            return {"case": vars(case), "methods": {name: {"error": str(error)} for name in methods}}
        start = metrics.mtre(posed.problem.start, posed.truth, posed.points)
        found = {}
        for name in methods:
            problem = with_model(posed.problem, models.get(_model_key(name, case)))
            try:
                result = METHODS[study.use(name)].run(problem, study.settings(name))
                found[name] = outcome(result, posed) | {"settings": study.methods[name]}
            except InputError as error:
                found[name] = {"error": str(error), "settings": study.methods[name]}
        checked = {} if posed.reprojection is None else {"reprojection": posed.reprojection}
        return {"case": vars(case), "start": start, **checked, "methods": found}


def outcome(result: RegistrationResult, posed: Posed) -> dict[str, Any]:
    """The figures of one registration."""
    pose, truth, points, carm = result.pose, posed.truth, posed.points, posed.carm
    told = posed.problem.xray.carm
    right, down, depth = metrics.translation_error(pose, truth, points.mean(0))
    figures = {
        "mtre": metrics.mtre(pose, truth, points),
        "mrpd": metrics.mrpd(pose, truth, points, told, carm),
        "mpe": metrics.mpe(pose, truth, points, told, carm),
        "rotation": metrics.rotation_error(pose, truth),
        "right": right,
        "down": down,
        "depth": depth,
        "diffpose": diffpose_mtre(pose, truth, points, told),
        "xvr": xvr_mtre(pose, truth, points),
        "similarity": result.similarities[0],
        "expectedErrorMm": result.expected_error_mm,
        "probability": result.trust.probability,
        "iterations": result.iterations,
        "seconds": result.seconds,
    }
    finite = {key: _finite(value) for key, value in figures.items()}
    return finite | {"trusted": result.trust.trusted, "cameraToRAS": pose.camera_to_ras.tolist()}


def run_study(
    study: Study,
    folder: Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    say: Callable[[str], object] = print,
    on_case: Callable[[int, int], object] | None = None,
) -> list[dict[str, Any]]:
    """Do what a study still lacks; its rows, one a case and method.

    Args:
        study: what to do.
        folder: new, or of the same study.
        workers: processes on this machine; default one a core.
        scheduler: address of a Dask scheduler, whose workers are used instead. They must see the same files.
        say: called with sentences.
        on_case: called with (done, all) after every case.

    Raises:
        InputError: the folder is another study's, or a package is missing.
    """
    _claim(study, folder)
    models = train_networks(study, folder, say)
    cases = list(study.all_cases())
    todo = [(case, missing) for case in cases if (missing := _missing(study, folder, case))]
    if len(todo) < len(cases):
        say(f"{len(cases) - len(todo)} of {len(cases)} cases are there already.")
    done = len(cases) - len(todo)
    tasks = [(study, case, missing, models) for case, missing in todo]
    results = _on_dask(tasks, scheduler) if scheduler else _on_cores(tasks, workers or cores())
    for found in results:
        _keep(folder, Case(**found["case"]), found)
        done += 1
        if on_case:
            on_case(done, len(cases))
    rows = read_rows(study, folder)
    write_csv(folder / "cases.csv", rows)
    return rows


def train_networks(study: Study, folder: Path, say: Callable[[str], object]) -> Models:
    """Job folders of the networks that methods need: those given, and those trained here (once, resumable)."""
    from ..evaluation.public_ct import PUBLIC_CTS, public_ct

    models: Models = {}
    for name in study.methods:
        settings = study.settings(name)
        if not METHODS[study.use(name)].needs_model:
            continue
        for ct, path in settings.get("models", {}).items():
            for case in study.all_cases():
                if ct in (case.ct, case.subject):
                    models[_model_key(name, case)] = path
        if "preset" not in settings:
            continue
        from ..evaluation.cases import BENCH_CARM, shortened
        from ..imaging.ct import CTVolume
        from ..pretraining.pretrain import pretrain
        from ..pretraining.settings import preset

        changes: dict[str, Any] = {key: settings[key] for key in ("seconds", "loss", "similarity") if key in settings}
        how: dict[str, Any] = {"cases": 0, **changes}
        for ct in study.cts:
            for view in study.views:
                case = Case(ct, view, "", "", 0)
                words = [case.subject, view, settings["preset"], *(f"{v}" for v in changes.values())]
                job = folder / "models" / "-".join(words)
                models[_model_key(name, case)] = str(job)
                if (job / "model.safetensors").is_file():
                    continue
                say(f"Training {job.name} for the method {name} ...")
                pretrain(
                    shortened(CTVolume.read(public_ct(ct) if ct in PUBLIC_CTS else ct)),
                    BENCH_CARM,
                    view,
                    out=job,
                    rotation=study.rotation,
                    translation=study.translation,
                    settings=preset(settings["preset"], **how),
                    seed=study.seed,
                    device="cpu",
                )
    return models


def read_rows(study: Study, folder: Path) -> list[dict[str, Any]]:
    """One row a case and method, in the study's order; cases that are not finished are left out."""
    rows = []
    for case in study.all_cases():
        found = _read(folder, case)
        for name in study.methods_of(case):
            figures = found.get("methods", {}).get(name)
            if figures is None:
                continue
            flat = {k: v for k, v in figures.items() if k not in ("settings", "cameraToRAS")}
            checked = {"reprojection": found["reprojection"]} if "reprojection" in found else {}
            rows.append(
                {**vars(case), "method": name, "startMtre": found.get("start"), "error": None, **flat, **checked}
            )
    return rows


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """The table, whole or not at all."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    half = path.with_suffix(".part")
    with half.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(half, path)


def pose_of(folder: Path, case: Case, method: str) -> list[list[float]]:
    """The pose (cameraToRAS) that a method found."""
    return _read(folder, case)["methods"][method]["cameraToRAS"]


# --- Where cases run --------------------------------------------------------------------------------------------------


def _on_cores(tasks: list[tuple], workers: int) -> Iterator[dict[str, Any]]:
    """Results as they come, from processes of this machine. They end with this one, however it ends."""
    if not tasks:
        return
    workers = min(workers, len(tasks))
    with _threads_shared(workers):
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
        try:
            waiting = {pool.submit(run_case, *task) for task in tasks}
            for future in as_completed(waiting):
                yield future.result()
        except BrokenProcessPool:
            raise RuntimeError("a worker process was ended from outside; start the study again to go on") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _on_dask(tasks: list[tuple], scheduler: str) -> Iterator[dict[str, Any]]:
    """Results as they come, from a cluster. Work that a worker takes down with it is done by another."""
    try:
        from distributed import Client
        from distributed import as_completed as as_they_come
    except ImportError:
        raise InputError("A cluster needs Dask: run `pip install distributed` and try again.") from None
    try:
        client = Client(scheduler, timeout=20)
    except (OSError, TimeoutError, ValueError):
        raise InputError(f"No Dask scheduler answers at {scheduler}.") from None
    with client:
        futures = [client.submit(run_case, *task, pure=False, retries=3) for task in tasks]
        for future in as_they_come(futures):
            yield future.result()
            future.release()


def _end_with_parent() -> None:
    """A killed study must leave no processes behind: each watches the one that started it."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _threads_shared(workers: int) -> Iterator[None]:
    """Within: processes that are started take their share of the cores, not all of them."""
    share = str(max(1, cores() // workers))
    names = ("DIFFPOSESLICER_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, share))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# --- What is kept -----------------------------------------------------------------------------------------------------


def _claim(study: Study, folder: Path) -> None:
    """Make the folder, or see that it is this study's. More methods, CTs, factors or cases may come; what makes a case
    what it is may not change."""
    file = folder / "study.json"
    if folder.exists() and any(folder.iterdir()) and not file.is_file():
        raise InputError(f"The folder {folder.name} holds files that are not a study's: choose another.")
    (folder / "cases").mkdir(parents=True, exist_ok=True)
    now = json.loads(json.dumps(study.to_json()))
    if file.is_file():
        before = read_json(file, "study")
        for key in ("seed", "rotation", "translation", "pixels", "simulator", "dataset", "starts"):
            if before.get(key) != now[key]:
                raise InputError(
                    f"The folder {folder.name} is of a study with {key} = {before.get(key)!r}, not {now[key]!r}: "
                    "choose another folder."
                )
    _write(file, now)


def _file(folder: Path, case: Case) -> Path:
    return folder / "cases" / f"{case.name}.json"


def _read(folder: Path, case: Case) -> dict[str, Any]:
    file = _file(folder, case)
    return read_json(file, "case") if file.is_file() else {}


def _missing(study: Study, folder: Path, case: Case) -> list[str]:
    """The methods a case still lacks, or has with other settings."""
    found = _read(folder, case).get("methods", {})
    settings = json.loads(json.dumps(study.methods))
    return [
        name
        for name in study.methods_of(case)
        if found.get(name, {}).get("settings") != settings[name] or "error" in found[name]
    ]


def _keep(folder: Path, case: Case, found: dict[str, Any]) -> None:
    before = _read(folder, case)
    _write(_file(folder, case), {**before, **found, "methods": before.get("methods", {}) | found["methods"]})


def _write(path: Path, data: dict[str, Any]) -> None:
    half = path.with_suffix(f".{os.getpid()}.part")
    try:
        half.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        os.replace(half, path)
    finally:
        with suppress(FileNotFoundError):
            half.unlink()


def _model_key(method: str, case: Case) -> str:
    return f"{method}|{case.ct}|{case.view}"


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(np.float64(value))
