"""imaging/ct.py, attenuation.py and nifti.py: any CT file gives the same physical volume, or one clear sentence."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.geometry.coordinates import transform_points
from DiffPoseSlicerLib.geometry.se3 import rigid, so3_exp
from DiffPoseSlicerLib.imaging.attenuation import MAX_HU, MU_WATER, hu_to_mu
from DiffPoseSlicerLib.imaging.ct import CTVolume
from DiffPoseSlicerLib.imaging.dicom_export import save as save_dicom
from DiffPoseSlicerLib.imaging.itk import read_image, set_affine


def phantom(shape=(14, 24, 20)) -> np.ndarray:
    """Nothing symmetric: air, a body, one bone off its middle."""
    hu = np.full(shape, -1000, np.int16)
    hu[2:-2, 3:-5, 4:-3] = 40
    hu[3:6, 5:9, 6:14] = 900
    hu[7:9, 10:12, 8:9] = 1500
    return hu


OBLIQUE = rigid(so3_exp([0.3, -0.2, 0.5]), [-33.25, 21.5, 400.125]) @ np.diag([0.7, 0.8, 2.5, 1])


def sampled(ct: CTVolume, points: np.ndarray) -> np.ndarray:
    """HU at the voxels nearest to points in RAS: what the file says is where."""
    index = np.rint(transform_points(np.linalg.inv(ct.affine), points)).astype(int)
    return ct.hu[index[:, 2], index[:, 1], index[:, 0]]


def voxel_centres(ct: CTVolume) -> np.ndarray:
    k, j, i = np.indices(ct.hu.shape).reshape(3, -1)
    return transform_points(ct.affine, np.stack([i, j, k], 1))


ORIENTATIONS = {
    "as it is": ([0, 1, 2], [1, 1, 1]),
    "flipped": ([0, 1, 2], [-1, 1, -1]),
    "sagittal": ([1, 2, 0], [1, -1, 1]),
    "turned": ([2, 0, 1], [-1, -1, 1]),
}


def reoriented(ct: CTVolume, order: list[int], signs: list[int]) -> CTVolume:
    """The same physical volume with its axes permuted and reversed. order, signs: along i, j, k."""
    hu = ct.hu.transpose([2 - order[2 - axis] for axis in range(3)])
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for new, (old, sign) in enumerate(zip(order, signs)):
        matrix[old, new] = sign
        if sign < 0:
            hu = np.flip(hu, 2 - new)
            matrix[old, 3] = ct.hu.shape[2 - old] - 1
    return CTVolume.from_array(hu, ct.affine @ matrix)


def write_dicom(folder: Path, ct: CTVolume, slope: float = 1.0, intercept: float = -1024.0) -> None:
    """One axial slice a file, by pydicom, straight from PS3.3 C.7.6.2 and with no ITK in between."""
    folder.mkdir(exist_ok=True)
    lps = np.diag([-1.0, -1, 1, 1]) @ ct.affine
    across, down = (lps[:3, n] / np.linalg.norm(lps[:3, n]) for n in (0, 1))
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for k in range(len(ct.hu)):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        d.SOPClassUID, d.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        d.SeriesInstanceUID, d.StudyInstanceUID, d.FrameOfReferenceUID = series, study, frame
        d.Modality, d.InstanceNumber = "CT", k + 1
        d.PatientName, d.PatientID = "Nobody^At^All", "secret"
        d.ImagePositionPatient = [f"{x:.6f}" for x in (lps @ [0, 0, k, 1])[:3]]
        d.ImageOrientationPatient = [f"{x:.10f}" for x in (*across, *down)]
        d.PixelSpacing = [ct.spacing[1], ct.spacing[0]]
        d.SliceThickness = ct.spacing[2]
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
        d.RescaleSlope, d.RescaleIntercept, d.RescaleType = slope, intercept, "HU"
        d.Rows, d.Columns = ct.hu.shape[1:]
        d.PixelData = ((ct.hu[k] - intercept) / slope).astype("<u2").tobytes()
        # Names that sort in another order than the slices lie.
        save_dicom(d, folder / f"{(k * 11) % 97:03d}.dcm")


@pytest.mark.parametrize("form", [".nii.gz", ".nii", ".nrrd", ".mha", "dicom"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_format_and_orientation_is_the_same_physical_volume(tmp_path, form, orientation):
    original = CTVolume.from_array(phantom(), OBLIQUE)
    turned = reoriented(original, *ORIENTATIONS[orientation])
    path = tmp_path / f"ct{form}"
    if form == "dicom":
        write_dicom(path, turned)
    else:
        turned.write(path)
    read = CTVolume.read(path)
    points = voxel_centres(original)
    np.testing.assert_array_equal(sampled(read, points), original.hu.ravel())
    np.testing.assert_allclose(read.center, original.center, atol=2e-4)
    if form != "dicom":
        np.testing.assert_allclose(read.affine, turned.affine, atol=2e-5)


def test_formats_written_by_itk_agree(tmp_path):
    image = sitk.GetImageFromArray(phantom())
    set_affine(image, OBLIQUE)
    for name in ("a.nii.gz", "a.nrrd", "a.mha"):
        sitk.WriteImage(image, str(tmp_path / name))
        read = CTVolume.read(tmp_path / name)
        np.testing.assert_allclose(read.affine, OBLIQUE, atol=1e-4)
        np.testing.assert_array_equal(read.hu, phantom())


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_sheared_affines_are_kept(tmp_path, ending):
    shear = np.eye(4)
    shear[1, 2] = 0.4  # a tilted gantry's
    ct = CTVolume.from_array(phantom(), OBLIQUE @ shear)
    ct.write(tmp_path / f"tilted{ending}")
    np.testing.assert_allclose(CTVolume.read(tmp_path / f"tilted{ending}").affine, ct.affine, atol=2e-5)


def nifti_header(path: Path, **fields: tuple[int, str, tuple]) -> None:
    """Change fields (offset, struct code, values) of an uncompressed NIfTI file."""
    data = bytearray(path.read_bytes())
    for offset, code, values in fields.values():
        struct.pack_into("<" + code, data, offset, *values)
    path.write_bytes(bytes(data))


def test_nifti_qform_units_scaling_and_byte_order(tmp_path):
    path = tmp_path / "ct.nii"
    image = sitk.GetImageFromArray(phantom())
    set_affine(image, OBLIQUE)
    sitk.WriteImage(image, str(path))
    nifti_header(path, sform=(254, "h", (0,)))
    np.testing.assert_allclose(CTVolume.read(path).affine, OBLIQUE, atol=1e-4)  # from the quaternion
    nifti_header(path, units=(123, "b", (1,)))
    np.testing.assert_allclose(CTVolume.read(path).affine[:3], 1000 * OBLIQUE[:3], rtol=1e-5)  # metres
    nifti_header(path, units=(123, "b", (2,)), scale=(112, "2f", (2.0, 10.0)))
    np.testing.assert_array_equal(CTVolume.read(path).hu, np.maximum(2 * phantom().astype(int) + 10, -1000))
    nifti_header(path, scale=(112, "2f", (0.0, 0.0)), codes=(252, "2h", (0, 0)))
    plain = CTVolume.read(path)
    np.testing.assert_allclose(plain.affine, np.diag([0.7, 0.8, 2.5, 1]), atol=1e-6)
    assert "no orientation" in plain.notes[0]
    big = bytearray(path.read_bytes())
    for start, stop, width in ((0, 4, 4), (40, 56, 2), (70, 74, 2), (76, 120, 4), (252, 256, 2), (256, 328, 4)):
        for at in range(start, stop, width):
            big[at : at + width] = big[at : at + width][::-1]
    big[352:] = np.frombuffer(bytes(big[352:]), "<i2").astype(">i2").tobytes()
    path.write_bytes(bytes(big))
    np.testing.assert_array_equal(CTVolume.read(path).hu, phantom())


# ---- What the volume offers --------------------------------------------------------------------------------------


def test_curve():
    mu = hu_to_mu(np.array([-3024, -2048, -1000, -500, 0, 1000, 3071, 20000], np.int16)) / MU_WATER
    np.testing.assert_allclose(mu, [0, 0, 0, 0.5, 1, 2, 4.071, 4.071], atol=1e-6)
    np.testing.assert_allclose(hu_to_mu(np.array([0.0, 150, 1150]), 1.4) / MU_WATER, [1, 1.15, 2.15 + 0.4], rtol=1e-6)
    every = np.arange(-3100, 32000, dtype=np.int16)
    many = np.resize(every, 70000)  # large int16 arrays go through a table
    np.testing.assert_array_equal(hu_to_mu(many, 1.3), hu_to_mu(many.astype(np.float32), 1.3))
    assert MAX_HU == 3071


def test_padding_is_air_and_whole_numbers_stay_small():
    hu = phantom().astype(float)
    hu[0] = -2048
    hu[1] = -3024
    ct = CTVolume.from_array(hu, np.eye(4))
    assert ct.hu.dtype == np.int16
    assert ct.hu[:2].max() == ct.hu.min() == -1000
    assert CTVolume.from_array(hu + 0.25, np.eye(4)).hu.dtype == np.float32
    assert CTVolume.from_array(hu.astype(np.int64) + 100000, np.eye(4)).hu.max() == 32767


def test_levels_keep_place_and_total_attenuation():
    ct = CTVolume.from_array(phantom((13, 23, 19)), OBLIQUE)
    total = ct.attenuation().sum(dtype=float) * abs(np.linalg.det(ct.affine[:3, :3]))
    for spacing in (0, 1.5, 2.5, 5):
        grid = ct.level(spacing)
        assert grid is ct.level(spacing)
        assert grid.mu.dtype == np.float32
        assert grid.mu.flags.c_contiguous
        assert grid.mu.sum(dtype=float) * abs(np.linalg.det(grid.affine[:3, :3])) == pytest.approx(total, rel=1e-5)
        for face in (grid.mu[0], grid.mu[-1], grid.mu[:, 0], grid.mu[:, -1], grid.mu[:, :, 0], grid.mu[:, :, -1]):
            assert not face.any()
        np.testing.assert_allclose(grid.ras_to_index @ grid.affine, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(ct.level(2.1).spacing, [2.1, 2.4, 2.5])
    np.testing.assert_array_equal(ct.level().mu[1:-1, 1:-1, 1:-1], ct.attenuation())
    np.testing.assert_allclose(transform_points(ct.level().affine, [1, 1, 1]), ct.affine[:3, 3])


def test_levels_shift_nothing():
    """The blocks of a ramp hold the ramp's value at their own centres."""
    k, j, i = np.indices((12, 18, 24))
    ct = CTVolume.from_array((10 * i - 7 * j + 5 * k).astype(np.int16), OBLIQUE)
    for spacing in (0, 1.5, 2.5, 5):
        grid = ct.level(spacing)
        inner = tuple(slice(1, -2) for _ in range(3))
        kk, jj, ii = (axis[inner].ravel() for axis in np.indices(grid.mu.shape))
        index = transform_points(np.linalg.inv(ct.affine) @ grid.affine, np.stack([ii, jj, kk], 1))
        hu = index @ [10, -7, 5]
        np.testing.assert_allclose(grid.mu[inner].ravel(), MU_WATER * (1 + hu / 1000), rtol=1e-5)


def test_cut_faces():
    assert CTVolume.from_array(phantom(), np.eye(4)).level().cut_faces == (False,) * 6
    cut = CTVolume.from_array(phantom()[3:, :, 5:], np.eye(4))
    assert cut.level().cut_faces == (True, False, False, False, True, False)
    couch = np.full((30, 30, 30), -1000, np.int16)
    couch[0, 2:4, 2:12] = 100  # a rail of the couch, no anatomy
    assert CTVolume.from_array(couch, np.eye(4)).level().cut_faces == (False,) * 6


def test_cropping_moves_no_coordinate():
    ct = CTVolume.from_array(phantom(), OBLIQUE)
    for mm in (2.0, (0.7, 1.4, 0.8, 0, 2.5, 5)):
        part = ct.cropped(mm)
        np.testing.assert_array_equal(sampled(ct, voxel_centres(part)), part.hu.ravel())
        np.testing.assert_allclose(part.affine[:3, :3], ct.affine[:3, :3])
    assert part.hu.shape == (14 - 3, 24 - 1, 20 - 3)
    assert ct.cropped(0).fingerprint == ct.fingerprint
    with pytest.raises(InputError, match="leaves nothing"):
        ct.cropped(100)


def test_fingerprint_knows_voxels_and_place():
    ct = CTVolume.from_array(phantom(), OBLIQUE)
    same = CTVolume.from_array(phantom().astype(float), OBLIQUE.copy())
    moved, changed = OBLIQUE.copy(), phantom()
    moved[0, 3] += 1e-9
    changed[5, 5, 5] += 1
    assert ct.fingerprint == same.fingerprint
    assert len({ct.fingerprint, CTVolume.from_array(phantom(), moved).fingerprint,
                CTVolume.from_array(changed, OBLIQUE).fingerprint}) == 3  # fmt: skip


def test_masked_background_is_air(shared_data):
    ct = CTVolume.read(shared_data / "pelvis_bones_1mm.mha")
    assert (ct.hu == -1000).mean() > 0.5
    assert "taken as air" in ct.notes[0]


# ---- Refusals: one clear line ------------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        CTVolume.read(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path.parent) not in text
    assert len(text) < 300
    return text


def test_missing_empty_and_foreign_files(tmp_path, capfd):
    assert "does not exist" in refusal(tmp_path / "no.nii.gz")
    (tmp_path / "empty").mkdir()
    assert "no DICOM" in refusal(tmp_path / "empty")
    for name in ("text.nii", "text.nii.gz", "text.nrrd", "text.mha", "text.txt", "text"):
        (tmp_path / name).write_text("This is no image at all. " * 40)
        assert name in refusal(tmp_path / name)
        (tmp_path / name).write_bytes(b"")
        assert name in refusal(tmp_path / name)
    assert capfd.readouterr().err == ""  # ITK's C++ warnings are kept from the user


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.98])
def test_truncated_files(tmp_path, capfd, ending, part):
    path = tmp_path / f"ct{ending}"
    rng = np.random.default_rng(0)
    CTVolume.from_array(phantom() + rng.integers(0, 9, phantom().shape), OBLIQUE).write(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    refusal(path)
    assert capfd.readouterr().err == ""


def test_header_that_announces_too_much_takes_no_memory(tmp_path):
    path = tmp_path / "ct.nii"
    CTVolume.from_array(phantom(), OBLIQUE).write(path)
    nifti_header(path, dim=(40, "4h", (3, 30000, 30000, 30000)))
    assert "27000000000000" in refusal(path)
    nifti_header(path, dim=(40, "4h", (3, 1000, 1000, 1000)))
    assert "truncated" in refusal(path)
    with gzip.open(tmp_path / "ct.nii.gz", "wb") as file:
        file.write(path.read_bytes())
    assert "truncated" in refusal(tmp_path / "ct.nii.gz")


def test_wrong_dimensions(tmp_path):
    for name in ("flat.nrrd", "flat.nii"):
        sitk.WriteImage(sitk.GetImageFromArray(phantom()[0]), str(tmp_path / name))
        assert "volume" in refusal(tmp_path / name)
    colours = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)
    sitk.WriteImage(colours, str(tmp_path / "colour.nrrd"))
    assert "one value a voxel" in refusal(tmp_path / "colour.nrrd")
    with pytest.raises(InputError, match=r"shape \(24, 20\)"):
        CTVolume.from_array(phantom()[0], np.eye(4))


def test_impossible_voxel_sizes():
    for size in (1e-9, 1e6):
        with pytest.raises(InputError, match="cannot be"):
            CTVolume.from_array(phantom(), np.diag([1, size, 1, 1]))


def test_affines_without_inverse(tmp_path):
    for bad in (np.zeros((4, 4)), np.diag([1.0, 1, 0, 1]), np.full((4, 4), np.nan), np.eye(3), np.ones((4, 4))):
        with pytest.raises(InputError, match="affine"):
            CTVolume.from_array(phantom(), bad)
    path = tmp_path / "ct.nii"
    CTVolume.from_array(phantom(), OBLIQUE).write(path)
    nifti_header(path, rows=(280, "12f", (1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0)))
    assert "without an inverse" in refusal(path)


def test_voxels_that_are_not_finite_are_named(tmp_path):
    hu = phantom().astype(np.float32)
    hu[3, 4, 5] = np.nan
    hu[6, 7, 8] = np.inf
    with pytest.raises(InputError, match="2 voxels that are not finite, the first at i=5, j=4, k=3"):
        CTVolume.from_array(hu, np.eye(4))
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "nan.nrrd"))
    assert "i=5, j=4, k=3" in refusal(tmp_path / "nan.nrrd")


def test_values_that_are_no_hounsfield_units(tmp_path):
    for hu, words in (
        (phantom().astype(np.int32) + 1024, "offset of 1024"),
        ((phantom() > 0).astype(np.uint8), "label map"),
        (abs(phantom()), "another modality"),
    ):
        sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "other.nrrd"))
        text = refusal(tmp_path / "other.nrrd")
        assert words in text
        assert str(int(hu.max())) in text


def test_writing_elsewhere_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"ct\.png"):
        CTVolume.from_array(phantom(), np.eye(4)).write(tmp_path / "ct.png")
    with pytest.raises(InputError):
        read_image(tmp_path / "missing.mha", "CT")
