"""An image stored mirrored or turned against what its file says: found by a poor fit, said, never changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_writing import save
from DiffPoseSlicerLib.cli import main as cli
from DiffPoseSlicerLib.evaluation.metrics import default_points, mtre
from DiffPoseSlicerLib.geometry.carm import CArm
from DiffPoseSlicerLib.geometry.pose import Pose, view_rotation
from DiffPoseSlicerLib.imaging.dicom_export import write_dicom_xray
from DiffPoseSlicerLib.imaging.xray import XrayImage
from DiffPoseSlicerLib.registration import orientation
from DiffPoseSlicerLib.registration.register import Registrar, register
from DiffPoseSlicerLib.registration.starts import spread
from DiffPoseSlicerLib.rendering.renderer import render

CARM = CArm(1020, (120, 150), (2.4, 2.2), (80.0, 55.0))


@pytest.fixture(scope="module")
def registrar(small_ct) -> Registrar:
    return Registrar(small_ct)


def nominal(small_ct, view: str) -> Pose:
    return Pose.about(view_rotation(view), small_ct.center, CARM)


@pytest.fixture(scope="module", params=["AP", "LEFT_LATERAL"])
def taken(request, small_ct) -> tuple[Pose, Pose, np.ndarray]:
    """Start, truth and line integrals."""
    truth = Pose.about(view_rotation(request.param), small_ct.center, CARM, [0.05, -0.08, 0.1, 8, -6, 20])
    return nominal(small_ct, request.param), truth, render(small_ct, CARM, truth)


def test_a_good_registration_tries_nothing_else(small_ct, registrar, taken, monkeypatch):
    start, truth, image = taken
    monkeypatch.setattr(orientation, "try_orientations", lambda *a, **k: pytest.fail("tried"))
    result = register(small_ct, XrayImage.from_array(image, CARM, "attenuation"), start, registrar=registrar)
    assert mtre(result.pose, truth, default_points(small_ct.center)) < 1
    assert result.warnings == ()
    assert result.to_json()["warnings"] == []


@pytest.mark.parametrize("wrong", [(True, 0), (True, 180), (True, 90)])
def test_a_mirrored_image_is_said_and_not_flipped(small_ct, registrar, taken, wrong):
    start, truth, image = taken
    misread = XrayImage.from_array(image, CARM, "attenuation", name="x.png").reoriented(*wrong)
    result = register(small_ct, misread, start, registrar=registrar)
    assert result.agreements[0] < orientation.POOR  # the result is that of the image as it was given
    (warning,) = result.warnings
    assert "x.png seems mirrored left to right" in warning
    assert wrong[1] or "turned by" not in warning  # a turn about the beam can be the pose's as well as the file's
    assert "Nothing was changed" in warning
    assert "register it as plain" in warning
    assert result.to_json()["warnings"] == [warning]
    again = register(small_ct, misread.reoriented(False, 0), start, registrar=registrar)
    assert again.warnings == ()
    assert mtre(again.pose, truth, default_points(small_ct.center)) < 1


def test_the_wrong_place_is_not_taken_for_a_mirrored_image(small_ct, registrar, taken):
    """Poor because it started far off, not because of its orientation: no other way is good enough to be believed."""
    _, _, image = taken
    xray = XrayImage.from_array(image, CARM, "attenuation")
    far = Pose.about(view_rotation("AP", 60, 40), small_ct.center, CARM, [0, 0, 0, 80, 90, 0])
    candidates = spread(far.ras_to_camera, registrar.center, *registrar.spread())
    poor = [orientation.POOR - 0.05]
    assert orientation.orientation_warnings(registrar, [xray], candidates, [np.eye(4)], poor) == ()


def test_a_limit_of_time_is_kept(small_ct, registrar, taken, monkeypatch):
    start, _, image = taken
    monkeypatch.setattr(orientation, "try_orientations", lambda *a, **k: pytest.fail("tried"))
    misread = XrayImage.from_array(image, CARM, "attenuation").reoriented(True, 0)
    assert register(small_ct, misread, start, registrar=registrar, budget=60.0).warnings == ()


def test_the_command_line_says_it_and_takes_the_answer(tmp_path: Path, small_ct, taken, capsys):
    """FieldOfViewHorizontalFlip (0018,7034) that a device did not set, though it flips."""
    start, truth, _ = taken
    plain = CArm(1020, CARM.image_size, CARM.pixel_spacing)  # off the centre, a wrong flip misplaces the centre, too
    image = render(small_ct, plain, truth)
    small_ct.write(tmp_path / "ct.nii.gz")
    start.write(tmp_path / "start.json")
    truth.write(tmp_path / "truth.json")
    write_dicom_xray(tmp_path / "x.dcm", image, plain, truth, orientation=(False, 0))
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    assert dataset.FieldOfViewHorizontalFlip == "YES"
    dataset.FieldOfViewHorizontalFlip = "NO"
    save(dataset, tmp_path / "x.dcm")
    command = ["register", tmp_path / "ct.nii.gz", tmp_path / "x.dcm", "--start", f"pose:{tmp_path / 'start.json'}"]
    command = [str(part) for part in [*command, "-o", tmp_path / "result.json"]]
    assert cli.main(command) == 0
    said = capsys.readouterr()
    (warning,) = json.loads((tmp_path / "result.json").read_text())["warnings"]
    assert "x.dcm seems mirrored left to right" in warning
    assert f"Warning: {warning}" in said.err.splitlines()
    assert cli.main([*command, "--orientation", "plain"]) == 0
    assert "Warning" not in capsys.readouterr().err
    assert json.loads((tmp_path / "result.json").read_text())["warnings"] == []
    assert mtre(Pose.read(tmp_path / "result.json"), truth, default_points(small_ct.center)) < 1
    assert cli.main([*command, "--orientation", "upside-down"]) == 2
    assert "use plain or mirrored" in capsys.readouterr().err
