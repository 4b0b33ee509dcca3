"""The chain that matters: an X-ray of a real CT, written as DICOM, read and registered with nothing given by hand."""

from __future__ import annotations

import numpy as np
import pytest

from DiffPoseSlicerLib.geometry.carm import CArm
from DiffPoseSlicerLib.geometry.coordinates import transform_points
from DiffPoseSlicerLib.geometry.pose import Pose, view_rotation
from DiffPoseSlicerLib.imaging.dicom_export import write_dicom_xray
from DiffPoseSlicerLib.imaging.xray import XrayImage
from DiffPoseSlicerLib.registration.register import Registrar, register
from DiffPoseSlicerLib.rendering.renderer import render

SQUARE = CArm(1020, (128, 128), (2.3, 2.3))
NON_SQUARE = CArm(1020, (120, 150), (2.4, 2.0))
OFF_CENTRE = CArm(1020, (120, 150), (2.4, 2.0), (82.0, 50.5))


@pytest.fixture(scope="module")
def registrar(small_ct) -> Registrar:
    return Registrar(small_ct)


@pytest.mark.parametrize(
    ("carm", "orientation", "relationship", "photometric", "view"),
    [
        (SQUARE, None, "LOG", "MONOCHROME2", "AP"),
        (SQUARE, (False, 180), "LIN", "MONOCHROME1", "PA"),
        (NON_SQUARE, (True, 90), "LIN", "MONOCHROME2", "AP"),
        (OFF_CENTRE, (False, 270), "LOG", "MONOCHROME1", "LEFT_LATERAL"),
    ],
)
def test_pose_comes_back_to_a_tenth_of_a_millimetre(
    tmp_path, small_ct, registrar, carm, orientation, relationship, photometric, view
):
    center = small_ct.center
    pose = Pose.about(view_rotation(view, 8, -6), center, carm, [0.05, -0.04, 0.06, 9, -7, 15])
    image = render(small_ct, carm, pose)
    write_dicom_xray(
        tmp_path / "x.dcm", image, carm, pose, relationship=relationship, photometric=photometric,
        orientation=orientation,
    )  # fmt: skip
    xray = XrayImage.read(tmp_path / "x.dcm")
    start = xray.positioner.pose(center, xray.carm)
    points = center + np.random.default_rng(0).uniform(-80, 80, (50, 3))

    def apart(one: Pose, other: Pose) -> float:
        difference = transform_points(one.ras_to_camera, points) - transform_points(other.ras_to_camera, points)
        return float(np.linalg.norm(difference, axis=1).mean())

    def registered(xray: XrayImage) -> Pose:
        return register(small_ct, [xray], start, registrar=registrar).poses[0]

    found = registered(xray)
    assert apart(start, pose) > 10
    assert apart(found, registered(XrayImage.from_array(image, carm, "attenuation"))) < 0.05  # the file costs nothing
    assert apart(found, pose) < (0.1 if carm is not OFF_CENTRE else 0.3)
