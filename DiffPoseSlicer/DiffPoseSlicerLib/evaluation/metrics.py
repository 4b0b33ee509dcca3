"""How far an estimated pose is from the true one, and how often that is near enough.

Definitions as in docs/design.md, section 5. Points are in RAS mm, (n, 3); results are in mm unless said otherwise.
Published figures of other methods differ in factors and in where the points lie: recompute before you compare.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from ..geometry.carm import CArm
from ..geometry.coordinates import transform_points
from ..geometry.pose import Pose
from ..geometry.se3 import Array, so3_log

# A registration counts as a success below this mTRE, mm.
SUCCESS_MM = 1.0
# Default points lie within this distance of the centre along each axis, mm.
POINTS_HALF_RANGE = 80.0


def default_points(center: ArrayLike, seed: int = 0, n: int = 50) -> Array:
    """`n` points drawn uniformly from the cube of +-80 mm about `center` (3,), RAS mm: (n, 3)."""
    offsets = np.random.default_rng(seed).uniform(-POINTS_HALF_RANGE, POINTS_HALF_RANGE, (n, 3))
    return np.asarray(center, float) + offsets


def mtre(estimated: Pose, true: Pose, points: ArrayLike) -> float:
    """Mean target registration error: mean distance of the points mapped into the camera frame by both poses."""
    difference = transform_points(estimated.ras_to_camera, points) - transform_points(true.ras_to_camera, points)
    return float(np.linalg.norm(difference, axis=-1).mean())


def mpe(estimated: Pose, true: Pose, points: ArrayLike, carm: CArm, true_carm: CArm | None = None) -> float:
    """Mean projection error: mean distance in the image, on the detector, of points that both poses project.

    Args:
        estimated, true: The poses.
        points: (n, 3), RAS mm.
        carm: Intrinsics that the estimated pose goes with.
        true_carm: Intrinsics of the true pose; default the same. Distances are in its pixel spacing.
    """
    true_carm = true_carm or carm
    seen = carm.project(transform_points(estimated.ras_to_camera, points))
    expected = true_carm.project(transform_points(true.ras_to_camera, points))
    row, column = true_carm.pixel_spacing
    return float(np.linalg.norm((seen - expected) * [column, row], axis=-1).mean())


def mrpd(estimated: Pose, true: Pose, points: ArrayLike, carm: CArm, true_carm: CArm | None = None) -> float:
    """Mean reprojection distance: mean distance of the true points from the rays to where the estimate projects them.

    Arguments as for :func:`mpe`. The estimated pixels are turned into rays with the true intrinsics.
    """
    true_carm = true_carm or carm
    seen = carm.project(transform_points(estimated.ras_to_camera, points))
    rays = true_carm.detector_points(seen)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    return float(np.linalg.norm(np.cross(transform_points(true.ras_to_camera, points), rays), axis=-1).mean())


def rotation_error(estimated: Pose, true: Pose) -> float:
    """Angle between the two orientations, degrees."""
    turn = estimated.camera_to_ras[:3, :3].T @ true.camera_to_ras[:3, :3]
    return float(np.degrees(np.linalg.norm(so3_log(turn))))


def translation_error(estimated: Pose, true: Pose, center: ArrayLike) -> Array:
    """Where the estimate puts `center` (3,), RAS mm, less where it is: (right, down, depth), camera axes, mm."""
    return transform_points(estimated.ras_to_camera, center) - transform_points(true.ras_to_camera, center)


def success_rate(errors: ArrayLike, threshold: float = SUCCESS_MM) -> float:
    """Fraction of errors below `threshold` (SMSR for mTRE at 1 mm); an error that is not a number is no success."""
    errors = np.asarray(errors, float)
    if errors.size == 0:
        return math.nan
    return float((errors < threshold).mean())


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a success rate, 95 % by default: what the rate may be, given so few trials.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927).
    """
    if trials == 0:
        return 0.0, 1.0
    rate, spread = successes / trials, z * z / trials
    middle = rate + spread / 2
    half = math.sqrt(spread * (rate * (1 - rate) + spread / 4))
    # No success gives exactly 0 and no failure exactly 1, whatever rounding says.
    low = 0.0 if successes == 0 else (middle - half) / (1 + spread)
    high = 1.0 if successes == trials else (middle + half) / (1 + spread)
    return low, high


def difference_interval(successes: int, trials: int, other_successes: int, other_trials: int) -> tuple[float, float]:
    """95 % interval of one success rate minus another, from their Wilson intervals.

    Source: Newcombe, Stat. Med. 17 (1998) 873, method 10.
    """
    first, second = successes / trials, other_successes / other_trials
    low, high = wilson_interval(successes, trials)
    other_low, other_high = wilson_interval(other_successes, other_trials)
    gap = first - second
    return gap - math.hypot(first - low, other_high - second), gap + math.hypot(high - first, second - other_low)
