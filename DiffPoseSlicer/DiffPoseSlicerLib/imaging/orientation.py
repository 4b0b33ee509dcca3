"""Stored images and the camera's: mirrored left to right, turned by quarters.

`CArm.mirrored` and `CArm.rotation` say how an image as stored comes from the one the camera sees: first mirrored, then
turned counter-clockwise. All arrays are [row, column, ...].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry.carm import CArm


def to_camera(stored: NDArray[Any], carm: CArm) -> NDArray[Any]:
    """The image the camera sees, from the stored one (a view where possible)."""
    image = np.rot90(stored, -carm.rotation // 90)
    return image[:, ::-1] if carm.mirrored else image


def to_stored(image: NDArray[Any], carm: CArm) -> NDArray[Any]:
    """The stored image, from the one the camera sees: the reverse of :func:`to_camera`."""
    mirrored = image[:, ::-1] if carm.mirrored else image
    return np.rot90(mirrored, carm.rotation // 90)


def stored_size(carm: CArm) -> tuple[int, int]:
    """(rows, columns) of the image as stored."""
    rows, columns = carm.image_size
    return (columns, rows) if carm.rotation in (90, 270) else (rows, columns)


def stored_point(point: tuple[float, float], carm: CArm) -> tuple[float, float]:
    """Where (column, row) of the camera's image lies in the stored image, as (column, row)."""
    rows, columns = carm.image_size
    u, v = point
    if carm.mirrored:
        u = columns - 1 - u
    for _ in range(carm.rotation // 90):  # counter-clockwise: what was right comes to the top
        u, v = v, columns - 1 - u
        rows, columns = columns, rows
    return u, v


def camera_point(point: tuple[float, float], carm: CArm) -> tuple[float, float]:
    """The reverse of :func:`stored_point`."""
    u, v = point
    rows, columns = stored_size(carm)
    for _ in range(carm.rotation // 90):
        u, v = rows - 1 - v, u
        rows, columns = columns, rows
    return (columns - 1 - u if carm.mirrored else u), v


def stored_spacing(carm: CArm) -> tuple[float, float]:
    """[row, column] pixel spacing of the image as stored, mm."""
    row, column = carm.pixel_spacing
    return (column, row) if carm.rotation in (90, 270) else (row, column)
