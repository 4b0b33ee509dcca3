"""imaging/dicom_*.py: what each attribute of an X-ray does, by its name, and what is said where it is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_writing import item, save, xray_dataset
from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.geometry.carm import CArm
from DiffPoseSlicerLib.imaging.carm_presets import PRESETS, preset_carm
from DiffPoseSlicerLib.imaging.carm_sources import read_carm
from DiffPoseSlicerLib.imaging.dicom_pixels import read_frame
from DiffPoseSlicerLib.imaging.xray import XrayImage

ROWS, COLUMNS = 60, 80
# The library reads alike with either; these tests use the newer one to write files or to compare with.
needs_pydicom_3 = pytest.mark.skipif(int(pydicom.__version__.split(".")[0]) < 3, reason="the test needs pydicom 3")


def line_integrals() -> np.ndarray:
    v, u = np.mgrid[0 : 1 : ROWS * 1j, 0 : 1 : COLUMNS * 1j]
    body = 3.0 * np.sqrt(np.clip(1 - ((u - 0.45) / 0.6) ** 2 - ((v - 0.55) / 0.8) ** 2, 0, None))
    return body + np.exp(-((u - 0.35) ** 2) / 0.002) * (v > 0.2)


def counts(white: float = 60000) -> np.ndarray:
    return np.rint(white * np.exp(-line_integrals())).astype(np.uint16)


def read(tmp_path: Path, pixels: np.ndarray | None = None, carm: CArm | None = None, **attributes) -> XrayImage:
    dataset = xray_dataset(counts() if pixels is None else pixels, **attributes)
    return XrayImage.read(save(dataset, tmp_path / "x.dcm"), carm, frame=None)


def refusal(tmp_path: Path, pixels: np.ndarray | None = None, **attributes) -> str:
    with pytest.raises(InputError) as caught:
        read(tmp_path, pixels, **attributes)
    text = str(caught.value)
    for private in ("Nobody", "4711", str(tmp_path), "\n"):
        assert private not in text
    return text


def source(xray: XrayImage, name: str) -> str:
    return next(fact.source for fact in xray.facts if fact.name == name)


def noted(xray: XrayImage, *words: str) -> bool:
    return any(all(word in note for word in words) for note in xray.notes)


# ---- Distances and spacing -----------------------------------------------------------------------------------------


def test_plain_geometry_and_its_sources(tmp_path):
    xray = read(tmp_path, ImagerPixelSpacing=["0.4", "0.3"])
    assert xray.carm.source_to_detector == 1000
    assert xray.carm.source_to_isocenter == 700
    assert xray.carm.pixel_spacing == (0.4, 0.3)
    assert xray.carm.principal_point == ((COLUMNS - 1) / 2, (ROWS - 1) / 2)
    assert source(xray, "source to detector") == "DistanceSourceToDetector (0018,1110)"
    assert source(xray, "source to isocentre") == "DistanceSourceToPatient (0018,1111)"
    assert source(xray, "pixel spacing") == "ImagerPixelSpacing (0018,1164)"
    assert source(xray, "principal point") == "assumed"


def test_pixel_spacing_at_the_patient_is_never_taken_for_the_detectors(tmp_path):
    """PixelSpacing (0028,0030) may be demagnified: alone it is not believed; ImagerPixelSpacing wins over it."""
    assert read(tmp_path, PixelSpacing=["0.35", "0.35"]).carm.pixel_spacing == (0.5, 0.5)
    text = refusal(tmp_path, ImagerPixelSpacing=None, PixelSpacing=["0.35", "0.35"])
    assert "lacks pixelSpacing" in text
    assert "PixelSpacing (0028,0030)" in text
    assert "sourceToDetector and" not in text  # only what is missing


def test_magnification_brings_calibrated_spacing_to_the_detector(tmp_path):
    """PixelSpacingCalibrationType (0028,0A02) GEOMETRY x EstimatedRadiographicMagnificationFactor (0018,1114)."""
    tags = {"ImagerPixelSpacing": None, "PixelSpacing": ["0.35", "0.28"], "PixelSpacingCalibrationType": "GEOMETRY"}
    xray = read(tmp_path, **tags)  # 1000 / 700
    np.testing.assert_allclose(xray.carm.pixel_spacing, (0.5, 0.4))
    xray = read(tmp_path, EstimatedRadiographicMagnificationFactor="1.5", **tags)
    np.testing.assert_allclose(xray.carm.pixel_spacing, (0.525, 0.42))


def test_distances_from_the_magnification(tmp_path):
    xray = read(tmp_path, DistanceSourceToDetector=None, EstimatedRadiographicMagnificationFactor="1.4")
    assert xray.carm.source_to_detector == pytest.approx(980)
    assert "EstimatedRadiographicMagnificationFactor (0018,1114)" in source(xray, "source to detector")
    xray = read(tmp_path, DistanceSourceToPatient=None, EstimatedRadiographicMagnificationFactor="1.25")
    assert xray.carm.source_to_isocenter == pytest.approx(800)
    xray = read(tmp_path, DistanceSourceToPatient=None)
    assert xray.carm.source_to_isocenter == pytest.approx(1000 * 700 / 1020)
    assert "assumed" in source(xray, "source to isocentre")


@pytest.mark.parametrize(
    ("keyword", "value", "missing"),
    [
        ("DistanceSourceToDetector", "0", "sourceToDetector"),
        ("DistanceSourceToDetector", "-1000", "sourceToDetector"),
        ("DistanceSourceToDetector", "9999999", "sourceToDetector"),
        ("ImagerPixelSpacing", ["0.000", "0.000"], "pixelSpacing"),
        ("ImagerPixelSpacing", ["0.5"], "pixelSpacing"),
        ("ImagerPixelSpacing", ["300", "300"], "pixelSpacing"),
    ],
)
def test_implausible_values_count_as_missing_by_name(tmp_path, keyword, value, missing):
    text = refusal(tmp_path, **{keyword: value})
    assert f"lacks {missing}" in text
    assert keyword in text
    assert "counted as missing" in text


def test_both_missing(tmp_path):
    assert "lacks sourceToDetector and pixelSpacing" in refusal(
        tmp_path, ImagerPixelSpacing=None, DistanceSourceToDetector=None
    )


def test_isocentre_behind_the_detector_is_not_believed(tmp_path):
    xray = read(tmp_path, DistanceSourceToPatient="1200")
    assert xray.carm.source_to_isocenter < 1000
    assert noted(xray, "DistanceSourceToPatient (0018,1111)", "1200")


def test_spacing_from_the_detector_elements(tmp_path):
    """DetectorElementSpacing (0018,7022) x DetectorBinning (0018,701A)."""
    tags = {"ImagerPixelSpacing": None, "DetectorElementSpacing": ["0.154", "0.2"]}
    np.testing.assert_allclose(read(tmp_path, DetectorBinning=["2", "3"], **tags).carm.pixel_spacing, (0.308, 0.6))
    xray = read(tmp_path, **tags)
    np.testing.assert_allclose(xray.carm.pixel_spacing, (0.154, 0.2))
    assert noted(xray, "no binning is stated")


def test_spacing_from_the_field_of_view(tmp_path):
    """FieldOfViewDimensions (0018,1149) and IntensifierSize (0018,1162): an estimate, and said so."""
    xray = read(tmp_path, ImagerPixelSpacing=None, FieldOfViewDimensions=["300", "400"])
    np.testing.assert_allclose(xray.carm.pixel_spacing, (5, 5))
    assert noted(xray, "field of view", "check")
    xray = read(tmp_path, ImagerPixelSpacing=None, IntensifierSize="230")
    np.testing.assert_allclose(xray.carm.pixel_spacing, (230 / 60, 230 / 60))
    assert noted(xray, "intensifier", "check")


def test_active_area_gives_the_principal_point(tmp_path):
    """DetectorActiveOrigin (0018,7028), DetectorActiveDimensions (0018,7026), FieldOfViewOrigin (0018,7030)."""
    xray = read(
        tmp_path, DetectorElementSpacing=["0.5", "0.5"], DetectorActiveDimensions=["100", "120"],
        DetectorActiveOrigin=["10", "4"], FieldOfViewOrigin=["50", "60"],
    )  # fmt: skip
    row, column = 10 + 100 - 0.5 - 50, 4 + 120 - 0.5 - 60  # half of 200 x 240 elements
    np.testing.assert_allclose(xray.carm.principal_point, (COLUMNS - 1 - column, row))
    assert "DetectorActiveDimensions" in source(xray, "principal point")


def test_principal_point_far_outside_is_not_believed(tmp_path):
    xray = read(tmp_path, FieldOfViewOrigin=["0", "0"], PositionOfIsocenterProjection=[5000.0, 5000.0])
    assert xray.carm.principal_point == ((COLUMNS - 1) / 2, (ROWS - 1) / 2)
    assert noted(xray, "far outside")


def test_the_users_geometry_replaces_the_files_but_not_its_orientation(tmp_path):
    mine = CArm(1200, (ROWS, COLUMNS), (0.7, 0.7), intensity="transmission")
    xray = read(tmp_path, carm=mine, FieldOfViewRotation=180, FieldOfViewHorizontalFlip="NO")
    assert xray.carm.source_to_detector == 1200
    assert (xray.carm.mirrored, xray.carm.rotation) == (True, 180)
    assert source(xray, "source to detector") == "C-arm file"
    turned = CArm(1200, (COLUMNS, ROWS), (0.7, 0.7), rotation=90)
    assert (read(tmp_path, carm=turned).carm.mirrored, read(tmp_path, carm=turned).carm.rotation) == (False, 90)


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    carm = preset_carm(name, (1024, 1024))
    assert carm.source_to_isocenter < carm.source_to_detector
    height, width = PRESETS[name].detector
    assert carm.pixel_spacing[0] * 1024 == pytest.approx(max(height, width))
    with pytest.raises(InputError, match="nonsense"):
        preset_carm("nonsense", (10, 10))


def test_where_a_carm_can_come_from(tmp_path):
    """carm.json, a calibration, a preset: the image's size as the camera sees it goes along."""
    image = save(xray_dataset(counts(), FieldOfViewRotation=90, FieldOfViewHorizontalFlip="NO"), tmp_path / "x.dcm")
    CArm(900, (COLUMNS, ROWS), (1, 1)).write(tmp_path / "carm.json")
    assert read_carm(tmp_path / "carm.json").source_to_detector == 900
    preset = read_carm("preset:mobile-flat-30", image)
    assert preset.image_size == (COLUMNS, ROWS)
    assert XrayImage.read(image, preset).carm.source_to_detector == 1020
    np.savetxt(tmp_path / "p.txt", preset.intrinsics @ np.eye(4)[:3] + [[0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 700]])
    np.testing.assert_allclose(read_carm(tmp_path / "p.txt", image).principal_point, preset.principal_point)
    for source, words in (("preset:none", "no C-arm preset"), ("preset:mini", "needs the image's size")):
        with pytest.raises(InputError, match=words):
            read_carm(source)


def test_table_position_is_told(tmp_path):
    """TableXPositionToIsocenter (0018,9466), TableHeadTiltAngle (0018,9470)."""
    table = {"TableXPositionToIsocenter": 1.0, "TableYPositionToIsocenter": 2.0, "TableZPositionToIsocenter": 3.0}
    xray = read(tmp_path, TableHeadTiltAngle=12.0, **table)
    assert any(fact.value.startswith("1, 2, 3 mm") for fact in xray.facts)
    assert noted(xray, "TableHeadTiltAngle (0018,9470)", "12")


# ---- Frames, enhanced objects --------------------------------------------------------------------------------------


def test_frames_ranges_and_averages(tmp_path):
    """NumberOfFrames (0028,0008), RepresentativeFrameNumber (0028,6010)."""
    frames = np.stack([counts(20000 * (n + 1)) for n in range(3)])
    path = save(xray_dataset(frames), tmp_path / "run.dcm")
    first = XrayImage.read(path)
    assert noted(first, "Frame 0 of 3", "run.dcm#N")
    np.testing.assert_allclose(first.stored[:, ::1], frames[0], rtol=1e-3)
    for name, frame, expected in (
        ("run.dcm#2", 2, frames[2]),
        ("run.dcm#1-2", (1, 2), frames[1:].mean(0)),
        ("run.dcm#average", "average", frames.mean(0)),
    ):
        np.testing.assert_allclose(XrayImage.read(tmp_path / name).stored, expected, rtol=1e-3)
        np.testing.assert_allclose(XrayImage.read(path, frame=frame).stored, expected, rtol=1e-3)
    path = save(xray_dataset(frames, RepresentativeFrameNumber=2), tmp_path / "run.dcm")
    np.testing.assert_allclose(XrayImage.read(path).stored, frames[1], rtol=1e-3)
    with pytest.raises(InputError, match="no frame 3: choose 0 to 2"):
        XrayImage.read(path, frame=3)


def test_angles_that_vary(tmp_path):
    """PositionerPrimaryAngleIncrement (0018,1520): added to the first frame's angle."""
    frames = np.stack([counts()] * 3)
    path = save(
        xray_dataset(frames, PositionerPrimaryAngle="10", PositionerPrimaryAngleIncrement=["0", "5", "12"]),
        tmp_path / "run.dcm",
    )
    assert [XrayImage.read(path, frame=n).positioner.lao_rao for n in range(3)] == [10, 15, 22]
    path = save(
        xray_dataset(frames, PositionerPrimaryAngle="175", PositionerPrimaryAngleIncrement="5"), tmp_path / "run.dcm"
    )
    assert XrayImage.read(path, frame=2).positioner.lao_rao == -175


def test_enhanced_functional_groups(tmp_path):
    """SharedFunctionalGroupsSequence (5200,9229) and PerFrameFunctionalGroupsSequence (5200,9230), the latter first."""
    frames = np.stack([counts(), counts()])
    shared = item(
        XRayGeometrySequence=[item(DistanceSourceToDetector=1100.0, DistanceSourceToIsocenter=750.0)],
        FramePixelDataPropertiesSequence=[
            item(ImagerPixelSpacing=["0.3", "0.3"], PixelIntensityRelationship="LIN", PixelIntensityRelationshipSign=1)
        ],
    )
    per_frame = [
        item(PositionerPositionSequence=[item(PositionerPrimaryAngle="20", PositionerSecondaryAngle="-5")]),
        item(
            PositionerPositionSequence=[item(PositionerPrimaryAngle="40", PositionerSecondaryAngle="-5")],
            XRayGeometrySequence=[item(DistanceSourceToDetector=1150.0, DistanceSourceToIsocenter=750.0)],
        ),
    ]
    dataset = xray_dataset(
        frames, SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=per_frame,
        DistanceSourceToDetector=None, DistanceSourceToPatient=None, ImagerPixelSpacing=None,
        PositionerPrimaryAngle=None, PositionerSecondaryAngle=None, PixelIntensityRelationship=None,
        SOPClassUID=pydicom.uid.EnhancedXAImageStorage,
    )  # fmt: skip
    path = save(dataset, tmp_path / "enhanced.dcm")
    one, two = (XrayImage.read(path, frame=n) for n in range(2))
    assert (one.carm.source_to_detector, two.carm.source_to_detector) == (1100, 1150)
    assert one.carm.source_to_isocenter == 750
    assert (one.positioner.lao_rao, two.positioner.lao_rao) == (20, 40)
    assert two.carm.pixel_spacing == (0.3, 0.3)


# ---- Meaning of values ---------------------------------------------------------------------------------------------


def same_up_to_scale(pixels: np.ndarray, expected: np.ndarray) -> float:
    return float(np.corrcoef(pixels.ravel(), expected.ravel())[0, 1])


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_linear_values_of_either_sign(tmp_path, photometric):
    """PixelIntensityRelationship (0028,1040) LIN, PixelIntensityRelationshipSign (0028,1041): 1 is "lower pixel values
    correspond to less X-Ray beam intensity". PhotometricInterpretation (0028,0004) is display and changes nothing."""
    camera = line_integrals()[:, ::-1]
    for sign, stored in ((1, counts()), (-1, 65535 - counts())):
        xray = read(tmp_path, stored, PixelIntensityRelationshipSign=sign, PhotometricInterpretation=photometric)
        difference = xray.pixels - camera
        np.testing.assert_allclose(difference, difference.mean(), atol=2e-3)
        assert xray.carm.intensity == ("transmission" if sign > 0 else "attenuation")
        np.testing.assert_allclose(xray.stored, stored, atol=2)
        assert noted(xray, "Treated as", f"sign {sign:+d}")


@pytest.mark.parametrize("sign", [1, -1])
def test_logarithmic_values(tmp_path, sign):
    """PixelIntensityRelationship (0028,1040) LOG: no second logarithm."""
    values = np.rint(10000 - sign * 2000 * line_integrals()).astype(np.uint16)
    xray = read(tmp_path, values, PixelIntensityRelationship="LOG", PixelIntensityRelationshipSign=sign)
    assert same_up_to_scale(xray.pixels, line_integrals()[:, ::-1]) > 0.999999
    assert noted(xray, "logarithmic")
    np.testing.assert_allclose(xray.stored, values, atol=1)


def test_display_processed_values(tmp_path):
    """PixelIntensityRelationship (0028,1040) DISP: a monotonic mapping, direction by the sign or the image."""
    values = np.rint(4000 / (1 + np.exp(line_integrals() - 2))).astype(np.uint16)
    xray = read(tmp_path, values, PixelIntensityRelationship="DISP", PixelIntensityRelationshipSign=1)
    assert same_up_to_scale(xray.pixels, line_integrals()[:, ::-1]) > 0.95
    assert noted(xray, "display-processed transmission")
    unsigned = read(tmp_path, values, PixelIntensityRelationship="DISP")
    assert same_up_to_scale(unsigned.pixels, line_integrals()[:, ::-1]) > 0.95


def test_radiographs_for_display(tmp_path):
    """DX and CR without a relationship show bone white: low in MONOCHROME1, high in MONOCHROME2."""
    bone_high = np.rint(500 * line_integrals()).astype(np.uint16)
    for photometric, values in (("MONOCHROME2", bone_high), ("MONOCHROME1", 4000 - bone_high)):
        xray = read(
            tmp_path, values, Modality="CR", PixelIntensityRelationship=None, PhotometricInterpretation=photometric
        )
        assert same_up_to_scale(xray.pixels, line_integrals()[:, ::-1]) > 0.9999


def test_rescale_and_modality_lut(tmp_path):
    """RescaleSlope (0028,1053), RescaleIntercept (0028,1052), ModalityLUTSequence (0028,3000)."""
    camera = line_integrals()[:, ::-1]
    xray = read(tmp_path, (counts() - 500) // 2, RescaleSlope="2", RescaleIntercept="500")
    difference = xray.pixels - camera
    np.testing.assert_allclose(difference, difference.mean(), atol=5e-3)
    twelve = np.rint(4000 * np.exp(-line_integrals())).astype(np.uint16)
    table = 4095 - np.arange(4096)
    lut = item(LUTDescriptor=[4096, 0, 16], ModalityLUTType="US")
    lut.add_new(0x00283006, "US", table.tolist())
    xray = read(tmp_path, (4095 - twelve).astype(np.uint16), ModalityLUTSequence=[lut])
    difference = xray.pixels - camera
    np.testing.assert_allclose(difference, difference.mean(), atol=2e-2)
    assert noted(xray, "ModalityLUTSequence (0028,3000)")
    np.testing.assert_array_equal(read(tmp_path, RescaleSlope="0").pixels, read(tmp_path).pixels)  # 0 is not believed


def test_pixel_intensity_relationship_lut(tmp_path):
    """PixelIntensityRelationshipLUTSequence (0028,9422), its LUTData (0028,3006) TO_LINEAR, undoes any relation."""
    index = np.rint(1023 * np.exp(-line_integrals() / 3)).astype(np.uint16)
    lut = item(LUTDescriptor=[1024, 0, 16], LUTFunction="TO_LINEAR")
    lut.add_new(0x00283006, "US", np.rint(60000 * (np.arange(1024) / 1023) ** 3).astype(int).tolist())
    shared = item(FramePixelDataPropertiesSequence=[item(PixelIntensityRelationship="LOG")],
                  PixelIntensityRelationshipLUTSequence=[lut])  # fmt: skip
    xray = read(tmp_path, index, SharedFunctionalGroupsSequence=[shared], PixelIntensityRelationshipLUTSequence=[lut])
    assert same_up_to_scale(xray.pixels, line_integrals()[:, ::-1]) > 0.9999


def test_bits_stored_and_overlays(tmp_path):
    """BitsStored (0028,0101): what lies above is no value. Overlay planes (60xx,3000) are left out and mentioned."""
    twelve = np.rint(4000 * np.exp(-line_integrals())).astype(np.uint16)
    dirty = twelve | (np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) % 2 << 14).astype(np.uint16)
    xray = read(tmp_path, dirty, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(xray.pixels, read(tmp_path, twelve).pixels)
    dataset = xray_dataset(counts())
    dataset.add_new(0x60000010, "US", ROWS)
    dataset.add_new(0x60003000, "OW", b"\xff" * (ROWS * COLUMNS // 8))
    xray = XrayImage.read(save(dataset, tmp_path / "overlay.dcm"))
    assert noted(xray, "Overlay planes")
    signed = (counts(30000).astype(int) - 16000).astype(np.int16)
    frame = read_frame(xray_dataset(signed, BitsStored=16), 0, "x")
    np.testing.assert_array_equal(frame, signed)
    narrow = (counts(1000).astype(int) - 500).astype(np.int16)
    frame = read_frame(xray_dataset(narrow & 0x0FFF, BitsStored=12, HighBit=11), 0, "x")
    np.testing.assert_array_equal(frame, narrow)


def test_saturation_knows_the_bits_stored(tmp_path):
    twelve = np.minimum(np.rint(8000 * np.exp(-line_integrals())), 4095).astype(np.uint16)
    xray = read(tmp_path, twelve, BitsStored=12, HighBit=11)
    assert xray.mask is not None
    assert not xray.mask[:, ::-1][twelve == 4095].any()


@pytest.mark.parametrize(
    ("attributes", "inside"),
    [
        ({"CollimatorShape": "RECTANGULAR", "CollimatorLeftVerticalEdge": "10", "CollimatorRightVerticalEdge": "70",
          "CollimatorUpperHorizontalEdge": "5", "CollimatorLowerHorizontalEdge": "50"},
         lambda r, c: (c > 10) & (c < 70) & (r > 5) & (r < 50)),
        ({"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": ["30", "40"], "RadiusOfCircularShutter": "25"},
         lambda r, c: np.hypot(r - 30, c - 40) <= 25),
        ({"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": ["5", "10", "5", "70", "55", "40"]},
         lambda r, c: (r >= 5) & (r < 55) & (c - 10 >= (r - 5) * 0.6) & (70 - c > (r - 5) * 0.6)),
    ],
)  # fmt: skip
def test_shutters_and_collimators(tmp_path, attributes, inside):
    """CollimatorShape (0018,1700), ShutterShape (0018,1600): rows and columns count from 1."""
    xray = read(tmp_path, **attributes)
    row, column = np.mgrid[1 : ROWS + 1, 1 : COLUMNS + 1]
    expected = inside(row, column)
    assert xray.mask is not None
    assert (xray.mask[:, ::-1] != expected).mean() < 0.02
    assert noted(xray, next(iter(attributes)))


def test_a_shutter_that_leaves_nothing_is_not_believed(tmp_path):
    xray = read(tmp_path, ShutterShape="CIRCULAR", CenterOfCircularShutter=["1", "1"], RadiusOfCircularShutter="1")
    assert xray.mask is None
    assert noted(xray, "not believed")


def test_warnings(tmp_path):
    xray = read(
        tmp_path, BurnedInAnnotation="YES", LossyImageCompression="01", LossyImageCompressionRatio="12",
        ConversionType="DV",
    )  # fmt: skip
    assert noted(xray, "BurnedInAnnotation (0028,0301)")
    assert noted(xray, "12 to 1")
    assert noted(xray, "secondary capture") or noted(xray, "A secondary capture")
    assert noted(read(tmp_path, PatientPosition="HFP"), "prone", "relative to the patient")
    assert noted(read(tmp_path, PatientPosition="WRONG"), "PatientPosition (0018,5100)")


def test_no_name_anywhere(tmp_path):
    xray = read(tmp_path)
    assert "Nobody" not in repr((xray.facts, xray.notes, xray.name, xray.conversion))
