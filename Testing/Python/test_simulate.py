"""Fluoroscopies simulated by our renderer, and the pictures that show how a pose fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from DiffPoseSlicerLib import CArm, Pose, XrayImage, render
from DiffPoseSlicerLib.errors import Cancelled, InputError
from DiffPoseSlicerLib.evaluation.images import write_pixels
from DiffPoseSlicerLib.evaluation.overlay import EDGE_COLOUR, edges, overlay_image
from DiffPoseSlicerLib.evaluation.simulate import simulate, write_simulated
from DiffPoseSlicerLib.evaluation.stress import Exposure
from DiffPoseSlicerLib.geometry.pose import read_poses, view_rotation

CARM = CArm(1020.0, (48, 40), (6.0, 6.5), principal_point=(17.0, 26.0), intensity="transmission")
CLEAR = Exposure(photons=1e9, scatter=0.0)


def correlation(a, b) -> float:
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


@pytest.mark.parametrize("intensity", ["transmission", "attenuation", None])
@pytest.mark.parametrize(("mirrored", "rotation"), [(False, 0), (True, 90), (False, 270)])
def test_what_is_written_is_read_as_the_camera_saw_it(small_ct, tmp_path, intensity, mirrored, rotation):
    carm = replace(CARM, intensity=intensity, mirrored=mirrored, rotation=rotation)
    images = simulate(small_ct, carm, "PA", n=1, seed=3, exposure=CLEAR)
    (path,) = write_simulated(images, tmp_path, ".png")
    xray = XrayImage.read(path, CArm.read(tmp_path / "carm.json"))
    seen = render(small_ct, CARM, Pose.read(tmp_path / "truth_000.json"))
    assert xray.pixels.shape == CARM.image_size
    assert correlation(xray.pixels, seen) > 0.99
    for turned in (seen[::-1], seen[:, ::-1], seen[::-1, ::-1]):
        assert correlation(xray.pixels, turned) < 0.95


@pytest.mark.parametrize("intensity", ["transmission", "attenuation"])
@pytest.mark.parametrize(("mirrored", "rotation"), [(False, 0), (True, 90)])
def test_dicom_carries_its_geometry(small_ct, tmp_path, intensity, mirrored, rotation):
    carm = replace(CARM, intensity=intensity, mirrored=mirrored, rotation=rotation)
    (path,) = write_simulated(simulate(small_ct, carm, "PA", lao_rao=20, n=1, seed=3, exposure=CLEAR), tmp_path)
    seen = render(small_ct, CARM, Pose.read(tmp_path / "truth_000.json"))
    for given in (None, CArm.read(tmp_path / "carm.json")):
        xray = XrayImage.read(path, given)
        assert correlation(xray.pixels, seen) > 0.99
        np.testing.assert_allclose(xray.carm.intrinsics, CARM.intrinsics, rtol=1e-6)
    assert xray.positioner is not None and xray.positioner.lao_rao == pytest.approx(20)  # the view's, not the truth's


def test_poses_fill_their_box_and_no_more(small_ct):
    rotation, translation, center = (10, 0, 30), (5, 60, 0), small_ct.center + 7
    carm = CArm(1020.0, (6, 6), (50, 50))
    images = simulate(
        small_ct, carm, "LEFT_LATERAL", lao_rao=5, rotation=rotation, translation=translation, center=center, n=200
    )
    nominal = view_rotation("LEFT_LATERAL", lao_rao=5)
    offsets = np.array([image.truth.offset_from(nominal, center, carm) for image in images])
    limits = np.array([*np.deg2rad(rotation), *translation])
    assert (np.abs(offsets) <= limits + 1e-9).all()
    assert (np.abs(offsets).max(0) >= 0.95 * limits).all() and (offsets.min(0) <= -0.95 * limits).all()


def test_a_seed_gives_the_same_images_whatever_their_number(small_ct):
    three = [image.stored for image in simulate(small_ct, CARM, n=3, seed=5)]
    two = [image.stored for image in simulate(small_ct, CARM, n=2, seed=5)]
    other = next(simulate(small_ct, CARM, n=1, seed=6)).stored
    for a, b in zip(two, three[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    assert (three[0] != three[1]).any() and (three[0] != other).any()


def test_scatter_lifts_the_dark_and_noise_follows_the_photons(small_ct):
    def image(**exposure):
        return next(
            simulate(small_ct, CARM, n=1, rotation=(0,) * 3, translation=(0,) * 3, exposure=Exposure(**exposure))
        )

    clean = image(photons=1e9, scatter=0.0).stored.astype(float)
    foggy = image(photons=1e9, scatter=2.0).stored.astype(float)
    dark = clean < np.percentile(clean, 20)
    assert foggy[dark].mean() > 3 * clean[dark].mean()
    noise = [np.std(image(photons=p, scatter=0.0).stored - clean) for p in (1e3, 1e5)]
    assert 5 < noise[0] / noise[1] < 20  # by the square root of 100


def test_realistic_images_are_formed_as_those_of_training_and_show_the_same_anatomy(small_ct):
    carm = CArm(1020.0, (96, 80), (3.0, 3.2), intensity="transmission")
    still = {"rotation": (0, 0, 0), "translation": (0, 0, 1e-6), "seed": 2}
    (clear,) = simulate(small_ct, carm, "AP", n=1, exposure=CLEAR, **still)
    images = list(simulate(small_ct, carm, "AP", n=12, exposure=None, **still))
    again = list(simulate(small_ct, carm, "AP", n=1, exposure=None, **still))
    assert np.array_equal(images[0].transmission, again[0].transmission)
    seen = np.array([image.transmission for image in images])
    assert seen.min() >= 0 and seen.max() <= 1 and seen.dtype == np.float32
    alike = [correlation(image, clear.transmission) for image in seen]
    assert max(alike) > 0.9 and len({round(value, 4) for value in alike}) == 12, "each has effects of its own"


def test_a_truth_file_is_a_pose_file_that_knows_its_geometry(small_ct, tmp_path):
    paths = list(write_simulated(simulate(small_ct, CARM, n=2), tmp_path, ".tiff"))
    assert [path.name for path in paths] == ["xray_000.tiff", "xray_001.tiff"]
    assert len(read_poses(tmp_path / "truth_001.json")) == 1
    with pytest.raises(Cancelled):
        list(simulate(small_ct, CARM, cancel=lambda: True))
    with pytest.raises(InputError, match="SIDEWAYS"):
        list(simulate(small_ct, CARM, "SIDEWAYS"))


def test_edges_of_a_disc_are_its_rim():
    v, u = np.mgrid[0:80, 0:100]
    distance = np.hypot(v - 40, u - 60)
    strength = edges(np.where(distance < 20, 3.0, 1.0))
    drawn = strength > 0.5
    assert (np.abs(distance[drawn] - 20) < 2).all()
    angles = np.degrees(np.arctan2(v - 40, u - 60))[drawn]
    assert len(np.unique(angles % 360 // 15)) == 24  # all round
    assert drawn.sum() < 3 * 2 * np.pi * 20  # thin


def test_an_overlay_shows_the_xray_in_grey_and_the_edges_in_colour(tmp_path):
    v, u = np.mgrid[0:64, 0:48]
    xray = u.astype(float)
    drr = np.where(v < 32, 0.0, 1.0)
    picture = overlay_image(xray, drr)
    assert picture.shape == (64, 48, 3) and picture.dtype == np.uint8
    coloured = (picture[..., 0] != picture[..., 2]).any(1)
    assert coloured[31:33].any() and not coloured[:28].any() and not coloured[36:].any()
    assert tuple(picture[coloured][:, 20][0]) == EDGE_COLOUR
    assert picture[5, 5, 0] < picture[5, 40, 0]
    assert (overlay_image(xray, np.ones_like(drr))[..., 0] == overlay_image(xray, np.ones_like(drr))[..., 2]).all()
    lit = u > 10
    bright = np.where(lit, xray, 1e4)  # what lies outside the collimator must not decide how bright the inside is
    masked = overlay_image(bright, np.ones_like(drr), lit)[..., 0]
    assert (masked[~lit] == 0).all() and masked[5, 11] < 30 and masked[5, 47] > 220
    write_pixels(tmp_path / "o.png", picture)
    import SimpleITK as sitk

    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "o.png"))), picture)
    with pytest.raises(OSError, match="cannot be written"):
        write_pixels(tmp_path / "no folder" / "o.png", picture)


def test_equalisation_is_that_of_simpleitk():
    import SimpleITK as sitk

    from DiffPoseSlicerLib.evaluation.stress import _equalise

    v, u = np.mgrid[0:96, 0:80] / 80
    image = 0.3 + 0.3 * np.sin(9 * u) * np.cos(5 * v) + 0.2 * v
    image[30:60, 20:30] *= 0.4
    radius = [10, 12]
    filtered = sitk.AdaptiveHistogramEqualization(
        sitk.GetImageFromArray(image.astype(np.float32)), radius, alpha=0.4, beta=0.5
    )
    expected = sitk.GetArrayFromImage(filtered)
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    off = abs(_equalise(image) - expected)
    assert off.mean() < 0.01
    assert off.max() < 0.08
    assert abs(expected - image / image.max()).mean() > 5 * off.mean()
