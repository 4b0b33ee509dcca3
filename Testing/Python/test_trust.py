"""Trust: what a result says of itself, on registrations of the chest CT that are right, and wrong in many ways."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from DiffPoseSlicerLib import CArm, CTVolume, Pose, XrayImage
from DiffPoseSlicerLib.evaluation import trust_cases
from DiffPoseSlicerLib.evaluation.cases import offset_start
from DiffPoseSlicerLib.evaluation.metrics import default_points, mtre
from DiffPoseSlicerLib.evaluation.public_ct import PUBLIC_CTS
from DiffPoseSlicerLib.geometry.coordinates import transform_points
from DiffPoseSlicerLib.geometry.pose import view_rotation
from DiffPoseSlicerLib.geometry.se3 import turn_about
from DiffPoseSlicerLib.registration import trust
from DiffPoseSlicerLib.registration.cover import covered_part
from DiffPoseSlicerLib.registration.descent import PLAN
from DiffPoseSlicerLib.registration.register import Registrar, register
from DiffPoseSlicerLib.registration.result import RegistrationResult
from DiffPoseSlicerLib.registration.shifts import local_shifts
from DiffPoseSlicerLib.registration.signs import REGION_MM, movement_mm, spread_mm
from DiffPoseSlicerLib.registration.similarity import LocalCorrelation, Patches
from DiffPoseSlicerLib.rendering.renderer import Projector

CARM = CArm(1020.0, (160, 144), (2.0, 2.0), (70.0, 81.0), intensity="transmission")
WORDS = [value for name, value in vars(trust).items() if name.isupper() and isinstance(value, str)]


@pytest.fixture(scope="module")
def registrar(small_ct: CTVolume) -> Registrar:
    return Registrar(small_ct, "cpu")


@pytest.fixture(scope="module")
def truth(small_ct: CTVolume) -> Pose:
    return Pose.about(view_rotation("AP"), small_ct.center, CARM, [0.1, -0.15, 0.1, 10, -10, 20])


@pytest.fixture(scope="module")
def integrals(small_ct: CTVolume, truth: Pose) -> np.ndarray:
    return Projector(small_ct.level(0), "cpu").project(CARM, truth.camera_to_ras).reshape(CARM.image_size)


def _xray(integrals: np.ndarray, seed: int = 0) -> XrayImage:
    noisy = np.random.default_rng(seed).poisson(np.exp(-integrals) * 2e4) / 2e4
    return XrayImage.from_array(np.clip(noisy * 30000, 0, 60000).astype(np.uint16), CARM)


@pytest.fixture(scope="module")
def success(small_ct: CTVolume, truth: Pose, integrals: np.ndarray, registrar: Registrar) -> RegistrationResult:
    start = offset_start(truth, small_ct.center, np.random.default_rng(1), 10, 20)
    return register(small_ct, _xray(integrals), start, registrar=registrar)


def test_a_right_pose_is_trusted_and_off_by_less_than_it_says(small_ct, truth, success):
    error = mtre(success.pose, truth, default_points(small_ct.center))
    assert error < 1
    assert success.trust.trusted and success.trust.probability > 0.8 and success.trust.reasons == ()
    assert success.expected_error_mm is not None and 0.02 < success.expected_error_mm < 1.5
    written = success.to_json()
    assert written["trust"]["trusted"] is True and written["expectedErrorMm"] == success.expected_error_mm
    assert written["signs"] == success.signs


def test_a_mirrored_image_is_not_trusted(small_ct, truth, integrals, registrar):
    result = register(small_ct, _xray(integrals[:, ::-1]), truth, registrar=registrar)
    assert not result.trust.trusted and result.trust.reasons[0] == trust.MIRRORED


def test_another_patients_ct_is_not_trusted(small_ct, truth, integrals):
    other = trust_cases.bent(small_ct, 20.0, np.random.default_rng(3))
    result = register(other, _xray(integrals), truth, device="cpu")
    assert not result.trust.trusted
    assert {trust.STRANGER, trust.BENT} & set(result.trust.reasons), result.trust


def test_a_pose_one_vertebra_off_is_not_trusted(small_ct, truth, integrals, registrar):
    moved = truth.camera_to_ras.copy()
    moved[:3, 3] += 25 * small_ct.affine[:3, 2] / small_ct.spacing[2]
    # From there alone, at full resolution: no look around that would find the way back.
    result = registrar.register([_xray(integrals)], Pose(moved).ras_to_camera[None], plan=PLAN[-1:])
    assert mtre(result.pose, truth, default_points(small_ct.center)) > 5
    assert not result.trust.trusted and result.trust.probability < 0.1
    assert trust.VERTEBRA in result.trust.reasons


def test_an_image_mostly_covered_is_not_trusted_and_says_so(small_ct, truth, integrals, registrar):
    covered = integrals.copy()
    covered[:, :110] += 4.0
    start = offset_start(truth, small_ct.center, np.random.default_rng(2), 20, 40)
    result = registrar.register([_xray(covered)], start.ras_to_camera[None])
    assert mtre(result.pose, truth, default_points(small_ct.center)) > 1
    assert not result.trust.trusted and result.trust.reasons[0] == trust.COVERED


def test_two_views_are_judged_together(small_ct, truth, integrals, registrar, success):
    lateral = Pose.about(view_rotation("LEFT_LATERAL"), small_ct.center, CARM, [0.1, 0.05, 0, 5, -10, 10])
    other = Projector(small_ct.level(0), "cpu").project(CARM, lateral.camera_to_ras).reshape(CARM.image_size)
    xrays = [_xray(integrals), _xray(other, 1)]
    result = register(small_ct, xrays, [truth, lateral], registrar=registrar)
    assert result.trust.trusted
    # Depth, which one view sees worst, is what the other shows.
    assert result.signs["curvature"] < 0.7 * success.signs["curvature"]
    mirrored = register(small_ct, [xrays[0], _xray(other[:, ::-1], 1)], [truth, lateral], registrar=registrar)
    assert not mirrored.trust.trusted


def test_where_nothing_is_seen_nothing_is_trusted(small_ct, truth, integrals, registrar):
    xray = _xray(integrals)
    for kept in (0, 20):
        mask = np.zeros(integrals.shape, bool)
        mask[:kept, :kept] = True
        result = registrar.register([replace(xray, mask=mask)], truth.ras_to_camera[None])
        assert result.trust.probability == 0 and result.trust.reasons[0] == trust.COVERED
    away = truth.camera_to_ras.copy()
    away[:3, 3] += 600 * away[:3, 0]
    result = registrar.register([xray], Pose(away).ras_to_camera[None])
    assert result.trust.probability == 0 and trust.LITTLE in result.trust.reasons
    assert all(np.isfinite(value) for value in result.signs.values())


def test_a_tiny_image_is_judged_too(small_ct, registrar):
    tiny = CArm(1020.0, (16, 20), (15.0, 15.0), intensity="transmission")
    pose = Pose.from_view("AP", small_ct, tiny)
    image = Projector(small_ct.level(0), "cpu").project(tiny, pose.camera_to_ras).reshape(tiny.image_size)
    xray = XrayImage.from_array(np.rint(np.exp(-image) * 60000).astype(np.uint16), tiny)
    result = registrar.register([xray], pose.ras_to_camera[None])
    assert 0 <= result.trust.probability <= 1 and all(np.isfinite(value) for value in result.signs.values())


def test_a_bone_alone_is_not_judged(small_ct, truth, integrals):
    hu = np.where(small_ct.hu > 200, small_ct.hu, -1000)
    bone = CTVolume.from_array(hu, small_ct.affine)
    result = register(bone, _xray(integrals), truth, device="cpu")
    assert result.trust.reasons == (trust.STRUCTURE,) and result.expected_error_mm is None


# --- The model -------------------------------------------------------------------------------------------------------


def test_the_calibration_is_whole_and_says_where_it_comes_from(success):
    data = json.loads(trust.CALIBRATION.read_text(encoding="utf-8"))
    model = trust.Model.from_json(data)
    assert model.to_json() == data
    assert set(model.curves) | set(model.bound) | set(model.millimetres) <= set(success.signs)
    assert 0.1 < model.threshold < 1
    told = model.provenance
    assert told["cases"] >= 400 and 0.2 < told["successes"] / told["cases"] < 0.9
    for name, hashes in told["cts"].items():
        assert hashes.items() <= PUBLIC_CTS[name].files.items()
    assert told["split"] == "calibration" and len(told["sha256"]) == 64 and "bench trust" in told["command"]


def test_worse_signs_never_raise_trust_nor_lower_the_bound(success):
    model = trust.shipped()
    base = model.probability(success.signs), model.error_mm(success.signs)
    for name, value in success.signs.items():
        for factor in (1.5, 4, 1000):
            worse = success.signs | {name: value * factor + 0.01 * factor}
            assert model.probability(worse) <= base[0] and model.error_mm(worse) >= base[1], name
    terrible = dict.fromkeys(success.signs, 1e3)
    assert model.probability(terrible) < 0.01


def test_a_calibration_whose_curve_falls_is_refused():
    data = trust.shipped().to_json()
    name = next(iter(data["curves"]))
    data["curves"][name] = {"knots": [0.0, 1.0], "heights": [1.0, 0.0]}
    with pytest.raises(ValueError, match="does not rise"):
        trust.Model.from_json(data)


def test_a_coarse_ct_may_be_off_by_more(small_ct):
    fine = CTVolume.from_array(small_ct.hu, np.diag([0.7, 0.7, 2.5, 1]))
    assert trust.limit_mm(fine) == 1.0
    assert trust.limit_mm(replace(fine, affine=np.diag([3.0, 3, 3, 1]))) == pytest.approx(2.0)


def test_the_panel_words_every_reason():
    source = Path(trust.__file__).parents[1] / "panel" / "verdict.py"
    texts = [node.value for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Constant)]
    assert len(WORDS) >= 10
    for words in WORDS:
        assert texts.count(words) == 2, words


# --- The signs -------------------------------------------------------------------------------------------------------


def test_millimetres_are_those_of_the_regions_points():
    rng = np.random.default_rng(0)
    twist = rng.normal(size=6) * [1e-3, 1e-3, 1e-3, 0.1, 0.1, 0.1]
    points = rng.uniform(-REGION_MM, REGION_MM, (20000, 3))
    moved = transform_points(turn_about(twist[None], np.zeros((1, 3)))[0], points)
    expected = np.sqrt(((moved - points) ** 2).sum(1).mean())
    assert movement_mm(twist) == pytest.approx(expected, rel=0.02)
    spread = np.diag(rng.uniform(0.5, 2, 6) * [1e-6, 1e-6, 1e-6, 0.01, 0.01, 0.01])
    drawn = rng.multivariate_normal(np.zeros(6), spread, 4000)
    assert spread_mm(spread) == pytest.approx(np.sqrt(np.mean([movement_mm(t) ** 2 for t in drawn])), rel=0.03)


def test_what_patches_add_is_the_whole(small_ct, truth, integrals):
    patches = Patches.tile(CARM.image_size, 16)
    xray = _xray(integrals)
    nearby = truth.camera_to_ras.copy()
    nearby[:3, 3] += [1.0, -2.0, 3.0]
    image, jacobian = Projector(small_ct.level(0), "cpu").project(
        CARM, nearby[None], patches.pixels, small_ct.center, jacobian=True
    )
    compare = LocalCorrelation(patches.take(xray.pixels), np.ones((patches.count, patches.size)), 0.01)
    whole, parts = compare(image, jacobian, None), compare.by_patch(image, jacobian, None)
    np.testing.assert_allclose(parts.gradient.sum(0), whole.gradient[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(parts.matrix.sum(0), whole.matrix[0], rtol=1e-4, atol=1e-6)
    assert (parts.share * parts.correlation).sum() == pytest.approx(float(whole.ncc[0]), abs=1e-5)
    assert parts.share.sum() == pytest.approx(1, abs=1e-5)


def test_a_cover_is_found_without_a_pose(integrals):
    for part in (40, 80, 110):
        covered = integrals.copy()
        covered[:, :part] += 3.0
        assert covered_part(_xray(covered)) == pytest.approx(part / 144, abs=0.06)
    assert covered_part(_xray(integrals)) == 0
    v, u = np.mgrid[:160, :144]
    rod = np.where(np.abs(v - 0.8 * u) < 4, 4.0, 0.0)
    assert covered_part(_xray(integrals + rod)) < 0.12


def test_local_shifts_find_a_picture_that_lies_elsewhere(integrals):
    everywhere = np.ones(integrals.shape)
    still, gain = local_shifts(integrals, integrals, everywhere)
    assert still < 0.2 and gain == pytest.approx(0, abs=1e-6)
    moved, gain = local_shifts(integrals, np.roll(integrals, (4, -3), (0, 1)), everywhere)
    assert moved == pytest.approx(5, abs=0.7) and gain > 0.02
    # What is masked says nothing.
    spoilt, half = integrals.copy(), everywhere.copy()
    spoilt[:80] = np.roll(spoilt, 6, 1)[:80]
    half[:80] = 0
    assert local_shifts(integrals, spoilt, half)[0] < 0.3 < local_shifts(integrals, spoilt, everywhere)[0]


# --- The cases -------------------------------------------------------------------------------------------------------


def test_calibration_and_test_share_no_severity_and_no_pose():
    drawn = {}
    for split in trust_cases.SPLITS:
        rng = np.random.default_rng(0)
        drawn[split] = [trust_cases._severity(split, rng) for _ in range(500)]
    bands = {split: {int(10 * value) for value in values} for split, values in drawn.items()}
    assert bands["calibration"] == {0, 2, 4, 6, 8} and bands["test"] == {1, 3, 5, 7, 9}
    keys = [r.key for split in trust_cases.SPLITS for r in trust_cases.recipes("chest", split)]
    assert len(keys) == len(set(keys))


def test_a_bent_ct_is_bent_by_what_was_asked(small_ct):
    """Measured on a CT whose values are its own coordinates."""
    ramp = np.broadcast_to(np.arange(small_ct.hu.shape[2], dtype=np.float32), small_ct.hu.shape) * 10
    same = trust_cases.bent(small_ct, 0.0, np.random.default_rng(5))
    np.testing.assert_array_equal(same.hu, small_ct.hu)
    coded = CTVolume.from_array(ramp, small_ct.affine)
    for mm in (10.0, 20.0):
        moved = trust_cases.bent(coded, mm, np.random.default_rng(5))
        inside = np.s_[8:-8, 8:-8, 8:-8]
        shift = np.abs(moved.hu[inside] - ramp[inside]) / 10 * small_ct.spacing[0]
        assert 0.3 * mm < shift.max() <= 1.01 * mm
