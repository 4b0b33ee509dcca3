"""Figures as other groups compute them, under their own names: for a table beside theirs, never for a claim of ours.

Both differ from what `metrics.mtre` computes, which docs/design.md section 5 defines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..geometry.carm import CArm
from ..geometry.coordinates import transform_points
from ..geometry.pose import Pose
from .metrics import mpe


def diffpose_mtre(estimated: Pose, true: Pose, points: ArrayLike, carm: CArm, *, spacing_factor: bool = True) -> float:
    """What DiffPose's evaluation prints as mTRE, mm.

    Points are projected by both poses, their distance is taken on the detector plane, in mm already, and multiplied by
    the pixel spacing once more. `spacing_factor=False` leaves that factor out.
    """
    distance = mpe(estimated, true, points, carm)
    return distance * carm.pixel_spacing[0] if spacing_factor else distance


def xvr_mtre(estimated: Pose, true: Pose, points: ArrayLike) -> float:
    """What xvr's evaluation prints as mTRE, mm: camera-to-world poses applied to points that are in the world already,
    so that rotation errors act over the distance of the source, too."""
    points = np.asarray(points, float)
    difference = transform_points(estimated.camera_to_ras, points) - transform_points(true.camera_to_ras, points)
    return float(np.linalg.norm(difference, axis=-1).mean())
