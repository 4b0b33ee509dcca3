"""Attributes that say little each, and the kinds of object X-rays and CTs come in: one rule a test, by its name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.encaps import encapsulate

from dicom_writing import item, save, set_rle, xray_dataset
from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.geometry.se3 import so3_exp
from DiffPoseSlicerLib.imaging import dicom_xray
from DiffPoseSlicerLib.imaging.attenuation import hu_to_mu
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.imaging.positioner import from_patient_angles
from DiffPoseSlicerLib.imaging.understanding import describe_file
from DiffPoseSlicerLib.imaging.xray import XrayImage
from test_dicom_ct import AXIAL, phantom, series, write
from test_dicom_xray import COLUMNS, ROWS, counts, noted, read


@pytest.mark.parametrize(
    ("modality", "sop_class"),
    [
        ("XA", uid.XRayAngiographicImageStorage),
        ("RF", uid.XRayRadiofluoroscopicImageStorage),
        ("DX", uid.DigitalXRayImageStorageForProcessing),
        ("CR", uid.ComputedRadiographyImageStorage),
        ("XA", uid.EnhancedXAImageStorage),
        ("RF", uid.EnhancedXRFImageStorage),
        ("OT", uid.SecondaryCaptureImageStorage),
    ],
)
def test_kinds_of_object(tmp_path, modality, sop_class):
    """SOPClassUID (0008,0016), Modality (0008,0060): each is read alike, and doctor names it."""
    dataset = xray_dataset(counts(), Modality=modality, SOPClassUID=sop_class)
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    path = save(dataset, tmp_path / "x.dcm")
    np.testing.assert_array_equal(XrayImage.read(path).pixels, read(tmp_path).pixels)
    dataset = save(dataset, tmp_path / "x.dcm")
    (line,) = [line for line in describe_file(path) if line.startswith("kind: ")]
    assert sop_class.name in line and f"({modality})" in line


def test_enhanced_groups_give_field_of_view_and_table_per_frame(tmp_path):
    """XRayFieldOfViewSequence (0018,9432): FieldOfViewRotation (0018,7032) and flip; XRayTablePositionSequence
    (0018,9406); FieldOfViewDimensionsInFloat (0018,9461)."""

    def group(turn: int, flip: str, x: float):
        return item(
            FieldOfViewSequence=[
                item(FieldOfViewRotation=turn, FieldOfViewHorizontalFlip=flip, FieldOfViewShape="RECTANGLE")
            ],
            TablePositionSequence=[
                item(TableXPositionToIsocenter=x, TableYPositionToIsocenter=0.0, TableZPositionToIsocenter=0.0)
            ],
        )

    frames = np.stack([counts(), counts()])
    dataset = xray_dataset(
        frames, SOPClassUID=uid.EnhancedXRFImageStorage, Modality="RF",
        PerFrameFunctionalGroupsSequence=[group(0, "NO", 10.0), group(180, "YES", 20.0)],
    )  # fmt: skip
    path = save(dataset, tmp_path / "run.dcm")
    one, two = (XrayImage.read(path, frame=n) for n in range(2))
    assert (one.carm.mirrored, one.carm.rotation, two.carm.mirrored, two.carm.rotation) == (True, 0, False, 180)
    assert [next(f.value for f in x.facts if f.name == "table").split(",")[0] for x in (one, two)] == ["10", "20"]
    one = read(tmp_path, ImagerPixelSpacing=None, FieldOfViewDimensionsInFloat=[120.0, 240.0])
    np.testing.assert_allclose(one.carm.pixel_spacing, (120 / ROWS, 240 / COLUMNS))


def test_geometry_that_varies_by_frame_goes_with_a_range(tmp_path):
    """PositionerSecondaryAngleIncrement (0018,1521): of a range (name#1-2) the first frame's geometry counts, which is
    said; doctor shows the frame it is asked for."""
    frames = np.stack([counts()] * 4)
    dataset = xray_dataset(
        frames, PositionerSecondaryAngle="-5", PositionerSecondaryAngleIncrement=["0", "1", "3", "7"]
    )
    path = save(dataset, tmp_path / "run.dcm")
    assert [XrayImage.read(path, frame=n).positioner.cran_caud for n in range(4)] == [-5, -4, -2, 2]
    moved = XrayImage.read(tmp_path / "run.dcm#2-3")
    assert moved.positioner.cran_caud == -2
    assert noted(moved, "C-arm moved between these frames")
    still = save(xray_dataset(frames), tmp_path / "still.dcm")
    assert not noted(XrayImage.read(still, frame="average"), "moved")
    assert any(line.startswith("beam: ") and "CRA 2," in line for line in describe_file(tmp_path / "run.dcm#3"))


@pytest.mark.parametrize(("view", "angle"), [("PA", 0), ("AP", 180), ("LL", 90), ("RL", -90)])
def test_view_position_where_no_angles_are(tmp_path, view, angle):
    """ViewPosition (0018,5101): of PA the detector is in front of the patient, of LL at the patient's left."""
    xray = read(tmp_path, PositionerPrimaryAngle=None, PositionerSecondaryAngle=None, ViewPosition=view)
    np.testing.assert_allclose(xray.positioner.rotation, from_patient_angles(angle, 0, "").rotation)
    assert any("ViewPosition (0018,5101)" in fact.source for fact in xray.facts)


def test_a_detector_turned_about_the_beam_is_said(tmp_path):
    """PositionerIsocenterDetectorRotationAngle (0018,9465)."""
    angles = item(
        PositionerIsocenterPrimaryAngle=0.0, PositionerIsocenterSecondaryAngle=0.0,
        PositionerIsocenterDetectorRotationAngle=15.0,
    )  # fmt: skip
    xray = read(
        tmp_path, PositionerPrimaryAngle=None, PositionerSecondaryAngle=None,
        SharedFunctionalGroupsSequence=[item(IsocenterReferenceSystemSequence=[angles])],
    )  # fmt: skip
    assert noted(xray, "15 degrees about the beam")


def test_turned_and_tilted_tables_are_said(tmp_path):
    """TableHorizontalRotationAngle (0018,9469), TableCradleTiltAngle (0018,9471)."""
    assert noted(read(tmp_path, TableHorizontalRotationAngle=20.0), "TableHorizontalRotationAngle (0018,9469)", "20")
    assert noted(read(tmp_path, TableCradleTiltAngle=-8.0), "TableCradleTiltAngle (0018,9471)", "-8")


def test_display_settings_change_nothing(tmp_path):
    """WindowCenter (0028,1050), VOILUTSequence (0028,3010), PresentationLUTShape (2050,0020) are for showing only."""
    lut = item(LUTDescriptor=[4096, 0, 16])
    lut.add_new(0x00283006, "US", (65535 - 16 * np.arange(4096)).tolist())
    plain = read(tmp_path)
    shown = read(
        tmp_path, WindowCenter="100", WindowWidth="50", VOILUTSequence=[lut], PresentationLUTShape="INVERSE",
    )  # fmt: skip
    np.testing.assert_array_equal(shown.pixels, plain.pixels)


def test_a_round_field_of_an_intensifier_is_masked_and_warned_of(tmp_path):
    """FieldOfViewShape (0018,1147) ROUND, IntensifierSize (0018,1162): the circle is found in the image itself."""
    size = 128
    v, u = np.mgrid[:size, :size]
    inside = np.hypot(u - 63.5, v - 63.5) < 58
    body = 40000 * np.exp(-2 * np.exp(-((u - 50) ** 2) / 300)) * (1 + 0.02 * np.sin(v))
    xray = read(tmp_path, np.where(inside, body, 0).astype(np.uint16), FieldOfViewShape="ROUND", IntensifierSize="230")
    assert noted(xray, "image intensifier", "distortion was not corrected")
    assert xray.mask is not None
    assert not xray.mask[~inside[:, ::-1]].any()
    assert xray.mask[inside[:, ::-1]].mean() > 0.9


def test_borders_burnt_into_the_pixels_are_left_out(tmp_path):
    """Collimator blades and blank bands without any attribute that says so (CollimatorShape absent)."""
    stored = counts()
    stored[:8], stored[:, -10:] = 900, 900
    xray = read(tmp_path, stored)
    assert xray.mask is not None
    kept = xray.mask[:, ::-1]  # as stored
    assert not kept[:8].any() and not kept[:, -10:].any()
    assert kept[12:, :-14].mean() > 0.9


def test_an_overlay_with_a_name_is_dropped_whole(tmp_path):
    """OverlayData (60xx,3000), OverlayDescription (60xx,0022) may hold names: nothing of them is kept or told."""
    dataset = xray_dataset(counts())
    dataset.add_new(0x60000010, "US", ROWS)
    dataset.add_new(0x60000011, "US", COLUMNS)
    dataset.add_new(0x60000022, "LO", "Nobody^At^All")
    dataset.add_new(0x60003000, "OW", b"\xff" * (ROWS * COLUMNS // 8))
    path = save(dataset, tmp_path / "x.dcm")
    xray = XrayImage.read(path)
    np.testing.assert_array_equal(xray.pixels, read(tmp_path).pixels)
    assert noted(xray, "Overlay planes (60xx) were left out")
    assert "Nobody" not in "\n".join(describe_file(path))


SIDES = ("LeftVerticalEdge", "RightVerticalEdge", "UpperHorizontalEdge", "LowerHorizontalEdge")


@pytest.mark.parametrize(
    ("attributes", "inside"),
    [
        (dict(zip(map("Shutter{}".format, SIDES), ("10", "70", "5", "50"), strict=True), ShutterShape="RECTANGULAR"),
         lambda r, c: (c > 10) & (c < 70) & (r > 5) & (r < 50)),
        ({"CollimatorShape": "CIRCULAR", "CenterOfCircularCollimator": ["30", "40"],
          "RadiusOfCircularCollimator": "25"}, lambda r, c: np.hypot(r - 30, c - 40) <= 25),
        ({"CollimatorShape": "POLYGONAL", "VerticesOfThePolygonalCollimator": ["5", "10", "5", "70", "55", "40"]},
         lambda r, c: (r >= 5) & (r < 55) & (c - 10 >= (r - 5) * 0.6) & (70 - c > (r - 5) * 0.6)),
    ],
)  # fmt: skip
def test_shutters_and_collimators_of_the_other_shapes(tmp_path, attributes, inside):
    """ShutterLeftVerticalEdge (0018,1602), ShutterRightVerticalEdge (0018,1604), ShutterUpperHorizontalEdge
    (0018,1606), ShutterLowerHorizontalEdge (0018,1608); CenterOfCircularCollimator (0018,1710),
    RadiusOfCircularCollimator (0018,1712), VerticesOfThePolygonalCollimator (0018,1720)."""
    xray = read(tmp_path, **attributes)
    assert xray.mask is not None
    assert (xray.mask[:, ::-1] != inside(*np.mgrid[1 : ROWS + 1, 1 : COLUMNS + 1])).mean() < 0.02


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
def test_pixels_that_are_fractions(tmp_path, keyword, dtype):
    """FloatPixelData (7FE0,0008), DoubleFloatPixelData (7FE0,0009)."""
    dataset = xray_dataset(counts())
    del dataset.PixelData
    dataset.BitsAllocated = 8 * np.dtype(dtype).itemsize
    setattr(dataset, keyword, (counts() / 7).astype(dtype).tobytes())
    xray = XrayImage.read(save(dataset, tmp_path / "x.dcm"))
    np.testing.assert_allclose(xray.pixels, read(tmp_path).pixels, atol=1e-4)


@pytest.mark.parametrize("packed", [False, True])
def test_colours_from_a_palette(tmp_path, packed):
    """RedPaletteColorLookupTableDescriptor (0028,1101) and RedPaletteColorLookupTableData (0028,1201), and the same for
    Green and Blue: a secondary capture whose values are places in a table."""
    grey = (counts() >> 8).astype(np.uint8)
    dataset = xray_dataset(255 - grey, PhotometricInterpretation="PALETTE COLOR", Modality="OT")
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    for colour in ("Red", "Green", "Blue"):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        table = (np.arange(255, -1, -1) * 257).astype("<u2")
        setattr(dataset, f"{colour}PaletteColorLookupTableData", table.tobytes())
    if packed:
        set_rle(dataset, (255 - grey)[None])
    xray = XrayImage.read(save(dataset, tmp_path / "x.dcm"))
    assert np.corrcoef(xray.pixels.ravel(), read(tmp_path, grey).pixels.ravel())[0, 1] > 0.999


def test_every_attribute_that_is_read_is_named_in_a_test():
    """What the readers ask a file for, against the text of these tests."""
    read_here = set()
    for file in Path(dicom_xray.__file__).parent.glob("*.py"):
        if "export" not in file.name:
            read_here |= set(re.findall(r'"([A-Z][A-Za-z]+)"', file.read_text(encoding="utf-8")))
    keywords = {word for word in read_here if tag_for_keyword(word)}
    assert len(keywords) > 80
    tests = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    colours = {
        f"{colour}PaletteColorLookupTable{what}" for colour in ("Green", "Blue") for what in ("Data", "Descriptor")
    }
    assert sorted(word for word in keywords - colours if word not in tests) == []


# ---- CT --------------------------------------------------------------------------------------------------------------


def compressed(folder: Path, values: np.ndarray, compressor: str) -> tuple[bytes, str]:
    """Pixel data of one slice and its transfer syntax, compressed by GDCM."""
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(folder / "one.dcm"))
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.Execute(sitk.GetImageFromArray(values[None]))
    dataset = pydicom.dcmread(folder / "one.dcm")
    return dataset.PixelData, dataset.file_meta.TransferSyntaxUID


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_jpeg_compressed_slices(tmp_path, compressor):
    """TransferSyntaxUID (0002,0010) of a CT: JPEG Lossless, JPEG 2000 Lossless."""
    slices = series(phantom())
    for one, plane in zip(slices, phantom(), strict=True):
        one.PixelData, one.file_meta.TransferSyntaxUID = compressed(
            tmp_path, (plane + 1024).astype(np.uint16), compressor
        )
        one["PixelData"].VR, one["PixelData"].is_undefined_length = "OB", True
    assert slices[0].file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(CTVolume.read(write(tmp_path / "ct", slices)).hu, phantom())


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.999"])
def test_compression_that_nothing_reads_is_refused_by_name(tmp_path, syntax):
    """TransferSyntaxUID (0002,0010): high-throughput JPEG 2000, video, and one that is not known at all."""
    dataset = xray_dataset(counts())
    dataset.file_meta.TransferSyntaxUID = known = "1.2.840.10008.1.2.4.100"
    dataset.PixelData = encapsulate([bytes(200)])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    path = save(dataset, tmp_path / "x.dcm")
    path.write_bytes(path.read_bytes().replace(known.encode(), syntax.encode()))  # pydicom would not write it
    with pytest.raises(InputError, match=r"x\.dcm cannot be decoded \(transfer syntax .+\).*export it uncompressed"):
        XrayImage.read(path)


def test_metal_is_clamped_and_padding_is_air(tmp_path):
    """PixelPaddingValue (0028,0120), BitsStored (0028,0101): values beyond the scale of a CT weigh no more than it."""
    hu = phantom()
    hu[4, 8, 8] = 20000
    slices = series(hu)
    for one in slices:
        one.PixelPaddingValue = 24  # the phantom's air, -1000 HU
    ct = CTVolume.read(write(tmp_path / "ct", slices))
    assert ct.attenuation().max() == hu_to_mu(np.array(3071.0))
    assert ct.attenuation().min() == 0
    assert ct.hu.min() == -1000


def test_a_tilted_and_turned_series_keeps_every_point(tmp_path):
    """GantryDetectorTilt (0018,1120) together with an oblique ImageOrientationPatient (0020,0037)."""
    affine = AXIAL.copy()
    affine[1, 2] = 2.5 * np.tan(np.deg2rad(-20))
    turn = np.eye(4)
    turn[:3, :3] = so3_exp([0.1, 0.2, -0.3])
    ct = CTVolume.read(write(tmp_path / "ct", series(phantom(), turn @ affine, GantryDetectorTilt="-20")))
    np.testing.assert_allclose(ct.affine, turn @ affine, atol=1e-5)
    assert any("tilted by 20.00 degrees" in note for note in ct.notes)
