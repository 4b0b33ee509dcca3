"""A start from landmark pairs: points of the CT and where they are seen in the image.

The pose that projects the points best is found by Levenberg-Marquardt from many orientations at once, with robust
weights, so that neither a far start nor a wrongly named landmark spoils it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.files import numbers, read_json
from ..geometry.pose import Pose, view_rotation
from ..geometry.se3 import Array, hat, inverse, rigid, so3_exp, turn_about

_ITERATIONS = 60
# Reprojection errors (mm at the detector) beyond this lose their say.
_OUTLIER_MM = 8.0
# What the last weights take for the scale of the rest. A smaller one would rather leave two landmarks out and fit the
# others exactly, as any four can be fitted.
_TELLS_MM = 12.0


@dataclass(frozen=True)
class LandmarkPairs:
    """Named points seen in an image.

    Attributes:
        names: what they are called.
        points: (n, 3) RAS mm.
        pixels: (n, 2) (column, row) in the camera's image.
    """

    names: tuple[str, ...]
    points: Array
    pixels: Array

    def __post_init__(self) -> None:
        if len(self.names) < 4:
            raise InputError(f"There are {len(self.names)} landmark pairs: give at least 4, better 6 or more.")
        spread = np.linalg.svd(self.points - self.points.mean(0), compute_uv=False)
        if spread[1] < 5:
            raise InputError("The landmarks lie on one line: choose some beside it.")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> LandmarkPairs:
        """Read {"landmarks": [{"name": "L3", "ras": [R, A, S], "pixel": [column, row]}, ...]}.

        Raises:
            InputError: another shape, or too few.
        """
        return cls.from_json(read_json(path, "landmark file"))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LandmarkPairs:
        """From the content of a landmark file. Raises InputError."""
        what = "landmark file"
        rows = data.get("landmarks")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(
                f'The {what} needs a list \'landmarks\' of {{"name", "ras": [R, A, S], "pixel": [column, row]}}.'
            )
        return cls(
            tuple(str(row.get("name", number + 1)) for number, row in enumerate(rows)),
            np.array([numbers(row, "ras", 3, what) for row in rows]).reshape(-1, 3),
            np.array([numbers(row, "pixel", 2, what) for row in rows]).reshape(-1, 2),
        )


def reprojection_errors(pairs: LandmarkPairs, carm: CArm, pose: Pose) -> NDArray[np.float64]:
    """Distance in mm at the detector between where each landmark is seen and where the pose projects it: (n,).

    A landmark behind the source is infinitely far off.
    """
    camera = pairs.points @ pose.ras_to_camera[:3, :3].T + pose.ras_to_camera[:3, 3]
    offset = (carm.project(camera) - pairs.pixels) * np.array(carm.pixel_spacing[::-1])
    return np.nan_to_num(np.linalg.norm(offset, axis=1), nan=np.inf)


def pose_from_landmarks(pairs: LandmarkPairs, carm: CArm, view: str | None = None) -> tuple[Pose, NDArray[np.float64]]:
    """The pose that explains most landmarks, and each one's reprojection error in mm at the detector.

    Args:
        pairs: at least four pairs.
        carm: the camera.
        view: where to look first, one of geometry.pose.VIEWS; default all around the patient.

    Raises:
        InputError: no pose brings most landmarks within reach of where they are seen.
    """
    center = pairs.points.mean(0)
    offsets = pairs.points - center
    seen = pairs.pixels @ np.diag(carm.pixel_spacing[::-1]) - np.array(carm.principal_point) * carm.pixel_spacing[::-1]
    rays = np.concatenate([seen, np.full((len(seen), 1), carm.source_to_detector)], 1)
    # Start where the middle of the landmarks lies on the middle of their rays, at the depth their spread tells.
    size = np.linalg.norm(offsets, axis=1).mean()
    depth = carm.source_to_detector * np.clip(
        size / max(np.linalg.norm(seen - seen.mean(0), axis=1).mean(), 1e-6), 0.3, 0.95
    )
    rotations = _orientations(view)
    shift = np.median(rays, 0) * depth / carm.source_to_detector
    poses = rigid(rotations, shift - rotations @ center)
    damping = np.full(len(poses), 1e-3)
    scale = 20 * _OUTLIER_MM
    cost, gradient, matrix = _reprojection(poses, pairs.points, seen, carm.source_to_detector, center, scale)
    for turn in range(_ITERATIONS):
        step = np.linalg.solve(
            matrix + damping[:, None, None] * _diagonal(matrix) + 1e-9 * np.eye(6), -gradient[..., None]
        )[..., 0]
        center_cam = poses[:, :3, :3] @ center + poses[:, :3, 3]
        tried = turn_about(step, center_cam) @ poses
        new = _reprojection(tried, pairs.points, seen, carm.source_to_detector, center, scale)
        better = new[0] < cost
        poses[better] = tried[better]
        damping = np.where(better, np.maximum(damping / 5, 1e-9), np.minimum(damping * 8, 1e6))
        if turn % 6 == 5:  # outliers are shut out step by step, so that a far start still feels its landmarks
            scale = max(scale / 2, _TELLS_MM)
        cost, gradient, matrix = _reprojection(poses, pairs.points, seen, carm.source_to_detector, center, scale)
    best = Pose(inverse(poses[int(np.argmin(cost))]))
    errors = reprojection_errors(pairs, carm, best)
    if np.median(errors) > 4 * _OUTLIER_MM:
        raise InputError(
            f"No pose fits the landmarks: the best leaves a median error of {np.median(errors):.0f} mm on the "
            "detector; check that names, points and pixels belong together and that the image is not mirrored."
        )
    return best, errors


def _orientations(view: str | None) -> Array:
    """Camera-from-RAS rotations to start from: (n, 3, 3)."""
    if view is not None:
        tilts = [so3_exp(np.deg2rad(t)) for t in ((0, 0, 0), (30, 0, 0), (-30, 0, 0), (0, 30, 0), (0, -30, 0))]
        return np.array([t @ view_rotation(view).T for t in tilts])
    around = [view_rotation("PA", angle, tilt) for angle in range(0, 360, 30) for tilt in (-30, 0, 30)]
    return np.array([so3_exp([0, 0, roll]) @ r.T for r in around for roll in (-np.pi / 2, 0, np.pi / 2, np.pi)])


def _reprojection(
    poses: Array, points: Array, seen: Array, sdd: float, center: Array, scale: float
) -> tuple[Array, Array, Array]:
    """Robust cost (B,), gradient (B, 6) and Gauss-Newton matrix (B, 6, 6) of reprojection in mm at the detector."""
    camera = np.einsum("bij,nj->bni", poses[:, :3, :3], points) + poses[:, None, :3, 3]
    depth = np.maximum(camera[..., 2:], 1.0)
    residual = sdd * camera[..., :2] / depth - seen
    square = (residual**2).sum(-1)
    weight = 1 / (1 + square / scale**2) ** 2
    cost = (square / (1 + square / scale**2)).sum(1) + 1e6 * (camera[..., 2] < 1).sum(1)
    by_point = np.zeros((*camera.shape[:2], 2, 3))
    by_point[..., 0, 0] = by_point[..., 1, 1] = sdd / depth[..., 0]
    by_point[..., :2, 2] = -sdd * camera[..., :2] / depth**2
    arm = camera - (poses[:, None, :3, :3] @ center + poses[:, None, :3, 3])
    by_twist = np.concatenate([-hat(arm), np.broadcast_to(np.eye(3), (*arm.shape, 3))], -1)
    jacobian = by_point @ by_twist
    weighted = jacobian * weight[..., None, None]
    gradient = np.einsum("bnki,bnk->bi", weighted, residual)
    return cost, gradient, np.einsum("bnki,bnkj->bij", weighted, jacobian)


def _diagonal(matrix: Array) -> Array:
    return np.eye(6) * np.einsum("bii->bi", matrix)[:, None, :]
