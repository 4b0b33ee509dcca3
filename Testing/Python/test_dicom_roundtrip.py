"""The chain that matters: an X-ray of a real CT, written as DICOM, read and registered with nothing given by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from DiffPoseSlicerLib.geometry.carm import CArm
from DiffPoseSlicerLib.geometry.coordinates import transform_points
from DiffPoseSlicerLib.geometry.pose import Pose, view_rotation
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.imaging.dicom_export import write_dicom_xray
from DiffPoseSlicerLib.imaging.xray import XrayImage
from DiffPoseSlicerLib.registration.register import Registrar, register
from DiffPoseSlicerLib.rendering.renderer import render

SQUARE = CArm(1020, (256, 256), (1.17, 1.17))
NON_SQUARE = CArm(1020, (240, 300), (1.2, 1.0))
OFF_CENTRE = CArm(1020, (240, 300), (1.2, 1.0), (164.5, 101.5))
OFF_CENTRE_SQUARE = CArm(1020, (256, 256), (1.17, 1.17), (150.0, 110.0))
# (mirrored, rotation) None: as DICOM has it by default, mirrored and not turned.
CASES = [
    (SQUARE, None, "LOG", "MONOCHROME2", "AP"),
    (SQUARE, (False, 180), "LIN", "MONOCHROME1", "PA"),
    (NON_SQUARE, (True, 90), "LIN", "MONOCHROME2", "AP"),
    (NON_SQUARE, (False, 0), "LOG", "MONOCHROME1", "RIGHT_LATERAL"),
    (OFF_CENTRE, (False, 270), "LOG", "MONOCHROME1", "LEFT_LATERAL"),
    (OFF_CENTRE, (True, 90), "LIN", "MONOCHROME2", "AP"),
    (OFF_CENTRE_SQUARE, (True, 180), "LIN", "MONOCHROME1", "LEFT_LATERAL"),
    (OFF_CENTRE_SQUARE, (False, 90), "LOG", "MONOCHROME2", "PA"),
]


@pytest.fixture(scope="module")
def chest(chest_ct_path: Path) -> CTVolume:
    """All of the CT: where voxels are coarser than the X-ray's pixels, how both are averaged shows in the depth."""
    return CTVolume.read(chest_ct_path)


@pytest.fixture(scope="module")
def registrar(chest) -> Registrar:
    return Registrar(chest)


@pytest.mark.parametrize(("carm", "orientation", "relationship", "photometric", "view"), CASES)
def test_pose_comes_back_to_a_tenth_of_a_millimetre(
    tmp_path, chest, registrar, carm, orientation, relationship, photometric, view
):
    """DistanceSourceToDetector, DistanceSourceToPatient, ImagerPixelSpacing, PositionOfIsocenterProjection,
    FieldOfViewRotation, FieldOfViewHorizontalFlip, PixelIntensityRelationship, PhotometricInterpretation."""
    center = chest.center
    pose = Pose.about(view_rotation(view, 8, -6), center, carm, [0.05, -0.04, 0.06, 9, -7, 15])
    image = render(chest, carm, pose)
    write_dicom_xray(
        tmp_path / "x.dcm", image, carm, pose, relationship=relationship, photometric=photometric,
        orientation=orientation,
    )  # fmt: skip
    xray = XrayImage.read(tmp_path / "x.dcm")
    assert (xray.carm.mirrored, xray.carm.rotation) == (orientation or (True, 0))
    start = xray.positioner.pose(center, xray.carm)
    points = center + np.random.default_rng(0).uniform(-80, 80, (50, 3))

    def apart(one: Pose, other: Pose) -> float:
        difference = transform_points(one.ras_to_camera, points) - transform_points(other.ras_to_camera, points)
        return float(np.linalg.norm(difference, axis=1).mean())

    def registered(xray: XrayImage) -> Pose:
        return register(chest, [xray], start, registrar=registrar).poses[0]

    found = registered(xray)
    assert apart(start, pose) > 10
    assert apart(found, registered(XrayImage.from_array(image, carm, "attenuation"))) < 0.05  # the file costs nothing
    assert apart(found, pose) < 0.1
