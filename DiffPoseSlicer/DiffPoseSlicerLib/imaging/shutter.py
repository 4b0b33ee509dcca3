"""Collimator blades of any outline: a dark surround, with faint anatomy left in it, behind a sharp step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Step in the logarithm of the transmission that makes an edge, over two pixels.
_EDGE = 0.4
# How much darker the surround must be across its edge: blades let through a few per cent.
_DARKER = 1.0


def lit_field(stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where a transmission image [row, column] is not covered by blades, or None where there are none.

    What can be reached from the corners without crossing a sharp step is the surround, provided that something sizeable
    is left and that it is much brighter across the step. A body's outline is neither as sharp nor closed.
    """
    import SimpleITK as sitk

    image = np.asarray(stored, float)
    rows, columns = image.shape
    span = float(image.max() - image.min())
    if min(rows, columns) < 32 or span <= 0:
        return None
    level = np.log(image - min(image.min(), 0) + 2e-3 * span)
    step = np.zeros(image.shape, bool)
    step[:, 1:-1] |= np.abs(level[:, 2:] - level[:, :-2]) > _EDGE
    step[1:-1] |= np.abs(level[2:] - level[:-2]) > _EDGE
    free = sitk.GetImageFromArray((~step).astype(np.uint8))
    labels = sitk.GetArrayFromImage(sitk.ConnectedComponent(free, False))
    corners = [labels[v, u] for v in (2, rows - 3) for u in (2, columns - 3)]
    around = np.isin(labels, [label for label in corners if label])
    # What the surround encloses, steps included, without the islands of noise and instruments in the surround itself.
    inner = sitk.GetArrayFromImage(
        sitk.RelabelComponent(sitk.ConnectedComponent(sitk.GetImageFromArray((~around).astype(np.uint8)), False))
    )
    lit = inner == 1
    if not 0.15 < lit.mean() < 0.97 or around.mean() < 0.02:
        return None
    reach = max(3, round(min(rows, columns) / 64))
    bright = eroded(lit, reach) & grown(~lit, 2 * reach)
    dark = around & grown(lit, 2 * reach) & ~grown(lit, 1)
    if bright.sum() < 20 or dark.sum() < 20:
        return None
    if np.median(level[bright]) - np.median(level[dark]) < _DARKER:
        return None
    return eroded(lit, reach)


def eroded(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Without `pixels` at its border (the image's own border does not count): edges of an aperture are soft."""
    for _ in range(pixels):
        padded = np.pad(mask, 1, mode="edge")
        mask = mask & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return mask


def grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """With `pixels` more around it."""
    return ~eroded(~mask, pixels)
