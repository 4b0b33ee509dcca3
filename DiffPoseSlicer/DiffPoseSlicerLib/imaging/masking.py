"""Which pixels of an X-ray count: collimated borders and saturated areas hold no anatomy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# A line is flat when its spread is below this fraction of the image's.
_FLAT = 0.02
# Collimators close in from the sides; more than this of the image is never taken off one side.
_MOST = 0.45


def collimated_borders(stored: NDArray[Any]) -> tuple[int, int, int, int]:
    """Lines at the top, bottom, left and right that are flat and end in a straight, sharp edge.

    Air beside a body is flat too, but the body's outline is neither straight along the side nor sharp.
    """
    image = np.asarray(stored, float)
    low, high = np.percentile(image, [1, 99])
    span = max(high - low, 1e-12)

    def lines(image: NDArray[Any]) -> int:
        sample = image[: int(len(image) * _MOST)]
        spread = np.subtract(*np.percentile(sample, [95, 5], axis=1))
        uneven = np.flatnonzero(spread > _FLAT * span)
        count = int(uneven[0]) if uneven.size else 0
        if count == 0 or count + 3 >= len(image):
            return 0
        step = abs(image[count + 2] - image[max(count - 2, 0)])
        return count + 1 if (step > 0.1 * span).mean() > 0.6 else 0

    return lines(image), lines(image[::-1]), lines(image.T), lines(image.T[::-1])


def saturated(stored: NDArray[Any], bits: int | None = None) -> NDArray[np.bool_]:
    """Pixels at the top of an integer image's range, where so many lie there that it was clipped."""
    if stored.dtype.kind not in "iu":
        return np.zeros(stored.shape, bool)
    top = (1 << bits) - 1 if bits else int(np.iinfo(stored.dtype).max)
    at_top = stored >= top
    return at_top if at_top.mean() > 0.002 else np.zeros(stored.shape, bool)


def basic_mask(stored: NDArray[Any], bits: int | None = None) -> tuple[NDArray[np.bool_] | None, tuple[str, ...]]:
    """The pixels that count (None: all of them) and what was left out, in sentences."""
    notes = []
    mask = np.ones(stored.shape, bool)
    top, bottom, left, right = collimated_borders(stored)
    if top or bottom or left or right:
        rows, columns = mask.shape
        inside = np.zeros_like(mask)
        inside[top : rows - bottom, left : columns - right] = True
        mask &= inside
        notes.append(f"Collimated borders left out: {top} top, {bottom} bottom, {left} left, {right} right lines.")
    clipped = saturated(stored, bits) & mask
    if clipped.any():
        mask &= ~clipped
        notes.append(f"Saturated pixels left out: {100 * clipped.mean():.1f} % of the image.")
    if mask.all() or mask.mean() < 0.02:
        return None, () if mask.all() else (
            "Nearly the whole image looks saturated or collimated: no mask was applied.",
        )
    return mask, tuple(notes)
