"""What is written comes back: X-rays as DICOM, transforms as Slicer reads them, registrations, calibrations."""

from __future__ import annotations

import json

import numpy as np
import pydicom
import pytest

from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.geometry.carm import CArm
from DiffPoseSlicerLib.geometry.coordinates import conjugate_ras_lps, transform_points
from DiffPoseSlicerLib.geometry.pose import Pose, view_rotation
from DiffPoseSlicerLib.geometry.se3 import rotation_angle, so3_exp
from DiffPoseSlicerLib.imaging.calibration_files import from_projection_matrix, read_calibration
from DiffPoseSlicerLib.imaging.dicom_export import write_dicom_xray
from DiffPoseSlicerLib.imaging.export import (
    dicom_angles,
    projection_matrix,
    write_matrix,
    write_spatial_registration,
    write_transform,
)
from DiffPoseSlicerLib.imaging.xray import XrayImage

CARM = CArm(1013.7, (60, 80), (0.51, 0.83), (33.25, 40.5), 683.9)
CENTER = np.array([11.0, -22, 33])


def line_integrals() -> np.ndarray:
    v, u = np.mgrid[0 : 1 : 60 * 1j, 0 : 1 : 80 * 1j]
    return 4.0 * np.sqrt(np.clip(1 - ((u - 0.45) / 0.6) ** 2 - ((v - 0.55) / 0.8) ** 2, 0, None)) + (u > 0.3) * (
        v > 0.6
    )


@pytest.mark.parametrize("orientation", [None, *((m, r) for m in (True, False) for r in (0, 90, 180, 270))])
@pytest.mark.parametrize("relationship", ["LIN", "LOG"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_xrays_come_back_as_they_were(tmp_path, orientation, relationship, photometric):
    """Non-square pixels, an off-centre field, both flips, quarter turns, both photometrics, LIN and LOG."""
    pose = Pose.from_view("PA", CENTER, CARM, 25, -15)
    write_dicom_xray(
        tmp_path / "x.dcm", line_integrals(), CARM, pose, relationship=relationship, photometric=photometric,
        orientation=orientation,
    )  # fmt: skip
    xray = XrayImage.read(tmp_path / "x.dcm")
    assert (xray.carm.mirrored, xray.carm.rotation) == (orientation or (True, 0))
    for name in ("source_to_detector", "image_size", "pixel_spacing", "principal_point", "source_to_isocenter"):
        np.testing.assert_allclose(getattr(xray.carm, name), getattr(CARM, name), rtol=1e-6)
    difference = xray.pixels - line_integrals()
    np.testing.assert_allclose(difference, np.median(difference), atol=2e-3 if relationship == "LOG" else 6e-3)
    np.testing.assert_allclose(xray.positioner.pose(CENTER, xray.carm).camera_to_ras, pose.camera_to_ras, atol=1e-6)


@pytest.mark.parametrize(("relationship", "sign"), [("LIN", -1), ("LOG", 1)])
def test_the_other_signs(tmp_path, relationship, sign):
    write_dicom_xray(tmp_path / "x.dcm", line_integrals(), CARM, relationship=relationship, sign=sign)
    xray = XrayImage.read(tmp_path / "x.dcm")
    assert np.corrcoef(xray.pixels.ravel(), line_integrals().ravel())[0, 1] > 0.9999
    assert xray.positioner is None


def test_written_files_are_valid_and_hold_no_patient(tmp_path):
    write_dicom_xray(tmp_path / "x.dcm", line_integrals(), CARM, frame_of_reference="1.2.3")
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    assert dataset.SOPClassUID == pydicom.uid.XRayAngiographicImageStorage
    assert not dataset.PatientName
    assert not dataset.PatientID
    assert dataset.PixelIntensityRelationship == "LOG"
    assert XrayImage.read(tmp_path / "x.dcm").frame_of_reference == "1.2.3"
    for wrong in ({"relationship": "DISP"}, {"photometric": "RGB"}):
        with pytest.raises(InputError):
            write_dicom_xray(tmp_path / "y.dcm", line_integrals(), CARM, **wrong)
    with pytest.raises(InputError, match="not finite"):
        write_dicom_xray(tmp_path / "y.dcm", np.full((60, 80), np.nan), CARM)
    with pytest.raises(InputError, match="rows, columns"):
        write_dicom_xray(tmp_path / "y.dcm", line_integrals().T, CARM)


def test_angles_of_a_pose():
    for primary, secondary, turn in ((0, 0, 0), (30, 0, 0), (-45, 20, 0), (175, -30, 0), (20, 10, 15), (-80, -40, -60)):
        rotation = view_rotation("PA", primary, secondary) @ so3_exp([0, 0, np.deg2rad(turn)])
        pose = Pose.about(rotation, CENTER, CARM)
        np.testing.assert_allclose(dicom_angles(pose), (primary, secondary, turn), atol=1e-9)


POSE = Pose.about(view_rotation("AP", 12, -7), CENTER, CARM, [0.1, -0.2, 0.3, 4, 5, 6])


@pytest.mark.parametrize("ending", [".tfm", ".h5"])
def test_slicer_loads_the_same_matrix(tmp_path, ending):
    """ITK's files hold the transform from the parent, in LPS: loaded by Slicer's own reader it must be the node's."""
    slicer = pytest.importorskip("slicer", reason="needs slicer-core")
    vtk = pytest.importorskip("vtk")
    core = slicer if hasattr(slicer, "vtkMRMLTransformStorageNode") else pytest.importorskip("slicer.core")
    path = tmp_path / f"pose{ending}"
    write_transform(path, POSE.camera_to_ras)
    scene = core.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    storage = scene.AddNewNodeByClass("vtkMRMLTransformStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    matrix = vtk.vtkMatrix4x4()
    node.GetMatrixTransformToParent(matrix)
    loaded = np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])
    np.testing.assert_allclose(loaded, POSE.camera_to_ras, atol=1e-6)
    with pytest.raises(InputError, match=r"pose\.json"):
        write_transform(tmp_path / "pose.json", POSE.camera_to_ras)


def test_matrix_text_keeps_every_digit(tmp_path):
    write_matrix(tmp_path / "pose.txt", POSE.camera_to_ras)
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "pose.txt"), POSE.camera_to_ras)


def test_projection_matrix_maps_ras_to_pixels():
    points = np.random.default_rng(0).uniform(-50, 50, (20, 3)) + CENTER
    homogeneous = np.c_[points, np.ones(20)] @ projection_matrix(CARM, POSE).T
    expected = CARM.project(transform_points(POSE.ras_to_camera, points))
    np.testing.assert_allclose(homogeneous[:, :2] / homogeneous[:, 2:], expected, atol=1e-9)


def test_spatial_registration(tmp_path):
    write_spatial_registration(tmp_path / "reg.dcm", POSE.camera_to_ras, "1.2.3", "1.2.4")
    dataset = pydicom.dcmread(tmp_path / "reg.dcm")
    assert dataset.FrameOfReferenceUID == "1.2.4"
    moved = next(one for one in dataset.RegistrationSequence if one.FrameOfReferenceUID == "1.2.3")
    matrix = moved.MatrixRegistrationSequence[0].MatrixSequence[0]
    assert matrix.FrameOfReferenceTransformationMatrixType == "RIGID"
    lps = np.reshape([float(x) for x in matrix.FrameOfReferenceTransformationMatrix], (4, 4))
    np.testing.assert_allclose(conjugate_ras_lps(lps), POSE.camera_to_ras, atol=1e-6)
    with pytest.raises(InputError, match="frames of reference"):
        write_spatial_registration(tmp_path / "no.dcm", np.eye(4), "", "1.2.4")


# ---- Calibrations of other programs ---------------------------------------------------------------------------------


def same_camera(calibration, carm: CArm, pose: Pose) -> None:
    points = np.random.default_rng(0).uniform(-50, 50, (20, 3)) + CENTER
    found = calibration.carm.project(transform_points(calibration.pose.ras_to_camera, points))
    np.testing.assert_allclose(found, carm.project(transform_points(pose.ras_to_camera, points)), atol=1e-6)
    assert rotation_angle(calibration.pose.camera_to_ras[:3, :3].T @ pose.camera_to_ras[:3, :3]) < 1e-9


@pytest.mark.parametrize("scale", [1.0, 1e-3, -1.0, -250.0])
def test_projection_matrices_in_any_scale_and_sign(scale):
    calibration = from_projection_matrix(scale * projection_matrix(CARM, POSE), CARM.image_size, 1013.7)
    same_camera(calibration, CARM, POSE)
    np.testing.assert_allclose(calibration.carm.pixel_spacing, CARM.pixel_spacing)
    np.testing.assert_allclose(calibration.carm.principal_point, CARM.principal_point)
    nominal = from_projection_matrix(projection_matrix(CARM, POSE), CARM.image_size)
    same_camera(nominal, CARM, POSE)
    assert "distance" in nominal.notes[0]


def test_text_json_and_mayacam_files(tmp_path):
    k, camera = CARM.intrinsics, POSE.ras_to_camera
    rows = lambda m: "\n".join(",".join(f"{x:.12g}" for x in row) for row in np.atleast_2d(m))  # noqa: E731
    (tmp_path / "p.txt").write_text(rows(projection_matrix(CARM, POSE)).replace(",", " "))
    (tmp_path / "k.json").write_text(
        json.dumps({"K": k.tolist(), "R": camera[:3, :3].tolist(), "t": camera[:3, 3].tolist(), "imageSize": [60, 80]})
    )
    (tmp_path / "maya.txt").write_text(
        f"image size\n80,60\n\ncamera matrix\n{rows(k)}\n\nrotation\n{rows(camera[:3, :3])}\n\ntranslation\n"
        + "\n".join(f"{x:.12g}" for x in camera[:3, 3])
        + "\n"
    )
    same_camera(read_calibration(tmp_path / "p.txt", (60, 80)), CARM, POSE)
    same_camera(read_calibration(tmp_path / "k.json"), CARM, POSE)
    same_camera(read_calibration(tmp_path / "maya.txt"), CARM, POSE)
    with pytest.raises(InputError, match="image size"):
        read_calibration(tmp_path / "p.txt")
    with pytest.raises(InputError, match="60 x 80"):
        read_calibration(tmp_path / "maya.txt", (61, 80))


def test_a_real_mayacam_file(shared_data):
    calibration = read_calibration(shared_data / "wrist_biplane" / "xr_calib_wrist_cam01.txt")
    assert calibration.carm.image_size == (1760, 1760)
    reference = CArm.read(shared_data / "wrist_biplane" / "frame0002" / "carm_cam1.json").resized((1760, 1760))
    ratio = calibration.carm.source_to_detector / calibration.carm.pixel_spacing[0]
    assert ratio == pytest.approx(reference.source_to_detector / reference.pixel_spacing[0], rel=1e-3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1 2 3", "3 numbers where P needs 12"),
        ("0 " * 12, "no inverse"),
        ("hello", "0 numbers"),
        ("{}", "neither P nor K"),
        ("{broken", "not valid JSON"),
        ('{"K": [[1000,0,10],[0,-1000,10],[0,0,1]]}', "mirrors"),
        ('{"K": [[1000,90,10],[0,1000,10],[0,0,1]]}', "skewed"),
        ('{"K": [[1000,0,10],[0,1000,10],[0,0,1]], "R": [[1,0,0],[0,1,0],[0,0,-1]], "t": [0,0,700]}', "determinant"),
        ('{"K": [[1000,0,10],[0,1000,10],[0,0,1]], "R": [[2,0,0],[0,1,0],[0,0,1]], "t": [0,0,700]}', "rotation"),
    ],
)
def test_wrong_calibrations(tmp_path, content, words):
    (tmp_path / "c.txt").write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        read_calibration(tmp_path / "c.txt", (60, 80))
    assert "\n" not in str(caught.value)
