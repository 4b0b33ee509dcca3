"""`pretrain` on the command line: runs a job, stops on Ctrl-C, goes on; `register` starts from what it learnt."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from DiffPoseSlicerLib import CArm
from DiffPoseSlicerLib.cli import main as cli
from DiffPoseSlicerLib.cli.pretrain import words
from DiffPoseSlicerLib.pretraining.job import read_status
from DiffPoseSlicerLib.pretraining.pretrain import make_job
from DiffPoseSlicerLib.pretraining.settings import preset

CARM = CArm(1020.0, (48, 48), (6.0, 6.0), intensity="transmission")
RANGES = {"rotation": (5, 5, 5), "translation": (10, 10, 20)}


def run(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(small_ct, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    small_ct.write(folder / "ct.nii.gz")
    CARM.write(folder / "carm.json")
    return folder


def test_a_job_runs_and_its_model_starts_a_registration(files, small_ct, tmp_path, capsys):
    job = make_job(small_ct, CARM, out=tmp_path / "job", settings=preset("tiny"), **RANGES)
    assert run("pretrain", "--job", job.folder) == 0
    assert "step" in capsys.readouterr().err
    assert read_status(job.folder)["state"] == "done"
    ct, carm = files / "ct.nii.gz", files / "carm.json"
    ranges = ["--rotation", "5", "5", "5", "--translation", "10", "10", "20"]
    assert run("simulate", ct, "--carm", carm, "-n", "1", *ranges, "-o", tmp_path / "sim") == 0
    result = tmp_path / "result.json"
    xray = tmp_path / "sim" / "xray_000.dcm"
    assert run("register", ct, xray, "--carm", carm, "--start", f"model:{job.folder}", "-o", result) == 0
    assert json.loads(result.read_text())["start"] == "model"
    figures = tmp_path / "figures.json"
    assert run("evaluate", result, "--truth", tmp_path / "sim" / "truth_000.json", "-o", figures) == 0
    assert json.loads(figures.read_text())["views"][0]["mTRE"] < 2.0


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_saves_and_the_same_job_goes_on(files, small_ct, tmp_path):
    job = make_job(small_ct, CARM, out=tmp_path / "job", settings=preset("tiny", seconds=300), **RANGES)
    command = [sys.executable, "-m", "DiffPoseSlicerLib", "pretrain", "--job", str(job.folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("step "):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130 and "Traceback" not in rest
    assert "Stopped. What was learnt is saved" in rest
    status = read_status(job.folder)
    assert status["state"] == "stopped" and status["step"] > 0
    job.extend(status["seconds"] - 299.9)  # leave it no more than a moment
    assert run("pretrain", "--job", job.folder) == 0
    after = read_status(job.folder)
    assert after["state"] == "done" and after["step"] >= status["step"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--carm {0}/carm.json -o {1}/job", "CT"),
        ("{0}/ct.nii.gz -o {1}/job", "--carm"),
        ("--job {1}/none", "none"),
        ("--job {1}/none --carm {0}/carm.json", "--job"),
        ("{0}/ct.nii.gz --carm {0}/carm.json -o {0}", "not empty"),
        ("{0}/ct.nii.gz --carm {0}/carm.json -o {1}/job --translation 10 10 5000", "5000"),
        ("{0}/ct.nii.gz --carm {0}/carm.json -o {1}/job --preset slow", "slow"),
        ("{0}/ct.nii.gz --carm {0}/carm.json -o {1}/job --warm-start {0}", "no finished model"),
        ("{0}/none.nii.gz --carm {0}/carm.json -o {1}/job", "none.nii.gz"),
    ],
)
def test_bad_input_gives_one_line_and_makes_no_folder(files, tmp_path, arguments, expected, capfd):
    assert run("pretrain", *(part.format(files, tmp_path) for part in arguments.split())) == 2
    said = capfd.readouterr()
    (line,) = said.err.splitlines()
    assert expected in line and said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_start_from_no_model_is_bad_input(files, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    run("simulate", files / "ct.nii.gz", "--carm", files / "carm.json", "-n", "1", "-o", tmp_path / "sim")
    capfd.readouterr()
    command = ["register", files / "ct.nii.gz", tmp_path / "sim" / "xray_000.dcm", "--carm", files / "carm.json"]
    assert run(*command, "--start", f"model:{tmp_path / 'empty'}", "-o", tmp_path / "result.json") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "empty" in line


def test_progress_in_words():
    figures = {"step": 12, "secondsLeft": 61.4, "loss": 1.5, "validationMtreMm": 7.24, "imagesPerSecond": 88.8}
    assert words(figures) == "step 12, 61 s left, loss 1.500, validation mTRE 7.2 mm, 89 images/s"
    assert words({"state": "starting"}) == "starting"
    assert words(figures | {"validationSuccess": 0.975}).endswith("7.2 mm, success 98%, 89 images/s")
    certifying = {"state": "certifying", "cases": 30, "ofCases": 200, "successRate": 0.9667}
    assert words(figures | certifying) == "trying the model: 30 of 200 cases, success 97%"
