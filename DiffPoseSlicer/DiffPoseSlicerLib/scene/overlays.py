"""How a fluoroscopy and a synthetic X-ray are laid over each other to be judged by eye. Arrays only, [row, column]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .carm_nodes import window_of

Image = NDArray[np.float32]
BLEND, CHECKERBOARD, EDGES, DIFFERENCE = "blend", "checkerboard", "edges", "difference"
MODES = (BLEND, CHECKERBOARD, EDGES, DIFFERENCE)
# What is not to be seen has this value and falls below the display's threshold.
HIDDEN = -1.0


def scaled(image: Image) -> Image:
    """0..1 over the image's window, cut off beyond."""
    low, high = window_of(image)
    return np.clip((image - low) / (high - low), 0.0, 1.0).astype(np.float32)


def fitted(image: Image, shape: tuple[int, int]) -> Image:
    """An image on another number of pixels that cover the same detector, the nearest taken."""
    if image.shape == shape:
        return image
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(shape, image.shape, strict=True))
    return image[np.ix_(rows, columns)]


def checkerboard(drr: Image, squares: int = 8) -> Image:
    """The synthetic X-ray in every other square, HIDDEN in the rest; `squares` along the longer side."""
    side = max(2, round(max(drr.shape) / squares))
    rows, columns = (np.arange(n) // side for n in drr.shape)
    return np.where((rows[:, None] + columns[None, :]) % 2 == 0, scaled(drr), HIDDEN).astype(np.float32)


def edges(drr: Image, share: float = 0.06) -> Image:
    """The strongest `share` of the synthetic X-ray's edges, 0.4..1; HIDDEN elsewhere."""
    image = scaled(drr)
    # A 3 x 3 mean keeps the noise of single pixels from counting as edges.
    padded = np.pad(image, 1, mode="edge")
    rows, columns = image.shape
    smooth = sum(padded[r : r + rows, c : c + columns] for r in range(3) for c in range(3)) / 9.0
    down, right = np.gradient(smooth)
    strength = np.hypot(down, right).astype(np.float32)
    strength = _thinned(strength, np.abs(down) > np.abs(right))
    step = max(1, int(np.sqrt(strength.size / 40000)))
    sample = strength[::step, ::step]
    limit, top = np.quantile(sample, [1 - share, 0.999])
    if top <= limit:
        return np.full(image.shape, HIDDEN, np.float32)
    return np.where(strength > limit, 0.4 + 0.6 * np.clip(strength / top, 0, 1), HIDDEN).astype(np.float32)


def _thinned(strength: Image, steep: NDArray[np.bool_]) -> Image:
    """Edges one or two pixels wide: 0 wherever a neighbour across the edge is stronger. `steep`: the edge runs along
    the row, its neighbours are above and below."""
    padded = np.pad(strength, 1)
    across = np.where(
        steep, np.maximum(padded[:-2, 1:-1], padded[2:, 1:-1]), np.maximum(padded[1:-1, :-2], padded[1:-1, 2:])
    )
    return np.where(strength >= across, strength, 0.0).astype(np.float32)


def difference(fluoroscopy: Image, drr: Image) -> Image:
    """Fluoroscopy less synthetic X-ray, each with mean 0 and deviation 1 first: 0 where they agree."""
    drr = fitted(drr, fluoroscopy.shape)
    normal = [(image - image.mean()) / max(float(image.std()), 1e-6) for image in (fluoroscopy, drr)]
    return (normal[0] - normal[1]).astype(np.float32)
