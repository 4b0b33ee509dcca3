"""RAS and LPS, in one place.

The project's world is RAS in mm (Slicer's). DICOM, ITK and SimpleITK speak LPS: first two axes reversed. The conversion
is its own inverse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .se3 import Array

LPS_FROM_RAS: Array = np.diag([-1.0, -1.0, 1.0, 1.0])


def flip_ras_lps(matrix: ArrayLike) -> Array:
    """A 4x4 map *into* RAS (or LPS), such as a CT's index-to-world affine, turned into a map into the other."""
    return LPS_FROM_RAS @ np.asarray(matrix, float)


def conjugate_ras_lps(transform: ArrayLike) -> Array:
    """A 4x4 transform from RAS to RAS, stated from LPS to LPS (or back)."""
    return LPS_FROM_RAS @ np.asarray(transform, float) @ LPS_FROM_RAS


def transform_points(matrix: ArrayLike, points: ArrayLike) -> Array:
    """Points (..., 3) mapped by a 4x4 affine matrix."""
    matrix, points = np.asarray(matrix, float), np.asarray(points, float)
    return points @ matrix[:3, :3].T + matrix[:3, 3]
