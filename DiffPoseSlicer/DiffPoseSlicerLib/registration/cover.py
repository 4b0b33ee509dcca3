"""How much of an X-ray something dense with a straight edge covers: a plate, a retractor, an arm of the table.

Told from the image alone, for a registration that a cover has led astray says nothing about it. No anatomy has a long
straight edge along which the attenuation rises everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .views import reduced

if TYPE_CHECKING:
    from ..imaging.xray import XrayImage

# On an image of so many pixels, so many directions of the edge are tried.
_PIXELS, _DIRECTIONS = 64, 36
# A cover's edge: attenuation rises by so much within two pixels, along this part of a line at least so long.
_RISE, _PART, _LENGTH = 0.6, 0.85, 36
_MOST = 0.9


def covered_part(xray: XrayImage) -> float:
    """The part of an image's pixels that lie behind a cover's edge, 0 to 1; the largest cover counts."""
    small = reduced(xray, _PIXELS)
    a = small.pixels
    mask = np.ones(a.shape, bool) if small.mask is None else small.mask > 0
    v, u = np.mgrid[: a.shape[0], : a.shape[1]]
    found: list[float] = []
    for angle in np.arange(_DIRECTIONS) * np.pi / _DIRECTIONS:
        dv, du = round(1.4 * np.sin(angle)), round(1.4 * np.cos(angle))
        along = np.rint(np.sin(angle) * v + np.cos(angle) * u).astype(int)
        along -= along.min()
        rows = slice(dv, a.shape[0] - dv)
        columns = slice(abs(du), a.shape[1] - abs(du))
        up = slice(2 * dv, a.shape[0]), slice(abs(du) + du, a.shape[1] - abs(du) + du)
        down = slice(0, a.shape[0] - 2 * dv), slice(abs(du) - du, a.shape[1] - abs(du) - du)
        both = mask[rows, columns] & mask[up] & mask[down]
        line, rise = along[rows, columns][both], (a[up] - a[down])[both]
        count = np.bincount(line, minlength=1)
        # An edge, not a slope: four pixels before and behind, nothing like it.
        mean = np.pad(np.bincount(line, rise, len(count)) / np.maximum(count, 1), 4)
        sharp = np.abs(mean[4:-4]) > 2.5 * np.maximum(np.abs(mean[8:]), np.abs(mean[:-8]))
        long = count >= _LENGTH
        rising = long & (np.bincount(line, rise > _RISE, len(count)) > _PART * count)
        falling = long & (np.bincount(line, rise < -_RISE, len(count)) > _PART * count)
        place = along[mask]
        for edge in np.flatnonzero(rising & sharp):
            ends = np.flatnonzero(falling[edge:])
            end = edge + ends[0] if len(ends) else len(count)
            found.append(float(((place > edge) & (place < end)).mean()))
        for edge in np.flatnonzero(falling & sharp):
            ends = np.flatnonzero(rising[:edge])
            end = ends[-1] if len(ends) else -1
            found.append(float(((place < edge) & (place > end)).mean()))
    # Nearly all of it would be no cover but a corner that is open.
    return max((part for part in found if part < _MOST), default=0.0)
