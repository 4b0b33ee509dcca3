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
    rng: np.random.Generator, n: int, rotation: ArrayLike, translation: ArrayLike
) -> NDArray[np.float64]:
    """n offsets (omega, v), rad and mm, uniform within half-ranges given in degrees and mm: (n, 6)."""
    limits = np.concatenate([np.deg2rad(np.asarray(rotation, float)), np.asarray(translation, float)])
    return rng.uniform(-1, 1, (n, 6)) * limits


def offsets_to_poses(offsets: ArrayLike, view: ArrayLike, center: ArrayLike, carm: CArm) -> NDArray[np.float64]:
    """camera_to_ras (n, 4, 4) of offsets (n, 6) about a view R0 (3, 3) and an isocentre; see `geometry.Pose.about`."""
    offsets = np.asarray(offsets, float)
    turn = so3_exp(offsets[:, :3]) @ np.asarray(view, float).T
    shift = offsets[:, 3:] + [0, 0, carm.source_to_isocenter]
    return inverse(rigid(turn, shift - turn @ np.asarray(center, float)))
