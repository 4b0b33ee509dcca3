"""Which pixels of an X-ray count: collimated borders and saturated areas hold no anatomy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blades import collimated_field
from .shutter import eroded, lit_field

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


@dataclass(frozen=True)
class Aperture:
    """The lit field of an image: a box, cut by a circle where an image intensifier or a round collimator shapes it.

    Attributes:
        inside: [row, column].
        circle: (column, row, radius) in pixels, or None.
    """

    inside: NDArray[np.bool_]
    circle: tuple[float, float, float] | None


def find_aperture(stored: NDArray[Any]) -> Aperture | None:
    """The lit field of an image whose corners are blank and dark, or None.

    The dark area connected to the corners must end in straight sides or in one circle: a body's outline does not.
    """
    import SimpleITK as sitk

    image = np.asarray(stored, np.float32)
    low, high = np.percentile(image, [0.5, 99.5])
    rows, columns = image.shape
    corners = [(0, 0), (columns - 1, 0), (0, rows - 1), (columns - 1, rows - 1)]
    limit = low + 0.04 * (high - low)
    seeds = [corner for corner in corners if image[corner[1], corner[0]] <= limit]
    if len(seeds) < 3 or high <= low:
        return None
    dark = sitk.ConnectedThreshold(sitk.GetImageFromArray(image), seeds, float(image.min()), float(limit))
    lit = sitk.GetArrayFromImage(dark) == 0
    if not 0.15 < lit.mean() < 0.99:
        return None
    in_rows, in_columns = (np.flatnonzero(lit.mean(axis) > 0.1) for axis in (1, 0))
    if min(in_rows.size, in_columns.size) < 16:
        return None
    box = np.zeros_like(lit)
    top, bottom, left, right = in_rows[0], in_rows[-1], in_columns[0], in_columns[-1]
    box[top : bottom + 1, left : right + 1] = True
    # First and last lit pixel of each row and column, those on the box's sides left out: the curved part.
    r = np.arange(top, bottom + 1)
    c = np.arange(left, right + 1)
    inner = lit[r]
    points = [np.stack([inner.argmax(1), r], 1), np.stack([columns - 1 - inner[:, ::-1].argmax(1), r], 1)]
    inner = lit[:, c]
    points += [np.stack([c, inner.argmax(0)], 1), np.stack([c, rows - 1 - inner[::-1].argmax(0)], 1)]
    edge = np.concatenate(points).astype(float)
    near = 3
    curved = edge[
        (edge[:, 0] > left + near)
        & (edge[:, 0] < right - near)
        & (edge[:, 1] > top + near)
        & (edge[:, 1] < bottom - near)
    ]
    if len(curved) < 0.08 * len(edge):
        return Aperture(box, None)
    circle, tolerance = _circle(curved), 0.02 * min(rows, columns)
    u, v, radius = circle
    off = abs(np.hypot(curved[:, 0] - u, curved[:, 1] - v) - radius)
    if (off < tolerance).mean() < 0.8 or not 0.2 < radius / min(rows, columns) < 3:
        return None
    down, across = np.mgrid[:rows, :columns]
    return Aperture(box & (np.hypot(across - u, down - v) < radius), (float(u), float(v), float(radius)))


def _circle(points: NDArray[np.float64]) -> tuple[float, float, float]:
    """(x, y, radius) of the circle through points (n, 2): algebraic least squares, twice without the outliers."""
    keep = np.ones(len(points), bool)
    for _ in range(3):
        x, y = points[keep].T
        a, b, c = np.linalg.lstsq(np.stack([x, y, np.ones_like(x)], 1), x**2 + y**2, rcond=None)[0]
        radius = float(np.sqrt(max(c + a * a / 4 + b * b / 4, 0)))
        off = abs(np.hypot(points[:, 0] - a / 2, points[:, 1] - b / 2) - radius)
        keep = off <= max(2 * np.median(off), 1.0)
        if keep.sum() < 8:
            break
    return float(a / 2), float(b / 2), radius


def basic_mask(
    stored: NDArray[Any], bits: int | None = None, intensity: str | None = None
) -> tuple[NDArray[np.bool_] | None, tuple[str, ...], Aperture | None]:
    """The pixels that count (None: all of them), what was left out, in sentences, and the lit field where one shows.

    Args:
        stored: [row, column].
        bits: Bits stored, to know saturation (default all of an integer type).
        intensity: What the values are, where known: in an attenuation image the dark surround is air, not a collimator.
    """
    notes = []
    mask = np.ones(stored.shape, bool)
    rows, columns = stored.shape[:2]
    blank = intensity != "attenuation" and (stored.dtype.kind in "iu" or intensity == "transmission")
    aperture = find_aperture(stored) if blank else None
    if aperture is not None:
        mask &= eroded(aperture.inside, max(1, round(min(rows, columns) / 128)))
        if aperture.circle:
            notes.append(
                f"Only the round field was used ({2 * aperture.circle[2]:.0f} pixels across). If it comes from an "
                "image intensifier its distortion was not corrected: expect a few mm unless the image was undistorted."
            )
        else:
            notes.append("Only the lit rectangle was used: its surround is blank.")
    top, bottom, left, right = collimated_borders(stored)
    if aperture is None and (top or bottom or left or right):
        inside = np.zeros_like(mask)
        inside[top : rows - bottom, left : columns - right] = True
        mask &= inside
        notes.append(f"Collimated borders left out: {top} top, {bottom} bottom, {left} left, {right} right lines.")
    elif aperture is None and blank:
        lit = collimated_field(stored)
        lit = lit_field(stored) if lit is None else lit
        if lit is not None:
            mask &= lit
            notes.append(f"Left out what collimator blades cover: {100 * (1 - lit.mean()):.0f} % of the image.")
    clipped = saturated(stored, bits) & mask
    if clipped.any():
        mask &= ~clipped
        notes.append(f"Saturated pixels left out: {100 * clipped.mean():.1f} % of the image.")
    if mask.all():
        return None, (), aperture
    if mask.mean() < 0.02:
        return None, ("Nearly the whole image looks saturated or collimated: no mask was applied.",), None
    return mask, tuple(notes), aperture
