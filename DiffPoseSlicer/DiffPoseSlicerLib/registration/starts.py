"""Where the solver starts: poses given, poses spread around them, and a search over a view's whole range."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..geometry.se3 import Array, turn_about


def spread(ras_to_camera: Array, center: Array, count: int, degrees: float, mm: float) -> Array:
    """A start and `count` more, spread evenly within half-ranges of turn and shift about the centre.

    Args:
        ras_to_camera: (4, 4).
        center: (3,) RAS mm.

    Returns:
        (1 + count, 4, 4), the given start first.
    """
    offsets = np.zeros((1 + count, 6))
    if count:
        offsets[1:] = box(count) * np.repeat([np.deg2rad(degrees), mm], 3)
    return turned(ras_to_camera, center, offsets)


def search(
    ras_to_camera: Array, center: Array, count: int, rotation: ArrayLike, translation: ArrayLike, skip: int = 0
) -> Array:
    """Starts covering a view's range evenly: (count, 4, 4).

    Args:
        rotation, translation: (3,) half-ranges per camera axis in degrees and mm.
        skip: starts of the same even sequence that were tried before.
    """
    half = np.concatenate([np.deg2rad(np.broadcast_to(rotation, 3)), np.broadcast_to(translation, 3)])
    return turned(ras_to_camera, center, box(skip + count)[skip:] * half)


def turned(ras_to_camera: Array, center: Array, offsets: Array) -> Array:
    """Poses with the anatomy turned and shifted about the centre in camera axes. offsets (B, 6) -> (B, 4, 4)."""
    center_cam = ras_to_camera[:3, :3] @ np.asarray(center, float) + ras_to_camera[:3, 3]
    return turn_about(offsets, center_cam) @ ras_to_camera


def box(count: int) -> Array:
    """Evenly spread points in [-1, 1]^6, always the same ones: (count, 6).

    Additive recurrence by powers of the root of x^7 = x + 1 (Roberts 2018, the golden ratio's relative in six
    dimensions): as even as Sobol's points, and any prefix of it is even too.
    """
    root = 1.0
    for _ in range(60):
        root = (1 + root) ** (1 / 7)
    return 2 * ((0.5 + np.outer(np.arange(1, count + 1), root ** -np.arange(1.0, 7.0))) % 1) - 1
