"""Metrics against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from DiffPoseSlicerLib.evaluation import metrics
from DiffPoseSlicerLib.geometry.carm import CArm
from DiffPoseSlicerLib.geometry.pose import Pose
from DiffPoseSlicerLib.geometry.se3 import rigid, so3_exp

# Camera and RAS axes coincide, the source is the origin: a point's coordinates are its camera coordinates.
TRUE = Pose(np.eye(4))
CARM = CArm(1000.0, (200, 300), (0.5, 0.25))
POINTS = np.array([[0.0, 0, 500], [30, 40, 500]])


def shifted(*shift: float) -> Pose:
    """The pose that puts the anatomy `shift` mm further along the camera's axes."""
    return Pose(rigid(np.eye(3), -np.array(shift)))


def test_mtre_of_a_shift_is_its_length() -> None:
    assert metrics.mtre(shifted(3, 0, 4), TRUE, POINTS) == pytest.approx(5)


def test_mtre_of_a_turn_is_the_chord() -> None:
    # A quarter turn about the beam leaves the first point and moves the second, 50 mm off the axis, by 50 sqrt(2).
    turned = Pose(rigid(so3_exp([0, 0, np.pi / 2]), [0, 0, 0]))
    assert metrics.mtre(turned, TRUE, POINTS) == pytest.approx(50 * np.sqrt(2) / 2)


def test_mpe_is_magnified_to_the_detector_whatever_the_pixels() -> None:
    # At half the distance to the detector 3 and 4 mm become 6 and 8.
    assert metrics.mpe(shifted(3, 4, 0), TRUE, POINTS, CARM) == pytest.approx(10)


def test_mpe_counts_a_wrong_focal_length() -> None:
    # (60, 80) mm on the detector at 1000 mm, (63, 84) at 1050: 5 mm apart. The central point does not move.
    longer = CArm(1050.0, CARM.image_size, CARM.pixel_spacing)
    assert metrics.mpe(TRUE, TRUE, POINTS, longer, CARM) == pytest.approx(2.5)


def test_mrpd_is_distance_to_the_ray() -> None:
    # The point on the central ray, moved 6 mm sideways at 500 mm: distance from the origin's ray through (6, 0, 500).
    expected = 500 * 6 / np.hypot(6, 500)
    assert metrics.mrpd(shifted(6, 0, 0), TRUE, POINTS[:1], CARM) == pytest.approx(expected)


def test_mrpd_hardly_sees_depth_but_mtre_does() -> None:
    pose = shifted(0, 0, 10)
    assert metrics.mrpd(pose, TRUE, POINTS[:1], CARM) == pytest.approx(0, abs=1e-9)
    assert metrics.mtre(pose, TRUE, POINTS[:1]) == pytest.approx(10)


def test_mrpd_uses_true_intrinsics_for_the_ray() -> None:
    # 1 mm on the detector's columns too far right = the same as a principal point 4 pixels off.
    off = CArm(1000.0, CARM.image_size, CARM.pixel_spacing, (CARM.principal_point[0] + 4, CARM.principal_point[1]))
    expected = 500 * 1 / np.hypot(1, 1000)
    assert metrics.mrpd(TRUE, TRUE, POINTS[:1], off, CARM) == pytest.approx(expected)


def test_rotation_and_translation_error() -> None:
    pose = Pose(rigid(so3_exp(np.deg2rad([0, 12, 0])), [0, 0, 0]))
    assert metrics.rotation_error(pose, TRUE) == pytest.approx(12)
    assert metrics.rotation_error(TRUE, TRUE) == 0
    np.testing.assert_allclose(metrics.translation_error(shifted(1, -2, 3), TRUE, [9, 9, 9]), [1, -2, 3], atol=1e-12)


def test_success_rate_counts_strictly_below_and_failures_without_a_number() -> None:
    assert metrics.success_rate([0.2, 0.999, 1.0, np.nan, np.inf]) == pytest.approx(2 / 5)
    assert np.isnan(metrics.success_rate([]))


def test_difference_interval_of_published_examples() -> None:
    # Newcombe's table II, method 10: contrasts (a) and (f).
    np.testing.assert_allclose(metrics.difference_interval(56, 70, 48, 80), (0.0524, 0.3339), atol=5e-5)
    np.testing.assert_allclose(metrics.difference_interval(10, 10, 0, 20), (0.6791, 1.0), atol=5e-5)


def test_wilson_interval_of_published_example() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 15 of 148 and 1 of 29.
    np.testing.assert_allclose(metrics.wilson_interval(15, 148), (0.0624, 0.1605), atol=5e-5)
    np.testing.assert_allclose(metrics.wilson_interval(1, 29), (0.0061, 0.1718), atol=5e-5)
    assert metrics.wilson_interval(0, 20)[0] == 0
    assert metrics.wilson_interval(20, 20)[1] == 1
    assert metrics.wilson_interval(0, 0) == (0, 1)


@given(st.integers(1, 500), st.data())
def test_wilson_interval_holds_the_rate_and_mirrors(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = metrics.wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    np.testing.assert_allclose(metrics.wilson_interval(trials - successes, trials), (1 - high, 1 - low), atol=1e-12)


def test_default_points_are_seeded_and_about_the_centre() -> None:
    points = metrics.default_points([10, 20, 30], seed=4)
    np.testing.assert_array_equal(points, metrics.default_points([10, 20, 30], seed=4))
    assert points.shape == (50, 3)
    offsets = points - [10, 20, 30]
    assert np.abs(offsets).max() <= 80
    assert np.abs(offsets).max(0).min() > 60
    assert not np.array_equal(points, metrics.default_points([10, 20, 30], seed=5))
