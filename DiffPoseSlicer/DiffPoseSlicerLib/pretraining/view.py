"""What a network sees of an X-ray: the image on the rays of the camera it was trained with, whatever camera took it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..geometry.carm import CArm
from ..imaging.xray import XrayImage

# The input's sides are multiples of this, so that every stage of a network halves it evenly.
MULTIPLE = 16


def network_carm(carm: CArm, pixels: int) -> CArm:
    """The detector of `carm` covered by about `pixels` along its longer side, with pixels about square."""
    extent = np.array(carm.image_size) * carm.pixel_spacing
    rows, columns = (max(MULTIPLE, round(pixels * e / extent.max() / MULTIPLE) * MULTIPLE) for e in extent)
    return carm.resized((rows, columns))


def network_image(xray: XrayImage, carm: CArm) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """An X-ray as the camera `carm` would see it from the same place, and which pixels it really shows.

    Source and ray decide what a pixel shows, so an image of another detector distance, pixel size or principal point is
    exact after resampling: pixels of equal direction are equal. What the X-ray does not show (outside its detector, or
    excluded by its mask) is filled with the mean of what it shows.

    Returns:
        Image and booleans, [row, column] of `carm`.
    """
    rows, columns = xray.pixels.shape
    down = _footprints(rows, carm, xray.carm, 0)
    across = _footprints(columns, carm, xray.carm, 1)
    mask = np.ones((rows, columns), np.float32) if xray.mask is None else xray.mask.astype(np.float32)
    share = down @ mask @ across.T
    seen = share > 0.5
    if not seen.any():
        return np.zeros(carm.image_size, np.float32), seen
    image = (down @ (xray.pixels * mask) @ across.T) / np.maximum(share, 1e-6)
    return np.where(seen, image, image[seen].mean()).astype(np.float32), seen


def _footprints(size: int, target: CArm, source: CArm, axis: int) -> NDArray[np.float32]:
    """(target pixels, source pixels): the share of each target pixel that each source pixel covers, along one axis."""
    count = target.image_size[axis]
    edges = np.arange(count + 1) - 0.5 - target.principal_point[1 - axis]
    slope = edges * target.pixel_spacing[axis] / target.source_to_detector
    edges = slope * source.source_to_detector / source.pixel_spacing[axis] + source.principal_point[1 - axis]
    width = np.diff(edges)
    if width[0] < 1:  # finer than the X-ray: linear between its pixels
        middle = (edges[1:] + edges[:-1]) / 2
        inside = (middle >= -0.5) & (middle <= size - 0.5)
        position = middle.clip(0, size - 1)
        weights = (1 - abs(position[:, None] - np.arange(size))).clip(0)
        return (weights * inside[:, None]).astype(np.float32)
    pixel = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixel + 0.5) - np.maximum(edges[:-1, None], pixel - 0.5)
    return (overlap.clip(0) / width[:, None]).astype(np.float32)
