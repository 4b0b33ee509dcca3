"""Signs and flips from sentences of the standard, on an asymmetric phantom rendered by plastimatch.

Nothing here goes through our own writer. Directions are written down by hand in RAS (left is -R).
"""

from __future__ import annotations

import numpy as np
import pytest

from dicom_writing import item, save, xray_dataset
from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.evaluation.plastimatch import Plastimatch
from DiffPoseSlicerLib.geometry.carm import CArm
from DiffPoseSlicerLib.geometry.pose import Pose
from DiffPoseSlicerLib.geometry.se3 import rigid
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.imaging.positioner import POSITIONS, from_isocenter_angles, from_patient_angles
from DiffPoseSlicerLib.imaging.xray import XrayImage

LEFT, RIGHT = np.array([-1.0, 0, 0]), np.array([1.0, 0, 0])
ANTERIOR, POSTERIOR = np.array([0, 1.0, 0]), np.array([0, -1.0, 0])
HEAD, FEET = np.array([0, 0, 1.0]), np.array([0, 0, -1.0])
SID, SOD = 1000.0, 700.0
# A detector of 90 x 110 elements of 3 x 2.5 mm; the isocentre projects off its middle.
ROWS, COLUMNS, ROW_MM, COLUMN_MM = 90, 110, 3.0, 2.5
ISO_ROW, ISO_COLUMN = 41.0, 57.5


@pytest.fixture(scope="module")
def ct() -> CTVolume:
    """A body with a lead letter F at the patient's left, in front, towards the head; nothing symmetric."""
    hu = np.full((50, 44, 56), -1000, np.int16)  # k: head, j: anterior, i: right
    hu[4:-4, 6:-6, 8:-8] = 0
    lead = hu[30:44, 28:34, 10:22]  # low i: left
    lead[:, :, 0:3] = 3000
    lead[11:14, :, :] = 3000
    lead[5:8, :, :8] = 3000
    hu[8:12, 10:14, 30:44] = 1500
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = [-100, -80, -90]
    return CTVolume.from_array(hu, affine)


@pytest.fixture(scope="module")
def xrays(ct):
    try:
        renderer = Plastimatch(ct)
    except InputError as error:
        pytest.skip(str(error))
    with renderer:
        yield renderer


def detector_image(xrays, ct, towards_detector, detector_top) -> np.ndarray:
    """What the detector holds: its rows run left to right as one sees them looking towards the source.

    PS3.3 C.8.19.6.13.1.2: Xp is "parallel to the horizontal scan-lines of the detector (rows). Positive direction from
    left to right of the detector plane looking towards the source"; Zp runs "from bottom to top of the detector plane".
    """
    beam, down = np.asarray(towards_detector, float), -np.asarray(detector_top, float)
    right_seen_from_source = np.cross(down, beam)
    camera = rigid(np.stack([right_seen_from_source, down, beam], 1), ct.center - SOD * beam)
    carm = CArm(SID, (ROWS, COLUMNS), (ROW_MM, COLUMN_MM), (COLUMNS - 1 - ISO_COLUMN, ISO_ROW), SOD)
    return xrays.drr(carm, Pose(camera))[:, ::-1]


def geometry(**more):
    """Tags of the full detector as it is."""
    return {
        "DistanceSourceToDetector": SID, "DistanceSourceToPatient": SOD, "ImagerPixelSpacing": [ROW_MM, COLUMN_MM],
        "DetectorElementSpacing": [ROW_MM, COLUMN_MM], "FieldOfViewOrigin": [0, 0],
        "PositionOfIsocenterProjection": [ISO_ROW, ISO_COLUMN], **more,
    }  # fmt: skip


def counts(image: np.ndarray) -> np.ndarray:
    return np.rint(60000 * np.exp(-image)).astype(np.uint16)


def read(tmp_path, stored: np.ndarray, **tags) -> XrayImage:
    return XrayImage.read(save(xray_dataset(counts(stored), **geometry(**tags)), tmp_path / "x.dcm"))


def check_rerendered(xray: XrayImage, ct: CTVolume, xrays, least: float = 0.9995) -> None:
    """The image agrees with what plastimatch renders at the pose and geometry that were read."""
    assert xray.positioner is not None
    rendered = xrays.drr(xray.carm, xray.positioner.pose(ct.center, xray.carm))
    # Half a pixel off or one sign wrong gives less than 0.99 on this phantom.
    assert np.corrcoef(rendered.ravel(), xray.pixels.ravel())[0, 1] > least


def test_at_zero_the_patient_faces_the_detector_and_left_is_right(tmp_path, xrays, ct):
    """C.8.7.5.1.2: "At a 0 angle for both [angles], the patient faces the Image Intensifier or digital detector"."""
    stored = detector_image(xrays, ct, ANTERIOR, HEAD)
    lead = np.argwhere(stored > 0.8 * stored.max())
    assert lead[:, 1].mean() > COLUMNS / 2 + 5  # a lead letter at the patient's left lies on the image's right
    assert lead[:, 0].mean() < ROWS / 2 - 5  # and the head is up
    xray = read(tmp_path, stored, PositionerPrimaryAngle=0, PositionerSecondaryAngle=0)
    assert xray.carm.mirrored
    assert xray.carm.rotation == 0
    check_rerendered(xray, ct, xrays)


COS, SIN = np.sqrt(0.75), 0.5


@pytest.mark.parametrize(
    ("primary", "secondary", "towards_detector", "top"),
    [
        # "+ 90 degrees at the patient left hand side (LAO) and -90 at the patient right hand side (RAO)"
        (30, 0, SIN * LEFT + COS * ANTERIOR, HEAD),
        (-30, 0, SIN * RIGHT + COS * ANTERIOR, HEAD),
        (90, 0, LEFT, HEAD),
        (180, 0, POSTERIOR, HEAD),
        # "+90 degrees corresponds to the cranial direction"
        (0, 30, SIN * HEAD + COS * ANTERIOR, COS * HEAD + SIN * POSTERIOR),
        (0, -30, SIN * FEET + COS * ANTERIOR, COS * HEAD + SIN * ANTERIOR),
        (90, 30, SIN * HEAD + COS * LEFT, COS * HEAD + SIN * RIGHT),
    ],
)
def test_positioner_angles(tmp_path, xrays, ct, primary, secondary, towards_detector, top):
    """PositionerPrimaryAngle (0018,1510) and PositionerSecondaryAngle (0018,1511)."""
    stored = detector_image(xrays, ct, towards_detector, top)
    xray = read(tmp_path, stored, PositionerPrimaryAngle=primary, PositionerSecondaryAngle=secondary)
    np.testing.assert_allclose(xray.positioner.rotation[:, 2], towards_detector, atol=1e-12)
    check_rerendered(xray, ct, xrays)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", ["NO", "YES"])
@pytest.mark.parametrize("window", [(0, 0, ROWS, COLUMNS), (20, 8, 60, 84)])
def test_field_of_view_origin_rotation_and_flip(tmp_path, xrays, ct, rotation, flip, window):
    """FieldOfViewOrigin (0018,7030), FieldOfViewRotation (0018,7032), FieldOfViewHorizontalFlip (0018,7034).

    "Offset of the TLHC of a rectangle circumscribing the Field of View, before rotation or flipping, from the TLHC of
    the physical detector area measured in physical detector pixels as a row offset followed by a column offset";
    "clockwise rotation in degrees of Field of View, relative to the physical detector"; "a horizontal flip has been
    applied to the Field of View after rotation".
    """
    row, column, height, width = window
    whole = detector_image(xrays, ct, SIN * LEFT + COS * ANTERIOR, HEAD)
    stored = np.rot90(whole[row : row + height, column : column + width], -rotation // 90)
    stored = stored[:, ::-1] if flip == "YES" else stored
    spacing = [COLUMN_MM, ROW_MM] if rotation in (90, 270) else [ROW_MM, COLUMN_MM]
    xray = read(
        tmp_path, stored, PositionerPrimaryAngle=30, FieldOfViewOrigin=[row, column], FieldOfViewRotation=rotation,
        FieldOfViewHorizontalFlip=flip, ImagerPixelSpacing=spacing,
    )  # fmt: skip
    assert xray.pixels.shape == (height, width)
    assert xray.carm.pixel_spacing == (ROW_MM, COLUMN_MM)
    np.testing.assert_allclose(xray.carm.principal_point, (width - 1 - (ISO_COLUMN - column), ISO_ROW - row), atol=1e-4)
    check_rerendered(xray, ct, xrays)
    np.testing.assert_allclose(xray.stored, counts(stored), rtol=2e-3)


def test_binned_pixels_and_the_isocentre(tmp_path, xrays, ct):
    """PS3.17 FFF.1.2.5.2: ISO_P = (ISO_Pdet - FOVdet) Ddet / D - (1 - Ddet / D) / 2; DetectorBinning (0018,701A)."""
    whole = detector_image(xrays, ct, ANTERIOR, HEAD)
    binned = whole.reshape(ROWS // 2, 2, COLUMNS // 2, 2).mean((1, 3))
    xray = read(tmp_path, binned, ImagerPixelSpacing=[2 * ROW_MM, 2 * COLUMN_MM])
    check_rerendered(xray, ct, xrays, 0.999)  # binning is not quite the same as larger elements
    assert xray.carm.principal_point[1] == pytest.approx((ISO_ROW + 0.5) / 2 - 0.5)  # the first element's edge stays
    without = read(
        tmp_path, binned, ImagerPixelSpacing=[2 * ROW_MM, 2 * COLUMN_MM], DetectorElementSpacing=None,
        DetectorBinning=[2, 2],
    )  # fmt: skip
    np.testing.assert_allclose(without.carm.principal_point, xray.carm.principal_point, atol=1e-6)


@pytest.mark.parametrize(
    ("position", "lies"),
    [("HFS", (LEFT, POSTERIOR, HEAD)), ("HFP", (RIGHT, ANTERIOR, HEAD)), ("FFS", (RIGHT, POSTERIOR, FEET)),
     ("FFP", (LEFT, ANTERIOR, FEET)), ("HFDR", (POSTERIOR, RIGHT, HEAD)), ("FFDL", (POSTERIOR, LEFT, FEET))],
)  # fmt: skip
def test_patient_positions_on_the_table(tmp_path, xrays, ct, position, lies):
    """PatientPosition (0018,5100) with PositionerIsocenterPrimaryAngle (0018,9463): angles relative to the room.

    At 0/0 the detector is above the table, its top at the table's head end. `lies`: what is at +X of the table, below
    it (+Y) and at its head end (+Z): for a supine patient lying head first left, back, head.
    """
    _, down, head_end = lies
    stored = detector_image(xrays, ct, -down, head_end)
    angles = item(PositionerIsocenterPrimaryAngle=0.0, PositionerIsocenterSecondaryAngle=0.0)
    xray = read(
        tmp_path, stored, PositionerPrimaryAngle=None, PositionerSecondaryAngle=None, PatientPosition=position,
        SharedFunctionalGroupsSequence=[item(IsocenterReferenceSystemSequence=[angles])],
    )  # fmt: skip
    np.testing.assert_allclose(xray.positioner.rotation[:, 2], -down, atol=1e-12)
    check_rerendered(xray, ct, xrays)


def test_angles_relative_to_the_patient_hold_for_every_position():
    """C.8.7.5.1.2: angles are "with respect to the patient"; only feet first turns the image by half."""
    for position in POSITIONS:
        rotation = from_patient_angles(30, 20, position).rotation
        np.testing.assert_allclose(rotation[:, 2], from_patient_angles(30, 20).rotation[:, 2], atol=1e-15)
        assert (rotation[:, 1] @ HEAD < 0) == position.startswith("HF")
        assert np.linalg.det(rotation) == pytest.approx(1)
    for primary, secondary in ((0, 0), (30, 0), (-40, 25), (110, -10)):
        np.testing.assert_allclose(
            from_isocenter_angles(primary, secondary).rotation,
            from_patient_angles(primary, secondary).rotation,
            atol=1e-12,
        )
    prone = from_isocenter_angles(30, 0, "HFP")  # towards +X, which is a prone patient's right
    np.testing.assert_allclose(prone.rotation[:, 2], SIN * RIGHT + COS * POSTERIOR, atol=1e-12)
    assert prone.lao_rao == pytest.approx(-150)
    with pytest.raises(InputError, match="'ABC'"):
        from_patient_angles(0, 0, "abc")


@pytest.mark.parametrize("orientation", [("L", "F"), ("R", "F"), ("F", "L"), ("L", "H"), ("H", "R")])
def test_patient_orientation(tmp_path, xrays, ct, orientation):
    """PatientOrientation (0020,0020): "the anatomical direction of the positive row axis (left to right) and the
    positive column axis (top to bottom)"."""
    letters = {"L": LEFT, "R": RIGHT, "H": HEAD, "F": FEET}
    seen = detector_image(xrays, ct, ANTERIOR, HEAD)  # rows run to the patient's left, columns to the feet
    across, down = letters[orientation[0]], letters[orientation[1]]
    stored = seen if abs(across @ LEFT) else seen.T
    stored = stored[:, ::-1] if across @ (LEFT + FEET) < 0 else stored
    stored = stored[::-1] if down @ (LEFT + FEET) < 0 else stored
    spacing = [ROW_MM, COLUMN_MM] if abs(across @ LEFT) else [COLUMN_MM, ROW_MM]
    xray = read(
        tmp_path, stored, PatientOrientation=list(orientation), ImagerPixelSpacing=spacing,
        PositionOfIsocenterProjection=None, FieldOfViewOrigin=None,
    )  # fmt: skip
    assert any("PatientOrientation (0020,0020)" in fact.source for fact in xray.facts)
    rendered = xrays.drr(
        CArm(SID, (ROWS, COLUMNS), (ROW_MM, COLUMN_MM), (COLUMNS - 1 - ISO_COLUMN, ISO_ROW), SOD),
        xray.positioner.pose(ct.center, xray.carm),
    )
    assert np.corrcoef(rendered.ravel(), xray.pixels.ravel())[0, 1] > 0.9995


def test_detector_angles_move_the_principal_point(tmp_path):
    """C.8.7.5.1.4: DetectorPrimaryAngle (0018,1530) is positive towards higher columns, DetectorSecondaryAngle
    (0018,1531) towards the top of the image."""
    image = np.random.default_rng(0).integers(1000, 60000, (ROWS, COLUMNS)).astype(np.uint16)
    tags = geometry(
        FieldOfViewOrigin=None, PositionOfIsocenterProjection=None, DetectorPrimaryAngle=10, DetectorSecondaryAngle=0
    )
    xray = XrayImage.read(save(xray_dataset(image, **tags), tmp_path / "x.dcm"))
    # Along the beam it is SID to the middle; the foot of the perpendicular lies towards lower columns, as stored.
    stored_column = COLUMNS - 1 - xray.carm.principal_point[0]
    assert stored_column == pytest.approx((COLUMNS - 1) / 2 - SID * np.sin(np.deg2rad(10)) / COLUMN_MM)
    tags |= {"DetectorPrimaryAngle": 0, "DetectorSecondaryAngle": 10}
    xray = XrayImage.read(save(xray_dataset(image, **tags), tmp_path / "x.dcm"))
    assert xray.carm.principal_point[1] == pytest.approx((ROWS - 1) / 2 + SID * np.sin(np.deg2rad(10)) / ROW_MM)
