"""Pictures that show how well a pose fits: the fluoroscopy in grey with the edges of the rendered X-ray in colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Image = NDArray[np.float64]

EDGE_COLOUR = (255, 150, 20)


def overlay_image(
    xray_pixels: ArrayLike,
    drr: ArrayLike,
    mask: NDArray[np.bool_] | None = None,
    colour: tuple[int, int, int] = EDGE_COLOUR,
    share: float = 0.1,
) -> NDArray[np.uint8]:
    """Grey X-ray with the edges of a DRR drawn over it: [row, column, 3] uint8.

    Args:
        xray_pixels: attenuation [row, column], bone bright.
        drr: line integrals of the same shape.
        mask: pixels of the X-ray that count; the others are shown black.
        colour: of the edges.
        share: which part of the DRR's pixels the edges take at most, the strongest first.
    """
    drr = np.asarray(drr, float)
    grey = stretched(xray_pixels, _around(drr, mask))
    if mask is not None:
        grey = grey * mask
    strength = edges(drr, share)[..., None]
    picture = (1 - strength) * grey[..., None] * 255 + strength * np.array(colour, float)
    return np.rint(picture).astype(np.uint8)


def stretched(image: ArrayLike, where: NDArray[np.bool_] | None = None) -> Image:
    """An image scaled to [0, 1] between the 0.5 and 99.5 percentiles of its pixels (those in `where`)."""
    image = np.asarray(image, float)
    low, high = np.percentile(image if where is None else image[where], [0.5, 99.5])
    return np.clip((image - low) / max(high - low, 1e-12), 0, 1)


def _around(drr: Image, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """The pixels whose grey values are to be told apart: the rectangle that the DRR fills, less what does not count."""
    shadow = drr > 0.02 * drr.max()
    where = shadow.any(1)[:, None] & shadow.any(0)
    if mask is not None and (where & mask).any():
        where &= mask
    return where if where.any() else np.ones(drr.shape, bool)


def edges(image: Image, share: float = 0.1) -> Image:
    """Thin lines along the steepest slopes of an image, as opacities in [0, 1].

    A pixel is on a line where the slope is larger than at both its neighbours across it (Canny, IEEE PAMI 8, 1986), and
    among the steepest `share` of those that have a slope at all. Each slope counts relative to its surroundings, so
    that faint bones show, too.
    """
    size = max(image.shape)
    smooth = _smoothed(image, max(1.0, size / 200))
    down, right = np.gradient(smooth)
    slope = np.hypot(down, right)
    sloping = slope > 1e-3 * slope.max()
    if slope.max() <= 1e-9:
        return np.zeros_like(slope)
    contrast = slope / (_smoothed(slope, size / 16) + 0.1 * slope[sloping].mean())
    unit_down, unit_right = down / np.maximum(slope, 1e-12), right / np.maximum(slope, 1e-12)
    crest = (slope >= _beside(slope, unit_down, unit_right)) & (slope > _beside(slope, -unit_down, -unit_right))
    limit = np.quantile(contrast[sloping], 1 - share)
    # A soft threshold: lines end gradually instead of in dots.
    return np.where(crest, np.clip((contrast - 0.7 * limit) / max(0.3 * limit, 1e-12), 0, 1), 0.0)


def _beside(values: Image, down: Image, right: Image) -> Image:
    """Values one pixel away in a direction given per pixel, linearly interpolated; the border repeats."""
    rows, columns = values.shape
    v, u = np.mgrid[0:rows, 0:columns]
    v, u = np.clip(v + down, 0, rows - 1), np.clip(u + right, 0, columns - 1)
    v0, u0 = np.floor(v).astype(int), np.floor(u).astype(int)
    v1, u1 = np.minimum(v0 + 1, rows - 1), np.minimum(u0 + 1, columns - 1)
    a, b = v - v0, u - u0
    return (1 - a) * ((1 - b) * values[v0, u0] + b * values[v0, u1]) + a * (
        (1 - b) * values[v1, u0] + b * values[v1, u1]
    )


def _smoothed(image: Image, sigma: float) -> Image:
    """Gaussian smoothing, separable; the border repeats."""
    radius = max(1, int(np.ceil(3 * sigma)))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        padded = np.pad(image, [(radius, radius) if axis == n else (0, 0) for n in (0, 1)], mode="edge")
        image = np.apply_along_axis(np.convolve, axis, padded, kernel, "valid")
    return image
