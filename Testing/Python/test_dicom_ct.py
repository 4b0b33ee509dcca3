"""imaging/dicom_ct.py: CT series as scanners and archives leave them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from dicom_writing import item, save, set_rle
from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.geometry.coordinates import flip_ras_lps, transform_points
from DiffPoseSlicerLib.geometry.se3 import rigid, so3_exp
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.imaging.dicom_pixels import read_frame
from DiffPoseSlicerLib.imaging.understanding import describe_file

SERIES, FRAME = generate_uid(), generate_uid()


def phantom(n: int = 12) -> np.ndarray:
    hu = np.full((n, 24, 20), -1000, np.int16)
    hu[1:-1, 3:-5, 4:-3] = (np.arange(1, n - 1) * 10)[:, None, None]
    hu[2:5, 5:9, 6:14] = 900
    return hu


AXIAL = np.diag([-0.7, -0.8, 2.5, 1.0])  # i to the left, j to the back: the usual axial CT
AXIAL[:3, 3] = [70, 90, -300]


def ct_slice(plane: np.ndarray, affine: np.ndarray, k: float, **attributes) -> Dataset:
    """One slice of a volume with an affine to RAS, at height k."""
    lps = flip_ras_lps(affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = CTImageStorage
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = generate_uid()
    d.SeriesInstanceUID, d.FrameOfReferenceUID, d.Modality = SERIES, FRAME, "CT"
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.PatientName = "Nobody^At^All"
    d.ImagePositionPatient = [f"{x:.8g}" for x in (lps @ [0, 0, k, 1])[:3]]
    d.ImageOrientationPatient = [f"{x:.10f}" for n in (0, 1) for x in lps[:3, n] / spacing[n]]
    d.PixelSpacing = [spacing[1], spacing[0]]
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
    d.RescaleSlope, d.RescaleIntercept = "1", "-1024"
    d.Rows, d.Columns = plane.shape
    for keyword, value in attributes.items():
        setattr(d, keyword, value)
    d.PixelData = ((plane - float(d.RescaleIntercept)) / float(d.RescaleSlope)).astype("<u2").tobytes()
    d["PixelData"].VR = "OW"
    return d


def write(folder: Path, slices: list[Dataset], prefix: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    for n, one in enumerate(slices):
        save(one, folder / f"{prefix}{(n * 11) % 97:02d}")  # no order, no suffix
    return folder


def series(hu: np.ndarray, affine: np.ndarray = AXIAL, skip: tuple[int, ...] = (), **attributes) -> list[Dataset]:
    return [ct_slice(plane, affine, k, **attributes) for k, plane in enumerate(hu) if k not in skip]


def noted(ct: CTVolume, *words: str) -> bool:
    return any(all(word in note for word in words) for note in ct.notes)


def test_plain_series(tmp_path):
    ct = CTVolume.read(write(tmp_path / "ct", series(phantom())))
    np.testing.assert_array_equal(ct.hu, phantom())
    np.testing.assert_allclose(ct.affine, AXIAL, atol=1e-6)
    assert all("small" in note for note in ct.notes)  # the phantom is; there is nothing else to say
    assert ct.frame_of_reference == FRAME


@pytest.mark.parametrize("turn", [[0, 0, 0], [0.2, -0.1, 0.4], [0, np.pi / 2, 0], [np.pi / 2, 0, 0]])
def test_oblique_and_sagittal_series_keep_their_axes(tmp_path, turn):
    """ImageOrientationPatient (0020,0037), ImagePositionPatient (0020,0032)."""
    affine = rigid(so3_exp(turn), [5, 6, 7]) @ AXIAL
    ct = CTVolume.read(write(tmp_path / "ct", series(phantom(), affine)))
    np.testing.assert_allclose(ct.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(ct.hu, phantom())


def test_slices_in_descending_order_are_sorted_by_position(tmp_path):
    down = AXIAL @ np.diag([1.0, 1, -1, 1])
    ct = CTVolume.read(write(tmp_path / "ct", series(phantom(), down)))
    index = transform_points(np.linalg.inv(ct.affine), (down @ [7, 6, 3, 1])[:3])
    i, j, k = np.rint(index).astype(int)
    assert ct.hu[k, j, i] == phantom()[3, 6, 7]
    assert np.linalg.det(ct.affine[:3, :3]) > 0  # sorted along the normal of the slices


def test_tilted_gantry_is_kept_as_a_shear(tmp_path):
    """GantryDetectorTilt (0018,1120) shows in the positions: slices shift sideways as they go up."""
    tilted = AXIAL.copy()
    tilted[1, 2] = 2.5 * np.tan(np.deg2rad(15))
    ct = CTVolume.read(write(tmp_path / "ct", series(phantom(), tilted)))
    np.testing.assert_allclose(ct.affine, tilted, atol=1e-6)
    assert noted(ct, "tilted by 15.00 degrees")


def test_missing_slices_are_filled_and_said(tmp_path):
    ct = CTVolume.read(write(tmp_path / "ct", series(phantom(), skip=(6, 7))))
    np.testing.assert_allclose(ct.affine, AXIAL, atol=1e-6)
    np.testing.assert_array_equal(ct.hu, phantom())  # linear between neighbours, as the phantom is there
    assert noted(ct, "2 slices are missing", "7.5 mm")


def test_uneven_slices_are_brought_to_even_ones(tmp_path):
    heights = [0, 1, 2, 2.6, 3.6, 4.6, 5.6, 6.6, 7.0, 8.0]
    ramp = [np.full((24, 20), round(-500 + 100 * h), np.int16) for h in heights]
    slices = [ct_slice(plane, AXIAL, h) for plane, h in zip(ramp, heights)]
    ct = CTVolume.read(write(tmp_path / "ct", slices))
    assert noted(ct, "unevenly spaced")
    np.testing.assert_allclose(ct.hu[:, 3, 3], -500 + 100 * np.arange(9), atol=1)
    np.testing.assert_allclose(ct.affine[:3, 2], [0, 0, 2.5], atol=1e-6)


def test_hopeless_gaps_are_refused(tmp_path):
    slices = [ct_slice(phantom()[k], AXIAL, h) for k, h in enumerate([0, 1, 2, 1000])]
    with pytest.raises(InputError, match="too much is missing"):
        CTVolume.read(write(tmp_path / "ct", slices))


def test_several_series_localizers_and_others_in_one_folder(tmp_path):
    """SeriesInstanceUID (0020,000E), ImageType (0008,0008) LOCALIZER, Modality (0008,0060)."""
    folder = write(tmp_path / "ct", series(phantom()))
    write(folder, series(phantom(5), SeriesInstanceUID=generate_uid()), "b")
    write(folder, [ct_slice(phantom()[5], AXIAL, 3, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])], "c")
    write(folder, [ct_slice(phantom()[5], AXIAL, 3, Modality="PR")], "d")
    (folder / "readme.txt").write_text("hello")
    ct = CTVolume.read(folder)
    np.testing.assert_array_equal(ct.hu, phantom())
    assert noted(ct, "2 CT series", "12 slices", "others: 5")
    assert noted(ct, "2 other images")


def test_duplicates_are_left_out(tmp_path):
    folder = write(tmp_path / "ct", series(phantom()))
    write(folder, series(phantom())[:3], "again")
    ct = CTVolume.read(folder)
    np.testing.assert_array_equal(ct.hu, phantom())
    assert noted(ct, "3 slices lie where another one does")


def test_a_disc_with_folders_below(tmp_path):
    write(tmp_path / "S0001", series(phantom()))
    np.testing.assert_array_equal(CTVolume.read(tmp_path).hu, phantom())


def test_rescale_per_slice_fractions_and_padding(tmp_path):
    """RescaleSlope (0028,1053), RescaleIntercept (0028,1052), PixelPaddingValue (0028,0120)."""
    hu = phantom()
    slices = series(hu)
    slices[4] = ct_slice(hu[4], AXIAL, 4, RescaleSlope="2", RescaleIntercept="-2000")
    stored = np.frombuffer(slices[6].PixelData, "<u2").copy()
    stored[:7] = 5000
    slices[6].PixelData, slices[6].PixelPaddingValue = stored.tobytes(), 5000
    ct = CTVolume.read(write(tmp_path / "ct", slices))
    np.testing.assert_array_equal(ct.hu, hu)
    ct = CTVolume.read(write(tmp_path / "half", series(hu // 2 * 2, RescaleSlope="0.5")))
    assert ct.hu.dtype == np.int16  # halves that are whole
    np.testing.assert_array_equal(ct.hu, hu // 2 * 2)


def test_compressed_slices(tmp_path):
    slices = series(phantom())
    for one, plane in zip(slices, phantom()):
        set_rle(one, (plane[None] + 1024).astype(np.uint16))
        assert read_frame(one, 0, "x").shape == (24, 20)
    np.testing.assert_array_equal(CTVolume.read(write(tmp_path / "ct", slices)).hu, phantom())


def test_enhanced_multi_frame(tmp_path):
    """PerFrameFunctionalGroupsSequence (5200,9230): PlanePositionSequence (0020,9113), frames in any order."""
    hu, order = phantom(), [3, 0, 1, 2, 4, 5, 11, 10, 9, 8, 7, 6]
    d = ct_slice(hu[0], AXIAL, 0)
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = EnhancedCTImageStorage
    position = [ct_slice(hu[0], AXIAL, k).ImagePositionPatient for k in order]
    d.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[item(PixelSpacing=d.PixelSpacing)],
            PlaneOrientationSequence=[item(ImageOrientationPatient=d.ImageOrientationPatient)],
            PixelValueTransformationSequence=[item(RescaleSlope="1", RescaleIntercept="-1024")],
        )
    ]
    d.PerFrameFunctionalGroupsSequence = [item(PlanePositionSequence=[item(ImagePositionPatient=p)]) for p in position]
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        delattr(d, keyword)
    d.NumberOfFrames = len(order)
    d.PixelData = (hu[order] + 1024).astype("<u2").tobytes()
    save(d, tmp_path / "ct.dcm")
    ct = CTVolume.read(tmp_path / "ct.dcm")
    np.testing.assert_array_equal(ct.hu, hu)
    np.testing.assert_allclose(ct.affine, AXIAL, atol=1e-6)
    assert any("CT volume" in line for line in describe_file(tmp_path / "ct.dcm"))


@pytest.mark.parametrize(
    ("slices", "words"),
    [
        (lambda: series(phantom())[:1], "1 slice"),
        (lambda: series(phantom(), Modality="MR"), "found: MR"),
        (lambda: series(phantom(), Modality="Nobody^At^All"), "found: unknown"),
        (lambda: series(phantom(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "found: localizer"),
        (lambda: [ct_slice(phantom()[5], AXIAL, 0) for _ in range(5)], "at one place"),
        (lambda: series(phantom(), RescaleIntercept="0", RescaleSlope="1"), ""),
    ],
)
def test_refusals(tmp_path, slices, words):
    made = slices()
    if not words:  # raw values without an offset: not HU
        made, words = series(phantom() + 1024, RescaleIntercept="0"), "not Hounsfield units"
    with pytest.raises(InputError) as caught:
        CTVolume.read(write(tmp_path / "ct", made))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Nobody" not in str(caught.value)


def test_a_damaged_slice_is_named(tmp_path):
    slices = series(phantom())
    slices[5].PixelData = slices[5].PixelData[:100]
    folder = write(tmp_path / "ct", slices)
    with pytest.raises(InputError, match=r"CT slice 55 is truncated"):
        CTVolume.read(folder)


def test_limits_are_said(tmp_path):
    coarse = AXIAL @ np.diag([1, 1, 3, 1.0])
    ct = CTVolume.read(write(tmp_path / "ct", series(phantom(), coarse)))
    assert noted(ct, "coarse", "7.5 mm")
    assert noted(ct, "small")


def test_air_and_couch_are_cropped_without_moving_a_coordinate():
    hu = np.full((60, 80, 80), -1000, np.int16)
    k, j, i = np.indices(hu.shape)
    hu[(abs(i - 40) < 18) & (abs(j - 45) < 14) & (k > 8)] = 30
    hu[:, 24:25, 10:70] = -100  # the couch: a thin shell
    affine = rigid(so3_exp([0.1, 0.2, 0.3]), [1, 2, 3]) @ np.diag([2.0, 2, 2, 1])
    ct = CTVolume.from_array(hu, affine)
    small = ct.without_air(margin=4)
    assert small.hu.size < 0.45 * ct.hu.size
    assert (small.hu == 30).sum() == (hu == 30).sum()
    centres = transform_points(small.affine, np.argwhere(small.hu == 30)[:, ::-1])
    expected = transform_points(affine, np.argwhere(hu == 30)[:, ::-1])
    np.testing.assert_allclose(centres, expected, atol=1e-9)
    hu[20:50, 40:56, 66:76] = 30  # an arm or the other leg is no couch
    assert (CTVolume.from_array(hu, affine).without_air(margin=4).hu == 30).sum() == (hu == 30).sum()
    air = CTVolume.from_array(np.full((9, 9, 9), -1000, np.int16), affine)
    assert air.without_air() is air


def test_region_of_interest():
    ct = CTVolume.from_array(phantom(), AXIAL)
    low, high = (AXIAL @ [4, 5, 2, 1])[:3], (AXIAL @ [9, 11, 6, 1])[:3]
    part = ct.region(low, high)
    np.testing.assert_array_equal(part.hu, phantom()[2:7, 5:12, 4:10])
    np.testing.assert_allclose((part.affine @ [0, 0, 0, 1])[:3], low)
    with pytest.raises(InputError, match="outside the CT"):
        ct.region([900, 900, 900], [950, 950, 950])
