"""Poses written for other programs by the command line, and the C-arms that every command takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_writing import save, xray_dataset
from DiffPoseSlicerLib.cli import main as cli
from DiffPoseSlicerLib.cli.options import read_carm
from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.geometry.carm import CArm
from DiffPoseSlicerLib.geometry.coordinates import conjugate_ras_lps, transform_points
from DiffPoseSlicerLib.geometry.pose import Pose, view_rotation
from DiffPoseSlicerLib.geometry.se3 import rigid, so3_exp
from DiffPoseSlicerLib.imaging.carm_presets import preset_carm
from DiffPoseSlicerLib.imaging.dicom_export import write_dicom_xray
from DiffPoseSlicerLib.imaging.export import dicom_angles
from test_dicom_ct import FRAME, phantom, series, write

CARM = CArm(1013.7, (60, 80), (0.51, 0.83), (33.25, 40.5), 683.9)
POSES = [Pose.about(view_rotation(view, 12, -7), [5, 6, 7], CARM) for view in ("AP", "LEFT_LATERAL")]
PIXELS = np.arange(4800, dtype=np.uint16).reshape(60, 80)
CT_TO_WORLD = rigid(so3_exp([0.1, -0.2, 0.3]), [4, 5, 6])


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A result file of two views."""
    views = [{"cameraToRAS": pose.camera_to_ras.tolist(), "similarity": 0.9} for pose in POSES]
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"views": views, "ctToWorld": CT_TO_WORLD.tolist()}))
    return path


def run(*arguments) -> None:
    assert cli.main(["export", *(str(argument) for argument in arguments)]) == 0


@pytest.mark.parametrize("ending", [".tfm", ".h5"])
def test_slicer_loads_the_nodes_matrix(tmp_path, result, ending):
    slicer = pytest.importorskip("slicer", reason="needs slicer-core")
    vtk = pytest.importorskip("vtk")
    core = slicer if hasattr(slicer, "vtkMRMLTransformStorageNode") else pytest.importorskip("slicer.core")
    for options, expected in (([], CT_TO_WORLD), (["--matrix", "cameraToRAS"], POSES[0].camera_to_ras)):
        run(result, "--to", tmp_path / f"t{ending}", *options)
        scene = core.vtkMRMLScene()
        node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        storage = scene.AddNewNodeByClass("vtkMRMLTransformStorageNode")
        storage.SetFileName(str(tmp_path / f"t{ending}"))
        assert storage.ReadData(node)
        matrix = vtk.vtkMatrix4x4()
        node.GetMatrixTransformToParent(matrix)
        loaded = np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])
        np.testing.assert_allclose(loaded, expected, atol=1e-6)


def test_matrices_and_angles(tmp_path, result):
    """PositionerPrimaryAngle (0018,1510), PositionerSecondaryAngle (0018,1511)."""
    run(result, "--to", tmp_path / "m.txt")
    np.testing.assert_allclose(np.loadtxt(tmp_path / "m.txt"), CT_TO_WORLD, atol=1e-12)
    run(result, "--to", tmp_path / "m.txt", "--matrix", "cameraToRAS", "--number", 2)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "m.txt"), POSES[1].camera_to_ras, atol=1e-12)
    CARM.write(tmp_path / "carm.json")
    run(result, "--to", tmp_path / "p.txt", "--matrix", "projection", "--carm", tmp_path / "carm.json")
    point = np.array([10.0, -20, 30])
    u, v, w = np.loadtxt(tmp_path / "p.txt") @ [*point, 1]
    np.testing.assert_allclose([u / w, v / w], CARM.project(transform_points(POSES[0].ras_to_camera, point)))
    run(result, "--to", tmp_path / "a.json", "--number", 2)
    angles = json.loads((tmp_path / "a.json").read_text())
    expected = dict(
        zip(("PositionerPrimaryAngle", "PositionerSecondaryAngle", "turnAboutBeam"), dicom_angles(POSES[1]))
    )
    assert angles == pytest.approx(expected)


def test_a_pose_file_gives_the_cameras_pose(tmp_path):
    POSES[0].write(tmp_path / "pose.json")
    run(tmp_path / "pose.json", "--to", tmp_path / "m.txt")
    np.testing.assert_allclose(np.loadtxt(tmp_path / "m.txt"), POSES[0].camera_to_ras, atol=1e-12)


def test_a_dicom_registration(tmp_path, result, capsys):
    """FrameOfReferenceUID (0020,0052), FrameOfReferenceTransformationMatrix (3006,00C6)."""
    ct = write(tmp_path / "ct", series(phantom()))
    save(xray_dataset(PIXELS, FrameOfReferenceUID="1.2.4"), tmp_path / "x.dcm")
    run(result, "--to", tmp_path / "r.dcm", "--ct", ct, "--xray", tmp_path / "x.dcm")
    dataset = pydicom.dcmread(tmp_path / "r.dcm")
    assert dataset.FrameOfReferenceUID == "1.2.4"
    moved = next(one for one in dataset.RegistrationSequence if one.FrameOfReferenceUID == FRAME)
    lps = moved.MatrixRegistrationSequence[0].MatrixSequence[0].FrameOfReferenceTransformationMatrix
    np.testing.assert_allclose(conjugate_ras_lps(np.reshape([float(x) for x in lps], (4, 4))), CT_TO_WORLD, atol=1e-6)
    save(xray_dataset(PIXELS), tmp_path / "x.dcm")  # states none
    command = ["export", result, "--to", tmp_path / "r.dcm", "--ct", ct, "--xray", tmp_path / "x.dcm"]
    assert cli.main([str(part) for part in command]) == 2
    assert "one of them has none" in capsys.readouterr().err


def test_carms_that_every_command_takes(tmp_path):
    """A carm.json, a DICOM X-ray with its geometry, a calibration with its image's size, a preset with it."""
    CARM.write(tmp_path / "carm.json")
    assert read_carm(str(tmp_path / "carm.json")) == CARM
    write_dicom_xray(tmp_path / "x.dcm", np.ones(CARM.image_size), CARM, orientation=(True, 0))
    seen = read_carm(str(tmp_path / "x.dcm"))
    assert (seen.mirrored, seen.image_size) == (True, CARM.image_size)
    np.testing.assert_allclose(seen.intrinsics, CARM.intrinsics, rtol=1e-6)
    (tmp_path / "k.json").write_text(json.dumps({"K": CARM.intrinsics.tolist(), "imageSize": [60, 80]}))
    np.testing.assert_allclose(read_carm(str(tmp_path / "k.json")).principal_point, CARM.principal_point)
    assert read_carm("preset:mini:300x200") == preset_carm("mini", (300, 200))
    save(xray_dataset(PIXELS, ImagerPixelSpacing=None), tmp_path / "no.dcm")
    with pytest.raises(InputError, match=r"no\.dcm lacks pixelSpacing"):
        read_carm(str(tmp_path / "no.dcm"))


@pytest.mark.parametrize("source", ["x.dcm", "k.json", "preset:mini:60x80"])
def test_commands_render_with_them(tmp_path, source):
    write_dicom_xray(tmp_path / "x.dcm", np.ones(CARM.image_size), CARM, orientation=(True, 0))
    (tmp_path / "k.json").write_text(json.dumps({"K": CARM.intrinsics.tolist(), "imageSize": [60, 80]}))
    ct = write(tmp_path / "ct", series(phantom()))
    POSES[0].write(tmp_path / "pose.json")
    carm = source if source.startswith("preset") else str(tmp_path / source)
    for command in (
        ["render", ct, "--carm", carm, "--pose", tmp_path / "pose.json", "-o", tmp_path / "drr.npy"],
        ["simulate", ct, "--carm", carm, "-n", 1, "-o", tmp_path / "sim"],
    ):
        assert cli.main([str(part) for part in command]) == 0
    assert np.load(tmp_path / "drr.npy").shape == (60, 80)
    assert (tmp_path / "sim" / "xray_000.dcm").stat().st_size > 9600
