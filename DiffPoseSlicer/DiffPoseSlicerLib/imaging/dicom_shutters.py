"""Shutters and collimators that a DICOM file describes (PS3.3 C.7.6.11 and C.8.7.3): pixels outside hold no anatomy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dicom import Lookup, floats, tag_name

# Shape, left, right, upper, lower, centre, radius, vertices.
_DISPLAY = (
    "ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge", "ShutterUpperHorizontalEdge",
    "ShutterLowerHorizontalEdge", "CenterOfCircularShutter", "RadiusOfCircularShutter", "VerticesOfThePolygonalShutter",
)  # fmt: skip
_COLLIMATOR = (
    "CollimatorShape", "CollimatorLeftVerticalEdge", "CollimatorRightVerticalEdge", "CollimatorUpperHorizontalEdge",
    "CollimatorLowerHorizontalEdge", "CenterOfCircularCollimator", "RadiusOfCircularCollimator",
    "VerticesOfThePolygonalCollimator",
)  # fmt: skip


def shutter_mask(lookup: Lookup, rows: int, columns: int) -> tuple[NDArray[np.bool_] | None, tuple[str, ...]]:
    """Pixels inside all shutters and collimators as stored, or None, and what was left out."""
    mask = np.ones((rows, columns), bool)
    notes = []
    for what, keywords in (("display shutter", _DISPLAY), ("collimator", _COLLIMATOR)):
        inside = _inside(lookup, keywords, rows, columns)
        if inside is None or inside.all():
            continue
        if inside.mean() < 0.02:
            notes.append(f"The {what} ({tag_name(keywords[0])}) leaves nearly nothing of the image: not believed.")
            continue
        mask &= inside
        notes.append(f"Pixels outside the {what} ({tag_name(keywords[0])}) were left out.")
    return (None if mask.all() else mask), tuple(notes)


def _inside(lookup: Lookup, keywords: tuple[str, ...], rows: int, columns: int) -> NDArray[np.bool_] | None:
    shape, left, right, upper, lower, centre, radius, vertices = keywords
    shapes = lookup.value(shape)
    if shapes is None:
        return None
    shapes = [shapes] if isinstance(shapes, str) else [str(one) for one in shapes]
    v, u = np.mgrid[1 : rows + 1, 1 : columns + 1]  # the standard counts rows and columns from 1
    inside = np.ones((rows, columns), bool)
    values = {key: floats(lookup.value(key)) if lookup.value(key) is not None else [] for key in keywords[1:]}
    if "RECTANGULAR" in shapes:
        for key, keep in ((left, u.__gt__), (right, u.__lt__), (upper, v.__gt__), (lower, v.__lt__)):
            if len(values[key]) == 1:
                inside &= keep(values[key][0])
    if "CIRCULAR" in shapes and len(values[centre]) == 2 and len(values[radius]) == 1:
        row, column = values[centre]
        inside &= np.hypot(v - row, u - column) <= values[radius][0]
    if "POLYGONAL" in shapes and len(values[vertices]) >= 6 and len(values[vertices]) % 2 == 0:
        inside &= _polygon(np.reshape(values[vertices], (-1, 2)), v, u)
    return inside


def _polygon(vertices: NDArray[Any], v: NDArray[Any], u: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels within a polygon of (row, column) vertices, by the even-odd rule."""
    inside = np.zeros(v.shape, bool)
    for (r0, c0), (r1, c1) in zip(vertices, np.roll(vertices, -1, axis=0)):
        if r0 == r1:
            continue
        crosses = (v < r0) != (v < r1)
        inside ^= crosses & (u < c0 + (v - r0) * (c1 - c0) / (r1 - r0))
    return inside
