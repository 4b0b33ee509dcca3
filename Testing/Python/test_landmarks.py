"""The pose from landmark pairs: exact without noise, robust with it, and honest when nothing fits."""

from __future__ import annotations

import json

import numpy as np
import pytest

from DiffPoseSlicerLib import CArm, InputError, Pose
from DiffPoseSlicerLib.evaluation.metrics import mtre
from DiffPoseSlicerLib.geometry.coordinates import transform_points
from DiffPoseSlicerLib.geometry.pose import view_rotation
from DiffPoseSlicerLib.registration.landmarks import LandmarkPairs, pose_from_landmarks, reprojection_errors

CARM = CArm(1020.0, (300, 240), (1.1, 1.3), (130.0, 140.0))


def _pairs(rng: np.random.Generator, view: str = "AP", count: int = 6, noise: float = 0.0):
    center = rng.uniform(-200, 200, 3)
    truth = Pose.about(view_rotation(view), center, CARM, [*rng.uniform(-0.5, 0.5, 3), *rng.uniform(-40, 40, 3)])
    points = center + rng.uniform(-80, 80, (count, 3))
    pixels = CARM.project(transform_points(truth.ras_to_camera, points + noise * rng.normal(size=points.shape)))
    return truth, LandmarkPairs(tuple(map(str, range(count))), points, pixels)


@pytest.mark.parametrize("view", ["AP", "PA", "LEFT_LATERAL", "RIGHT_LATERAL"])
@pytest.mark.parametrize("seed", range(3))
def test_exact_pairs_give_the_pose_without_being_told_the_view(view: str, seed: int):
    truth, pairs = _pairs(np.random.default_rng(seed), view)
    pose, errors = pose_from_landmarks(pairs, CARM)
    assert mtre(pose, truth, pairs.points) < 0.01
    assert errors.max() < 0.01


def test_noise_and_one_gross_outlier_leave_a_usable_start():
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth, pairs = _pairs(rng, noise=3 / np.sqrt(3))
        pairs.pixels[2] += [70, -50]
        pose, errors = pose_from_landmarks(pairs, CARM, "AP")
        found.append(mtre(pose, truth, pairs.points))
        assert errors.argmax() == 2 or found[-1] > 30
    assert np.mean(np.array(found) < 40) >= 0.9


def test_reprojection_errors_are_millimetres_at_the_detector():
    truth, pairs = _pairs(np.random.default_rng(1))
    pairs.pixels[0] += [3.0, 4.0]
    errors = reprojection_errors(pairs, CARM, truth)
    assert errors[0] == pytest.approx(np.hypot(3 * 1.3, 4 * 1.1))
    assert errors[1:] == pytest.approx(0, abs=1e-9)


def test_a_file_is_read_and_bad_ones_are_refused_in_words(tmp_path):
    _, pairs = _pairs(np.random.default_rng(2))
    rows = [
        {"name": n, "ras": p.tolist(), "pixel": q.tolist()} for n, p, q in zip(pairs.names, pairs.points, pairs.pixels)
    ]
    file = tmp_path / "landmarks.json"
    file.write_text(json.dumps({"landmarks": rows}))
    np.testing.assert_allclose(LandmarkPairs.read(file).points, pairs.points)
    for bad, word in (({}, "landmarks"), ({"landmarks": rows[:3]}, "at least 4"), ({"landmarks": [{}] * 5}, "ras")):
        file.write_text(json.dumps(bad))
        with pytest.raises(InputError, match=word):
            LandmarkPairs.read(file)
    line = pairs.points[0] + np.outer(np.arange(6), [10.0, 0, 0])
    with pytest.raises(InputError, match="one line"):
        LandmarkPairs(pairs.names, line, pairs.pixels)


def test_landmarks_that_fit_no_pose_are_refused():
    rng = np.random.default_rng(3)
    _, pairs = _pairs(rng, count=8)
    pairs.pixels[:] = rng.uniform(-400, 700, pairs.pixels.shape)
    with pytest.raises(InputError, match="No pose fits"):
        pose_from_landmarks(pairs, CARM)
