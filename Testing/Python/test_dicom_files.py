"""imaging/dicom_*.py on whole files: compression, kinds of object, real recordings, and what `doctor` says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from dicom_writing import save, save_raw, set_rle, xray_dataset
from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.geometry.carm import CArm
from DiffPoseSlicerLib.imaging.carm_presets import preset_carm
from DiffPoseSlicerLib.imaging.carm_sources import read_carm
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.imaging.dicom import Lookup
from DiffPoseSlicerLib.imaging.dicom_pixels import read_frame
from DiffPoseSlicerLib.imaging.understanding import describe_file
from DiffPoseSlicerLib.imaging.xray import XrayImage
from test_dicom_xray import COLUMNS, ROWS, counts, line_integrals, needs_pydicom_3, noted, read, refusal

# ---- Compression and kinds of object -------------------------------------------------------------------------------


def through_itk(tmp_path: Path, pixels: np.ndarray, compression: str) -> bytes:
    """Compressed pixel data of one frame, by GDCM."""
    image = sitk.GetImageFromArray(pixels[None])
    path = tmp_path / "compressed.dcm"
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor(compression)
    writer.Execute(image)
    return path


@pytest.mark.parametrize(
    ("compressor", "syntax"), [("JPEG", "1.2.840.10008.1.2.4.70"), ("JPEG2000", "1.2.840.10008.1.2.4.90")]
)
def test_lossless_compression_is_read_exactly(tmp_path, compressor, syntax):
    """TransferSyntaxUID (0002,0010): JPEG Lossless SV1 is mandatory on cath-lab discs."""
    path = through_itk(tmp_path, counts(), compressor)
    dataset = pydicom.dcmread(path)
    if dataset.file_meta.TransferSyntaxUID != syntax:
        pytest.skip(f"this ITK writes {dataset.file_meta.TransferSyntaxUID.name}")
    np.testing.assert_array_equal(read_frame(dataset, 0, "x"), counts())


def test_run_length_multi_frame_is_read_frame_by_frame(tmp_path):
    frames = np.stack([counts(), counts(30000)])
    dataset = xray_dataset(frames)
    set_rle(dataset, frames)
    path = save(dataset, tmp_path / "run.dcm")
    for n in range(2):
        np.testing.assert_array_equal(read_frame(pydicom.dcmread(path), n, "x"), frames[n])


def test_big_endian_and_missing_header(tmp_path):
    dataset = xray_dataset(counts())
    expected = read(tmp_path).pixels
    big = xray_dataset(counts())
    big.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    big.PixelData = counts().astype(">u2").tobytes()
    save_raw(big, tmp_path / "big.dcm", implicit=False, little=False)
    np.testing.assert_array_equal(XrayImage.read(tmp_path / "big.dcm").pixels, expected)
    del dataset.file_meta
    save_raw(dataset, tmp_path / "bare.dcm", implicit=True, little=True)
    np.testing.assert_array_equal(XrayImage.read(tmp_path / "bare.dcm").pixels, expected)


def test_colours(tmp_path):
    """SamplesPerPixel (0028,0002) 3, both PlanarConfigurations (0028,0006)."""
    grey = np.rint(255 * np.exp(-line_integrals())).astype(np.uint8)
    rgb = np.repeat(grey[..., None], 3, -1)
    for planar, data in ((0, rgb), (1, np.moveaxis(rgb, -1, 0))):
        dataset = xray_dataset(grey, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=planar)
        dataset.PixelData = np.ascontiguousarray(data).tobytes()
        xray = XrayImage.read(save(dataset, tmp_path / "colour.dcm"))
        np.testing.assert_array_equal(xray.pixels, read(tmp_path, grey).pixels)


@pytest.mark.parametrize(("modality", "word"), [("CT", "a CT"), ("MR", "an MR"), ("RTSTRUCT", "structure set")])
def test_wrong_kinds(tmp_path, modality, word):
    assert word in refusal(tmp_path, Modality=modality)


def test_damaged_pixels(tmp_path):
    dataset = xray_dataset(counts())
    dataset.PixelData = dataset.PixelData[:-100]
    with pytest.raises(InputError, match="truncated"):
        XrayImage.read(save(dataset, tmp_path / "x.dcm"))
    dataset.PixelData = b""
    with pytest.raises(InputError, match="no pixel data"):
        XrayImage.read(save(dataset, tmp_path / "x.dcm"))
    assert "DICOM without an image" in refusal(tmp_path, Rows=None)
    assert "1 bits" in refusal(tmp_path, BitsAllocated=1)


def test_a_damaged_value_costs_no_more_than_itself():
    dataset = xray_dataset(counts())
    dataset._dict[pydicom.tag.Tag(0x0018, 0x1110)] = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag(0x0018, 0x1110), "DS", 4, b"\xff??x", 0, False, True
    )
    lookup = Lookup(dataset)
    assert lookup.number("DistanceSourceToDetector", 100, 5000) is None
    assert lookup.number("DistanceSourceToPatient", 100, 5000) == 700


# ---- Real files and what doctor says -------------------------------------------------------------------------------


def test_real_xa_run(shared_data):
    path = shared_data / "dicom2d" / "XA_rubo_96frames_angles.dcm"
    with pytest.raises(InputError, match="lacks sourceToDetector and pixelSpacing"):
        XrayImage.read(path)
    xray = XrayImage.read(f"{path}#40", preset_carm("fixed-20x20", (512, 512)))
    assert xray.pixels.shape == (512, 512)
    assert (xray.positioner.lao_rao, xray.positioner.cran_caud) == (-32, 2)
    assert xray.mask is not None
    assert 0.6 < xray.mask.mean() < 0.9
    assert noted(xray, "Only the round field")
    lines = describe_file(path)
    assert any(line.startswith("MISSING: sourceToDetector and pixelSpacing") for line in lines)
    assert any("RAO 32, CRA 2" in line for line in lines)
    assert not any("Rubo" in line for line in lines)


def test_real_radiograph(shared_data):
    xray = XrayImage.read(shared_data / "dicom2d" / "DX_dog_thorax_highdicom.dcm")
    assert xray.carm.source_to_detector == 1000
    np.testing.assert_allclose(xray.carm.pixel_spacing, (1.2, 1.2012), rtol=1e-4)
    assert xray.carm.intensity == "transmission"  # MONOCHROME1, sign +1


PYDICOM_FILES = ["693_J2KI.dcm", "JPEG-lossy.dcm", "JPGExtended.dcm", "JPEGLSNearLossless_16.dcm", "MR_small_RLE.dcm",
                 "image_dfl.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_rle_2frame.dcm", "examples_overlay.dcm"]  # fmt: skip


@needs_pydicom_3
@pytest.mark.parametrize("name", PYDICOM_FILES)
def test_pydicoms_own_files(name):
    """Every transfer syntax among pydicom's test files decodes, and like pydicom where pydicom can."""
    from pydicom.data import get_testdata_file

    try:
        path = get_testdata_file(name, download=False)
    except ValueError:
        path = None
    if path is None:
        pytest.skip(f"this pydicom does not bring {name}")
    dataset = pydicom.dcmread(path)
    frame = read_frame(dataset, 0, name)
    assert frame.shape[:2] == (dataset.Rows, dataset.Columns)
    assert frame.std() > 0
    try:
        reference = dataset.pixel_array
    except Exception:
        return  # pydicom has no decoder for it here: that is why GDCM is asked first
    np.testing.assert_array_equal(frame, reference[0] if reference.ndim > frame.ndim else reference)


def test_doctor_says_where_each_number_comes_from(tmp_path):
    path = save(xray_dataset(counts()), tmp_path / "x.dcm")
    lines = describe_file(path)
    assert "source to detector: 1000 mm [DistanceSourceToDetector (0018,1110)]" in lines
    angles = "PositionerPrimaryAngle (0018,1510) and PositionerSecondaryAngle (0018,1511)"
    assert f"beam: LAO 0, CRA 0, head first, supine [{angles}]" in lines
    assert not any("MISSING" in line for line in lines)
    lines = describe_file(path, CArm(1234, (ROWS, COLUMNS), (1, 1)))
    assert "source to detector: 1234 mm [C-arm file]" in lines
    path = save(xray_dataset(counts(), PositionerPrimaryAngle=None), tmp_path / "x.dcm")
    assert any("give the view" in line for line in describe_file(path))
    np.save(tmp_path / "x.npy", line_integrals())
    assert any(line.startswith("MISSING") for line in describe_file(tmp_path / "x.npy"))
    assert any("C-arm file" in line for line in describe_file(tmp_path / "x.npy", CArm(1000, (ROWS, COLUMNS), (1, 1))))
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(InputError):
        describe_file(tmp_path / "text.txt")


@pytest.mark.parametrize(
    ("removed", "missing"),
    [
        ({"DistanceSourceToDetector": None}, "sourceToDetector"),
        ({"ImagerPixelSpacing": None}, "pixelSpacing"),
        ({"ImagerPixelSpacing": ["0.000", "0.000"]}, "pixelSpacing"),
        ({"ImagerPixelSpacing": None, "DistanceSourceToDetector": "0"}, "sourceToDetector and pixelSpacing"),
    ],
)
def test_register_asks_for_exactly_what_doctor_calls_missing(tmp_path, capsys, removed, missing):
    from DiffPoseSlicerLib.cli import main as cli

    path = save(xray_dataset(counts(), **removed), tmp_path / "x.dcm")
    assert cli.main(["doctor", str(path)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("MISSING")]
    asked = line.removeprefix("MISSING: ")
    assert asked.startswith(f"{missing}: give")
    # The CT is not even looked at before.
    assert cli.main(["register", "none.nii.gz", str(path), "-o", str(tmp_path / "r.json")]) == 2
    assert capsys.readouterr().err.startswith(f"Error: The X-ray x.dcm lacks {asked}.")


def test_register_asks_for_a_plain_images_geometry_and_for_angles_in_doctors_words(tmp_path, capsys):
    from DiffPoseSlicerLib.cli import main as cli

    np.save(tmp_path / "x.npy", line_integrals())
    silent = save(xray_dataset(counts(), PositionerPrimaryAngle=None), tmp_path / "x.dcm")
    CTVolume.from_array(
        np.pad(np.full((7, 7, 7), 40, np.int16), 1, constant_values=-1000), np.diag([20.0, 20, 20, 1])
    ).write(tmp_path / "ct.nii.gz")
    for path, options, verb in (
        (tmp_path / "x.npy", [], "carries no geometry: "),
        (silent, ["--start", "dicom"], "lacks "),
    ):
        assert cli.main(["doctor", str(path)]) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("MISSING")]
        asked = line.partition(": ")[2]
        command = ["register", str(tmp_path / "ct.nii.gz"), str(path), *options, "-o", str(tmp_path / "r.json")]
        assert cli.main(command) == 2
        assert f"{verb}{asked}" in capsys.readouterr().err


@pytest.mark.parametrize("turn", [0, 90])
def test_a_carm_file_may_hold_only_what_the_dicom_file_lacks(tmp_path, turn):
    """The rest stays the file's: DistanceSourceToPatient, FieldOfViewRotation, PositionOfIsocenterProjection."""
    tags = {
        "FieldOfViewRotation": turn, "FieldOfViewHorizontalFlip": "NO", "FieldOfViewOrigin": ["0", "0"],
        "PositionOfIsocenterProjection": [20.0, 30.0],
    }  # fmt: skip
    spacing = ["0.5", "0.4"] if turn == 0 else ["0.4", "0.5"]
    whole = read(tmp_path, ImagerPixelSpacing=spacing, **tags).carm
    lacking = {"DistanceSourceToDetector": None, "ImagerPixelSpacing": None}
    path = save(xray_dataset(counts(), **tags, **lacking), tmp_path / "x.dcm")
    (tmp_path / "carm.json").write_text('{"sourceToDetector": 1000, "pixelSpacing": [0.5, 0.4]}')
    xray = XrayImage.read(path, read_carm(tmp_path / "carm.json", path))
    assert xray.carm.source_to_isocenter == whole.source_to_isocenter == 700
    assert xray.carm.pixel_spacing == whole.pixel_spacing == (0.5, 0.4)
    assert xray.carm.principal_point == pytest.approx(whole.principal_point)
    assert (xray.carm.mirrored, xray.carm.rotation) == (whole.mirrored, whole.rotation)
    (tmp_path / "carm.json").write_text('{"pixelSpacing": [0.5, 0.4]}')
    with pytest.raises(InputError, match="lacks sourceToDetector: give it"):
        read_carm(tmp_path / "carm.json", path)
    np.save(tmp_path / "x.npy", line_integrals())
    with pytest.raises(InputError, match="imageSize"):
        read_carm(tmp_path / "carm.json", tmp_path / "x.npy")
