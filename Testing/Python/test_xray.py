"""imaging/xray.py and what it stands on: files, orientation, intensity, masks, resampling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.geometry.carm import CArm
from DiffPoseSlicerLib.imaging import orientation
from DiffPoseSlicerLib.imaging.intensity import decide, to_attenuation
from DiffPoseSlicerLib.imaging.masking import basic_mask, collimated_borders, find_aperture
from DiffPoseSlicerLib.imaging.orientation_trial import try_orientations
from DiffPoseSlicerLib.imaging.resampling import resample
from DiffPoseSlicerLib.imaging.xray import XrayImage

ROWS, COLUMNS = 60, 80
CARM = CArm(1000.0, (ROWS, COLUMNS), (0.5, 0.8), (33.0, 40.0))


def line_integrals(rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """A body with one bone, air beside it; nothing symmetric."""
    v, u = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : columns * 1j]
    body = 3.0 * np.sqrt(np.clip(1 - ((u - 0.45) / 0.4) ** 2 - ((v - 0.55) / 0.6) ** 2, 0, None))
    bone = 1.0 * np.exp(-((u - 0.35) ** 2) / 0.002) * (v > 0.2)
    return (body + bone * (body > 0)).astype(np.float32)


def counts(image: np.ndarray, white: float = 60000) -> np.ndarray:
    return np.rint(white * np.exp(-image)).astype(np.uint16)


def write(path: Path, pixels: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(pixels), str(path))


@pytest.mark.parametrize("ending", [".png", ".tif", ".tiff", ".nii", ".nii.gz", ".nrrd", ".mha", ".npy"])
def test_formats_give_the_same_attenuation(tmp_path, ending):
    image = line_integrals()
    write(tmp_path / f"x{ending}", counts(image))
    xray = XrayImage.read(tmp_path / f"x{ending}", CArm.from_json({**CARM.to_json(), "intensity": "transmission"}))
    assert xray.pixels.dtype == np.float32
    difference = xray.pixels - image
    np.testing.assert_allclose(difference - difference.mean(), 0, atol=1e-3)  # up to the choice of I0
    assert "Treated as transmission because the C-arm file says so." in xray.notes
    assert xray.name == f"x{ending}"
    np.testing.assert_allclose(xray.stored, counts(image), rtol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_orientation_against_hand_worked_corners(mirrored, rotation):
    """The camera's image mirrored left to right, then turned counter-clockwise, is the stored one."""
    camera = np.zeros((3, 4))
    camera[0, 0], camera[0, 3], camera[2, 3], camera[2, 0] = 1, 2, 3, 4  # clockwise from the top left
    clockwise = [2, 1, 4, 3] if mirrored else [1, 2, 3, 4]
    quarter = rotation // 90
    expected = (
        clockwise[quarter:] + clockwise[:quarter]
    )  # turned counter-clockwise, the top right comes to the top left
    carm = CArm(1000, (3, 4), (0.5, 0.8), mirrored=mirrored, rotation=rotation)
    stored = orientation.to_stored(camera, carm)
    assert stored.shape == orientation.stored_size(carm) == ((4, 3) if quarter % 2 else (3, 4))
    assert [stored[0, 0], stored[0, -1], stored[-1, -1], stored[-1, 0]] == expected
    np.testing.assert_array_equal(orientation.to_camera(stored, carm), camera)
    for point in ((3, 1), (0, 2), (2.25, 0.5)):
        there = orientation.stored_point(point, carm)
        assert orientation.camera_point(there, carm) == pytest.approx(point)
        if point == (3, 1):
            marked = np.zeros((3, 4))
            marked[1, 3] = 1
            assert orientation.to_stored(marked, carm)[int(there[1]), int(there[0])] == 1
    assert orientation.stored_spacing(carm) == ((0.8, 0.5) if quarter % 2 else (0.5, 0.8))


def test_stored_orientation_is_undone_on_reading():
    image = line_integrals()
    carm = CArm.from_json({**CARM.to_json(), "mirrored": True, "rotation": 90, "intensity": "attenuation"})
    xray = XrayImage.from_array(np.rot90(image[:, ::-1], 1), carm)
    np.testing.assert_array_equal(xray.pixels, image)
    np.testing.assert_array_equal(xray.stored, np.rot90(image[:, ::-1], 1))
    with pytest.raises(InputError, match=r"60 x 80 .* \[60, 80\] \(turned by 90 degrees\)"):
        XrayImage.from_array(image, carm)


def test_trying_another_orientation_keeps_geometry_with_its_pixels():
    carm = CArm.from_json({**CARM.to_json(), "mirrored": True, "rotation": 90, "intensity": "attenuation"})
    xray = XrayImage.from_array(np.rot90(line_integrals()[:, ::-1], 1), carm)
    for mirrored in (False, True):
        for rotation in (0, 90, 180, 270):
            other = xray.reoriented(mirrored, rotation)
            np.testing.assert_array_equal(other.stored, xray.stored)
            same = orientation.stored_point(other.carm.principal_point, other.carm)
            assert same == pytest.approx(orientation.stored_point(carm.principal_point, carm))
            assert orientation.stored_spacing(other.carm) == orientation.stored_spacing(carm)
            assert other.pixels.shape == other.carm.image_size
    np.testing.assert_array_equal(xray.reoriented(True, 90).pixels, xray.pixels)
    np.testing.assert_array_equal(xray.reoriented(False, 90).pixels, xray.pixels[:, ::-1])


@pytest.mark.parametrize("wrong", [(False, 0), (True, 0), (True, 180), (False, 90), (True, 270)])
def test_a_wrong_orientation_is_recognised_by_trying_and_said(wrong):
    image = line_integrals()
    image[:20] *= 0.2
    right = XrayImage.from_array(image, CARM, "attenuation")

    def similarity(image: XrayImage) -> float:
        if image.pixels.shape != right.pixels.shape:
            return 0.0
        return float(np.corrcoef(image.pixels.ravel(), right.pixels.ravel())[0, 1])

    trial = try_orientations(right.reoriented(*wrong), similarity)
    np.testing.assert_array_equal(trial.xray.pixels, right.pixels)
    assert len(trial.scores) == 8
    assert bool(trial.note) == (wrong != (False, 0))
    assert ("mirrored left to right" in trial.note) == wrong[0]
    assert ("turned by" in trial.note) == (wrong[1] != 0)
    if trial.note:
        assert "register it as plain (mirrored false, rotation 0)" in trial.note
        assert trial.xray.carm == right.carm
    quick = try_orientations(right.reoriented(*wrong), similarity, glance=similarity, stated=0.0)
    assert len(quick.scores) == 3  # the stated way and the two that look best
    assert bool(quick.note) == (wrong != (False, 0))


def test_intensity_is_decided_and_explained():
    image = line_integrals(120, 160)
    carm = CArm(1000, image.shape, (1, 1))
    for pixels, expected in (
        (image, "attenuation"),
        (np.exp(-image), "transmission"),
        (counts(image), "transmission"),
        (counts(image).astype(np.uint8), "transmission"),
    ):
        if pixels.dtype == np.uint8:
            pixels = np.rint(255 * np.exp(-image)).astype(np.uint8)
        assert decide(pixels)[0] == expected
        xray = XrayImage.from_array(pixels, carm)
        assert xray.carm.intensity == expected
        assert xray.notes[0].startswith(f"Treated as {expected} because")
        difference = xray.pixels - image
        assert abs(difference - np.median(difference)).max() < 0.1  # bone bright either way
    # What is stated wins over what it looks like.
    assert XrayImage.from_array(np.exp(-image), carm, "attenuation").carm.intensity == "attenuation"


def test_nothing_comes_through_where_a_counter_reads_zero():
    stored = counts(line_integrals())
    stored[0:3, 0:3] = 0
    pixels, conversion = to_attenuation(stored, "transmission")
    assert np.isfinite(pixels).all()
    assert pixels[0, 0] == pytest.approx(np.log(conversion.white / 0.5), abs=1e-3)


def test_transmission_around_zero_is_shifted():
    stored = np.exp(-line_integrals()) - 5
    pixels, conversion = to_attenuation(stored, "transmission")
    assert np.isfinite(pixels).all()
    assert pixels.min() == pytest.approx(0, abs=1e-6)
    assert "shifted" in conversion.note


def test_collimator_is_masked_and_air_is_not():
    stored = counts(line_integrals(100, 120) + 0.5, 10000).astype(np.int32)
    assert basic_mask(stored)[0] is None
    covered = stored.copy()
    covered[:12], covered[-7:], covered[:, :9] = 20, 20, 20
    mask, notes, aperture = basic_mask(covered)
    assert mask is not None
    assert aperture is not None
    assert not mask[:12].any()
    assert not mask[-7:].any()
    assert not mask[:, :9].any()
    assert mask[16:-11, 13:-4].all()
    assert "lit rectangle" in notes[0]


def test_bright_shutters_are_straight_sharp_and_flat():
    image = line_integrals(100, 120)
    image[:10] = 9
    image[:, -14:] = 9
    assert collimated_borders(image) == (11, 0, 0, 15)
    assert collimated_borders(line_integrals(100, 120)) == (0, 0, 0, 0)


def test_round_field_is_found():
    stored = counts(line_integrals(200, 220))
    v, u = np.mgrid[:200, :220]
    outside = np.hypot(u - 112, v - 98) > 95
    stored[outside] = 3
    aperture = find_aperture(stored)
    assert aperture is not None
    assert aperture.circle == pytest.approx((112, 98, 95), abs=1.0)
    xray = XrayImage.from_array(stored, CArm(1000, (200, 220), (1, 1)))
    assert xray.mask is not None
    assert not xray.mask[outside].any()
    assert xray.mask[~outside].mean() > 0.9
    assert any("distortion was not corrected" in note for note in xray.notes)


def test_real_round_fields(shared_data):
    file = shared_data / "wrist_biplane" / "frame0002" / "xray_cam1.tiff"
    xray = XrayImage.read(file, CArm.read(file.with_name("carm_cam1.json")))
    assert xray.mask is not None
    assert 0.5 < xray.mask.mean() < 0.8
    assert not xray.mask[:20, :20].any()


def test_saturated_pixels_do_not_count():
    stored = counts(line_integrals(), 65535 * 2.0)
    stored[counts(line_integrals() / 2) > 40000] = 65535
    mask, notes, _ = basic_mask(stored)
    assert mask is not None
    assert not mask[stored == 65535].any()
    assert "Saturated" in notes[-1]
    twelve = np.minimum(stored, 4095)
    assert basic_mask(twelve, bits=12)[0] is not None


@pytest.mark.parametrize("size", [(30, 40), (20, 20), (24, 33), (120, 160), (90, 100)])
def test_resizing_keeps_the_detector_and_the_mean(size):
    image = line_integrals()
    xray = XrayImage.from_array(image, CARM, "attenuation").resized(*size)
    assert xray.pixels.shape == xray.carm.image_size == size
    assert xray.pixels.mean() == pytest.approx(image.mean(), rel=0.02)
    if size == (30, 40):
        np.testing.assert_allclose(xray.pixels, image.reshape(30, 2, 40, 2).mean((1, 3)), atol=1e-6)
    # A linear ramp in detector coordinates stays that ramp: nothing shifts.
    ramp = CARM.detector_points()[:, :2].reshape(ROWS, COLUMNS, 2) @ [1.0, 3.0]
    small, _ = resample(ramp, *size)
    expected = xray.carm.detector_points()[:, :2].reshape(*size, 2) @ [1.0, 3.0]
    np.testing.assert_allclose(small[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-3)


def test_resizing_does_not_mix_in_masked_pixels():
    image = np.ones((40, 40), np.float32)
    mask = np.ones((40, 40), bool)
    image[:10], mask[:10] = 1000, False
    pixels, small = resample(image, 13, 13, mask)
    np.testing.assert_allclose(pixels[small], 1, atol=1e-4)
    assert not small[:3].any()
    assert small[4:].all()


# ---- Refusals ----------------------------------------------------------------------------------------------------


def refusal(path: Path, carm: CArm | None = CARM, **options) -> str:
    with pytest.raises(InputError) as caught:
        XrayImage.read(path, carm, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path.parent) not in text
    return text


def test_no_geometry_asks_for_exactly_that(tmp_path):
    np.save(tmp_path / "x.npy", line_integrals())
    text = refusal(tmp_path / "x.npy", None)
    for word in ("sourceToDetector", "imageSize", "pixelSpacing", "x.npy"):
        assert word in text


def test_missing_and_damaged_files(tmp_path, capfd):
    assert "does not exist" in refusal(tmp_path / "no.png")
    assert "folder" in refusal(tmp_path)
    for ending in (".png", ".tif", ".nii", ".nrrd", ".npy", ".mha", ".jpg"):
        path = tmp_path / f"x{ending}"
        path.write_bytes(b"no image " * 50)
        assert path.name in refusal(path)
        noise = np.random.default_rng(0).integers(0, 250, (ROWS, COLUMNS)).astype(np.uint8)
        write(path, noise)
        path.write_bytes(path.read_bytes()[:-1500])
        if ending not in (".jpg", ".tif", ".png"):  # decoders that fill up what is missing
            refusal(path)
    assert capfd.readouterr().err == ""


def test_no_pickle_is_ever_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)
    assert "damaged or not" in refusal(tmp_path / "x.npy")
    np.savez(tmp_path / "y.npz", a=line_integrals())
    (tmp_path / "y.npz").rename(tmp_path / "y.npy")
    assert "archive" in refusal(tmp_path / "y.npy")


def test_wrong_arrays():
    with pytest.raises(InputError, match="flat"):
        XrayImage.from_array(np.full((ROWS, COLUMNS), 7), CARM)
    bad = line_integrals()
    bad[2, 3] = np.nan
    with pytest.raises(InputError, match="1 pixels that are not finite, the first at column 3, row 2"):
        XrayImage.from_array(bad, CARM)
    for wrong in (np.zeros((3, ROWS, COLUMNS)), np.zeros((ROWS, COLUMNS), complex), np.zeros(5)):
        with pytest.raises(InputError, match="one number a pixel"):
            XrayImage.from_array(wrong, CARM)
    with pytest.raises(InputError, match=r"80 x 60 .*imageSize \[60, 80\]"):
        XrayImage.from_array(line_integrals().T, CARM)


def test_frames_are_chosen(tmp_path):
    frames = np.stack([line_integrals(), 2 * line_integrals()])
    np.save(tmp_path / "x.npy", frames)
    sitk.WriteImage(sitk.GetImageFromArray(frames), str(tmp_path / "x.nrrd"))
    for name in ("x.npy", "x.nrrd"):
        assert "2 frames: choose one, 0 to 1" in refusal(tmp_path / name)
        assert "no frame 2" in refusal(tmp_path / name, frame=2)
        xray = XrayImage.read(tmp_path / name, CArm.from_json({**CARM.to_json(), "intensity": "attenuation"}), frame=1)
        np.testing.assert_array_equal(xray.pixels, frames[1])
        assert "Frame 1 of 2" in xray.notes[0]


def test_colours_become_grey_and_are_mentioned(tmp_path):
    grey = np.rint(255 * np.exp(-line_integrals())).astype(np.uint8)
    rgb = np.repeat(grey[..., None], 3, -1)
    sitk.WriteImage(sitk.GetImageFromArray(rgb, isVector=True), str(tmp_path / "grey.png"))
    plain = XrayImage.read(tmp_path / "grey.png", CARM)
    assert not any("colours" in note for note in plain.notes)
    rgb[5:9, 5:30] = [255, 0, 0]
    sitk.WriteImage(sitk.GetImageFromArray(rgb, isVector=True), str(tmp_path / "colour.png"))
    assert any("burnt-in" in note for note in XrayImage.read(tmp_path / "colour.png", CARM).notes)
