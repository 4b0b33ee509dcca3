"""Poses a network is trained on: drawn in the box the user asked for, about a view, batched."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.se3 import inverse, rigid, so3_exp


def half_ranges(rotation: ArrayLike, translation: ArrayLike, carm: CArm) -> NDArray[np.float64]:
    """The half-ranges (6,) of (omega, v) in rad and mm, from degrees and mm.

    Raises:
        InputError: not three numbers each, negative, or a range that turns the patient over or through the source.
    """
    turn, shift = np.asarray(rotation, float), np.asarray(translation, float)
    if turn.shape != (3,) or not np.isfinite(turn).all() or (turn < 0).any() or np.linalg.norm(turn) > 180:
        raise InputError(
            f"The rotation range is {np.atleast_1d(turn).tolist()} degrees: give three half-ranges (about right, down, "
            "depth) of at least 0 that together stay below 180."
        )
    room = min(carm.source_to_isocenter, abs(carm.source_to_detector - carm.source_to_isocenter) or np.inf)
    if shift.shape != (3,) or not np.isfinite(shift).all() or (shift < 0).any():
        raise InputError(f"The translation range is {np.atleast_1d(shift).tolist()} mm: give three half-ranges >= 0.")
    if shift[2] >= room:
        raise InputError(
            f"The depth range of +-{shift[2]:g} mm reaches the X-ray source or the detector, {room:g} mm from the "
            "isocentre; give a smaller one."
        )
    if not turn.any() and not shift.any():
        raise InputError("All pose ranges are zero: there is nothing to learn; give the ranges the C-arm may move in.")
    return np.concatenate([np.deg2rad(turn), shift])


def sample_offsets(
    rng: np.random.Generator, n: int, rotation: ArrayLike, translation: ArrayLike, carm: CArm
) -> NDArray[np.float64]:
    """n offsets (omega, v), rad and mm, uniform among those of a box that keep the anatomy in the image: (n, 6).

    The box's half-ranges are given in degrees and mm. Where they move the anatomy out of the image, as wide ones do,
    offsets are drawn again: a pose whose image shows next to nothing of the anatomy teaches and tests nothing.

    Raises:
        InputError: hardly any pose of the range shows the anatomy.
    """
    limits = np.concatenate([np.deg2rad(np.asarray(rotation, float)), np.asarray(translation, float)])
    offsets = rng.uniform(-1, 1, (n, 6)) * limits
    for _ in range(100):
        lost = ~shown(offsets, carm)
        if not lost.any():
            return offsets
        offsets[lost] = rng.uniform(-1, 1, (int(lost.sum()), 6)) * limits
    raise InputError(
        f"The translation range of {np.asarray(translation).tolist()} mm moves the anatomy out of the image at nearly "
        "every pose; give a smaller one."
    )


def shown(offsets: NDArray[np.float64], carm: CArm) -> NDArray[np.bool_]:
    """Whether the image at each offset (n, 6) shows at least a quarter of what the nominal one shows.

    What counts are points within +-80 mm of the isocentre.
    """
    points = np.random.default_rng(0).uniform(-80, 80, (64, 3))
    offsets = np.concatenate([np.zeros((1, 6)), offsets])
    camera = points @ np.swapaxes(so3_exp(offsets[:, :3]), 1, 2) + offsets[:, None, 3:]
    camera[..., 2] += carm.source_to_isocenter
    ahead = camera[..., 2] > 1
    pixel = camera[..., :2] / np.where(ahead, camera[..., 2], 1)[..., None] * carm.source_to_detector
    pixel = pixel / carm.pixel_spacing[::-1] + carm.principal_point
    inside = ahead & (pixel > -0.5).all(-1) & (pixel < np.array(carm.image_size[::-1]) - 0.5).all(-1)
    share = inside.mean(1)
    return share[1:] >= 0.25 * share[0]


def offsets_to_poses(offsets: ArrayLike, view: ArrayLike, center: ArrayLike, carm: CArm) -> NDArray[np.float64]:
    """camera_to_ras (n, 4, 4) of offsets (n, 6) about a view R0 (3, 3) and an isocentre; see `geometry.Pose.about`."""
    offsets = np.asarray(offsets, float)
    turn = so3_exp(offsets[:, :3]) @ np.asarray(view, float).T
    shift = offsets[:, 3:] + [0, 0, carm.source_to_isocenter]
    return inverse(rigid(turn, shift - turn @ np.asarray(center, float)))
