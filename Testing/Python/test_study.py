"""Studies: what a study file may say, that a killed one goes on, clusters, and the page."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser import assert_self_contained, open_page
from DiffPoseSlicerLib import CArm, CTVolume, Pose
from DiffPoseSlicerLib.cli.main import main
from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.evaluation.curves import calibration_error, capture_range, reliability, success_curve
from DiffPoseSlicerLib.evaluation.metrics import mpe
from DiffPoseSlicerLib.evaluation.published import diffpose_mtre, xvr_mtre
from DiffPoseSlicerLib.studies.plan import Case, read_study, study_from_toml
from DiffPoseSlicerLib.studies.run import TIMINGS, read_rows, run_study
from DiffPoseSlicerLib.studies.study_page import study_page

STUDY = """
name = "Tiny"
seed = 3
cts = ["small.nii.gz"]
cases = 6
pixels = 48
simulator = "own"
[starts]
near = [5, 10]
[methods.ours-single]
[methods.adam]
use = "first-order"
pixels = 32
iterations = 12
"""


@pytest.fixture(scope="module")
def folder(small_ct: CTVolume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study")
    small_ct.write(path / "small.nii.gz")
    (path / "study.toml").write_text(STUDY)
    return path


def table(path: Path) -> list[dict[str, Any]]:
    """The rows of a study's CSV without what differs from run to run."""
    with (path / "cases.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The study, run without interruption."""
    out = folder / "whole"
    assert main(["study", str(folder / "study.toml"), "-o", str(out), "--workers", "2"]) == 0
    return out


def test_a_study_gives_a_case_file_each_a_table_and_a_page(whole: Path, folder: Path) -> None:
    rows = table(whole)
    assert len(rows) == 12 and {row["method"] for row in rows} == {"ours-single", "adam"}
    assert len(list((whole / "cases").glob("*.json"))) == 6
    ours = [float(row["mtre"]) for row in rows if row["method"] == "ours-single"]
    assert np.median(ours) < 1 < np.median([float(row["startMtre"]) for row in rows])
    # Every case has its own pose and start, and methods of one case the same.
    assert len({row["startMtre"] for row in rows}) == 6
    seen = open_page(whole / "index.html", folder)
    assert_self_contained((whole / "index.html").read_text())
    for words in (
        "Tiny",
        "ours-single",
        "How many are below an error",
        "At what cost",
        "From how far off",
        "Worst cases",
    ):
        assert words in seen.text
    assert seen.dom.count("<img") == 8 and seen.picture.stat().st_size > 20_000


def test_the_page_shows_whether_stated_odds_hold(whole: Path, folder: Path) -> None:
    """As registrations that state a probability would fill it; without one the diagram is left out."""
    study = read_study(folder / "study.toml")
    rows = [row for row in read_rows(study, whole) if row["method"] == "ours-single"]
    silent = [{**row, "probability": 0.0, "trusted": False} for row in rows]
    assert "stated odds" not in study_page(study, whole, silent, pictures=False)
    assert len(rows) == 6
    for n, row in enumerate(rows):
        row["mtre"], row["probability"], row["trusted"] = (0.2, 9.0)[n == 5], (0.95, 0.85)[n % 2], n != 1
    page = study_page(study, whole, rows, pictures=False)
    assert "Whether stated odds hold" in page and "stated probability of success" in page
    # 0.95 three times and 0.85 three times are one bin of five: 5.4 expected, 5 good.
    assert "5 of 6 called trusted, 1 of them wrongly; mean gap between stated and observed success 0.067." in page


def test_a_killed_study_goes_on_where_it_was(whole: Path, folder: Path) -> None:
    out = folder / "killed"
    command = [sys.executable, "-m", "DiffPoseSlicerLib", "study", str(folder / "study.toml"), "-o", str(out)]
    process = subprocess.Popen([*command, "--workers", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while len(list(out.glob("cases/*.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = {file: file.stat().st_mtime_ns for file in out.glob("cases/*.json")}
    assert 2 <= len(done) < 6, "the study was to be killed half-way"
    assert not (out / "cases.csv").exists()
    assert main(["study", str(folder / "study.toml"), "-o", str(out), "--workers", "2"]) == 0
    assert {file: file.stat().st_mtime_ns for file in done} == done  # no finished case was touched
    assert table(out) == table(whole)
    assert not list(out.rglob("*.part"))


def test_workers_of_a_killed_study_end(folder: Path) -> None:
    out = folder / "orphans"
    command = [sys.executable, "-m", "DiffPoseSlicerLib", "study", str(folder / "study.toml"), "-o", str(out)]
    process = subprocess.Popen([*command, "--workers", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children: list[int] = []
    deadline = time.monotonic() + 60
    while len(children) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        children = _children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert children
    while any(_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [child for child in children if _alive(child)]


def _children(pid: int) -> list[int]:
    file = Path(f"/proc/{pid}/task/{pid}/children")
    if not file.parent.parent.exists():
        pytest.skip("needs /proc to see a process's children, which this system does not have")
    return [int(word) for word in file.read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_two_dask_workers_one_killed_give_the_same_table(whole: Path, folder: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="needs the package distributed (Dask), not installed")
    out = folder / "dask"
    with distributed.LocalCluster(n_workers=0, dashboard_address=None, silence_logs="CRITICAL") as cluster:
        address = cluster.scheduler_address
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
        command += ["--nworkers", "1", "--no-nanny", "--no-dashboard"]
        workers = [
            subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(2)
        ]
        killed: list[int] = []

        def kill_one(done: int, total: int) -> None:
            if done == 2 and not killed:
                assert len(cluster.scheduler.workers) == 2
                os.kill(workers[0].pid, signal.SIGKILL)
                killed.append(workers[0].wait())

        try:
            deadline = time.monotonic() + 60
            while len(cluster.scheduler.workers) < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
            study = read_study(folder / "study.toml")
            run_study(study, out, scheduler=address, on_case=kill_one)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    assert killed == [-signal.SIGKILL]
    assert table(out) == table(whole)


def test_a_method_that_is_added_runs_alone(whole: Path, folder: Path) -> None:
    before = json.loads((whole / "cases" / "small-AP-near-clean-0000.json").read_text())
    study = study_from_toml(STUDY + "[methods.no-network]\n", folder)
    rows = run_study(study, whole, workers=1, say=lambda _: None)
    after = json.loads((whole / "cases" / "small-AP-near-clean-0000.json").read_text())
    assert len(rows) == 18
    assert after["methods"]["adam"] == before["methods"]["adam"]  # its time, too: it was not run again
    with pytest.raises(InputError, match="seed = 3, not 4"):
        run_study(study_from_toml(STUDY.replace("seed = 3", "seed = 4"), folder), whole)


def test_a_folder_with_other_things_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not a study's"):
        run_study(read_study(folder / "study.toml"), tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("cases = ", "not TOML"),
        ("cased = 3\n[methods.ours]", "unknown entry 'cased'"),
        ("cases = 3", r"no \[methods\]"),
        ("[methods.theirs]", "method theirs is 'theirs'"),
        ("[methods.ours]\npower = 2", "takes no 'power'"),
        ("[methods.first-order]\nscore = 'ssd'", "score is 'ssd'"),
        ("[methods.paper]", "needs a network"),
        ("views = ['UP']\n[methods.ours]", "views is 'UP'"),
        ("factors = ['rain']\n[methods.ours]", "factors is 'rain'"),
        ("cts = ['none.nii.gz']\n[methods.ours]", "is no file"),
        ("cases = 'many'\n[methods.ours]", "wrong kind"),
        ("[dataset]\nkind = 'mine'\n[methods.ours]", "kind of dataset"),
        ("starts = 3\n[methods.ours]", "wrong kind"),
    ],
)
def test_a_wrong_study_file_is_explained(wrong: str, said: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "study.toml").write_text(wrong)
    assert main(["study", str(tmp_path / "study.toml"), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    import re

    assert re.search(said, error) and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_goes_wrong_in_a_case_is_a_failure_of_the_method(folder: Path, tmp_path: Path) -> None:
    """A network that is missing ends nothing: the case counts as failed, and is tried again the next time."""
    text = STUDY.replace("cases = 6", "cases = 1") + f"[methods.network]\nmodels = {{small = '{tmp_path}/none'}}\n"
    study = study_from_toml(text, folder)
    rows = run_study(study, tmp_path / "out", workers=1, say=lambda _: None)
    failed = next(row for row in rows if row["method"] == "network")
    assert failed["error"] and failed.get("mtre") is None
    assert "0.0 %" in study_page(study, tmp_path / "out", rows, pictures=False)


def test_cases_are_drawn_by_name_not_by_order() -> None:
    one, other = Case("a", "AP", "near", "clean", 3), Case("a", "AP", "far", "clean", 3)
    assert one.rng(1, "x").random() == Case("a", "AP", "near", "clean", 3).rng(1, "x").random()
    assert one.rng(1, "x").random() == other.rng(1, "x").random()  # the same X-ray for every start
    assert Case("/there/a.nii.gz", "AP", "near", "clean", 3).subject == one.subject == "a"  # wherever its file lies
    assert one.rng(1, "x").random() != one.rng(2, "x").random() != one.rng(1, "y").random()


def test_curves_by_hand() -> None:
    assert success_curve([0.5, 2, np.nan, 4], [1, 3, 100]).tolist() == [0.25, 0.5, 0.75]
    assert capture_range([1, 2, 11, 30], [0.1, 5, 0.2, 0.1], 1.0, [0, 10, 20, 30]) == [(0, 10, 1, 2), (10, 20, 1, 1)]
    rows = reliability([0.1, 0.1, 0.9, 0.9], [False, True, True, True], bins=2)
    assert [(round(p, 9), share) for p, share, _, _ in rows] == [(0.1, 0.5), (0.9, 1.0)]
    assert calibration_error([0.1, 0.1, 0.9, 0.9], [False, True, True, True], bins=2) == pytest.approx(0.25)


def test_published_figures_by_hand() -> None:
    """A camera 1000 mm from the origin looking at it, 2 mm pixels: what each formula makes of a shift and of a turn."""
    carm = CArm(1500.0, (100, 100), (2.0, 2.0))
    back = np.eye(4)
    back[2, 3] = -1000.0
    true = Pose(back)
    shifted = back.copy()
    shifted[0, 3] = 3.0  # the camera 3 mm to the right: points 3 mm to the left, 4.5 mm at the detector
    points = np.zeros((1, 3))
    assert mpe(Pose(shifted), true, points, carm) == pytest.approx(4.5)
    assert diffpose_mtre(Pose(shifted), true, points, carm) == pytest.approx(9.0)
    assert diffpose_mtre(Pose(shifted), true, points, carm, spacing_factor=False) == pytest.approx(4.5)
    assert xvr_mtre(Pose(shifted), true, points) == pytest.approx(3.0)
    # Turned by 0.1 rad about the origin: nothing moves there, but the camera has gone 100 mm.
    cos, sin = np.cos(0.1), np.sin(0.1)
    turn = np.array([[cos, 0, sin, 0], [0, 1, 0, 0], [-sin, 0, cos, 0], [0, 0, 0, 1]])
    assert mpe(Pose(turn @ back), true, points, carm) == pytest.approx(0, abs=1e-9)
    assert xvr_mtre(Pose(turn @ back), true, points) == pytest.approx(2 * 1000 * np.sin(0.05), rel=1e-9)


def test_methods_with_a_network_train_it_once(folder: Path, tmp_path: Path) -> None:
    """`ours+network`, `network` and `paper`; the same preset is the same network."""
    text = STUDY.split("[methods")[0].replace("cases = 6", "cases = 1")
    text += "[methods.'ours+network']\npreset = 'tiny'\nseconds = 2\n[methods.network]\npreset = 'tiny'\nseconds = 2\n"
    text += "[methods.paper]\npreset = 'tiny'\nseconds = 2\npixels = 32\niterations = 3\n[methods.search]\n"
    said: list[str] = []
    rows = run_study(study_from_toml(text, folder), tmp_path, workers=1, say=said.append)
    assert [row["method"] for row in rows] == ["ours+network", "network", "paper", "search"]
    assert [row["error"] for row in rows] == [None] * 4
    assert all(row["mtre"] is not None for row in rows)
    assert sum("Training" in sentence for sentence in said) == 1
    assert len(list((tmp_path / "models").iterdir())) == 1
