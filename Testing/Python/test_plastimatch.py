"""plastimatch as a witness: its images stand where CArm.project says, for every odd detector and CT."""

from __future__ import annotations

import numpy as np
import pytest

from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.evaluation import plastimatch
from DiffPoseSlicerLib.geometry.carm import CArm
from DiffPoseSlicerLib.geometry.pose import Pose, view_rotation
from DiffPoseSlicerLib.geometry.se3 import so3_exp
from DiffPoseSlicerLib.imaging.ct import CTVolume

# Three blocks that no flip, turn or exchange of axes maps onto themselves; centres in voxels (i, j, k).
BLOCKS = [(10, 12, 50), (30, 20, 15), (18, 40, 33)]
NONSQUARE = CArm(1000.0, (404, 640), (0.3, 0.4), (281.2, 240.8), source_to_isocenter=650)


def phantom(directions: np.ndarray, blocks: list[tuple[int, int, int]] = BLOCKS) -> CTVolume:
    hu = np.full((60, 50, 40), -1000, np.int16)
    for i, j, k in blocks:
        hu[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2] = 2000
    affine = np.eye(4)
    affine[:3, :3] = directions @ np.diag([1.5, 1.2, 1.1])
    affine[:3, 3] = -20, 30, -700
    return CTVolume.from_array(hu, affine)


@pytest.mark.parametrize(
    "directions",
    [
        np.eye(3),
        np.diag([-1.0, -1, 1]),
        np.diag([-1.0, 1, 1]),
        np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]]),
        so3_exp([0.1, 0.2, -0.3]) @ np.diag([1.0, 1, -1]),
    ],
    ids=["ras", "lps", "left-handed", "permuted", "oblique and left-handed"],
)
@pytest.mark.parametrize("carm", [NONSQUARE, CArm(1000.0, (512, 512), (0.25, 0.25))], ids=["odd", "square"])
def test_blocks_appear_where_the_camera_model_puts_them(directions: np.ndarray, carm: CArm) -> None:
    for block in BLOCKS:
        ct = phantom(directions, [block])
        pose = Pose.about(view_rotation("AP", 20, 10), ct.center, carm, [0.1, -0.2, 0.15, 3, -5, 30])
        image = plastimatch.plastimatch_drr(ct, carm, pose)
        assert image.shape == carm.image_size
        assert image.dtype == np.float32
        v, u = np.mgrid[: image.shape[0], : image.shape[1]]
        seen = np.array([(u * image).sum(), (v * image).sum()]) / image.sum()
        expected = carm.project((pose.ras_to_camera @ ct.affine @ [*block, 1])[:3])
        assert np.abs(seen - expected).max() < 0.03


def test_line_integral_through_a_slab_is_thickness_times_attenuation() -> None:
    hu = np.full((20, 30, 40), -1000, np.int16)
    hu[:, 10:16] = 0
    ct = CTVolume.from_array(hu, np.diag([2.0, 2, 2, 1]))
    carm = CArm(1000.0, (3, 3), (0.01, 0.01))  # all rays run along the beam axis, here the CT's j
    pose = Pose.from_view("AP", ct, carm)
    water = plastimatch.plastimatch_drr(ct, carm, pose, plastimatch.own_hu_to_mu)
    assert water == pytest.approx(6 * 2.0 * 0.022, rel=1e-5)
    other = plastimatch.plastimatch_drr(ct, carm, pose, lambda values: (values + 1000) / 1000)
    assert other == pytest.approx(6 * 2.0, rel=1e-5)


def test_own_curve_is_what_the_program_applies_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    hu = np.random.default_rng(0).integers(-1000, 2000, (12, 14, 16)).astype(np.int16)
    ct = CTVolume.from_array(hu, np.diag([3.0, 3, 3, 1]))
    pose = Pose.from_view("LEFT_LATERAL", ct, NONSQUARE)
    ours = plastimatch.plastimatch_drr(ct, NONSQUARE, pose, plastimatch.own_hu_to_mu)
    run = plastimatch.subprocess.run
    monkeypatch.setattr(
        plastimatch.subprocess,
        "run",
        lambda command, **options: run(["preprocess" if word == "none" else word for word in command], **options),
    )
    theirs = plastimatch.plastimatch_drr(ct, NONSQUARE, pose, lambda values: values)
    assert theirs.max() > 0.5
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_one_ct_serves_several_poses() -> None:
    ct = phantom(np.eye(3))
    poses = [Pose.from_view(view, ct, NONSQUARE) for view in ("AP", "LEFT_LATERAL", "AP")]
    with plastimatch.Plastimatch(ct) as xrays:
        first, other, again = (xrays.drr(NONSQUARE, pose) for pose in poses)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_sheared_ct_is_refused() -> None:
    directions = np.array([[1, 0.2, 0], [0, 1, 0], [0, 0, 1.0]])
    with pytest.raises(InputError, match="sheared"):
        plastimatch.plastimatch_drr(phantom(directions), NONSQUARE, Pose(np.eye(4)))


def test_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise plastimatch.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(plastimatch.importlib.metadata, "files", missing)
    monkeypatch.setattr(plastimatch.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="pip install plastimatch"):
        plastimatch.executable()


def test_fluoroscopy_is_bright_in_air_with_pedestal_and_quantum_noise() -> None:
    integrals = np.zeros((64, 96))
    integrals[:, 48:] = 20.0  # lets nothing through
    clean = plastimatch.fluoroscopy(integrals, np.random.default_rng(0), scatter=0.0, photons=1e9)
    assert clean.dtype == np.uint16
    assert clean[:, :48].mean() == pytest.approx(60000, rel=1e-3)
    assert clean[:, 48:].max() <= 1
    image = plastimatch.fluoroscopy(integrals, np.random.default_rng(0), scatter=0.3, photons=2000).astype(float)
    dark, bright = image[:, 60:], image[:, :48]
    assert 0.01 * bright.mean() < dark.mean() < 0.3 * bright.mean()
    again = plastimatch.fluoroscopy(integrals, np.random.default_rng(1), scatter=0.3, photons=2000).astype(float)
    noise = (image - again)[:, 10:30].std() / np.sqrt(2)
    level = image[:, 10:30].mean()
    assert noise / level == pytest.approx(1 / np.sqrt(2000 * level / 60000), rel=0.1)
