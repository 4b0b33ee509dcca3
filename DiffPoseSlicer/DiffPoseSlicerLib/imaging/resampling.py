"""Images brought to another number of pixels without aliasing: outer edges stay where they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def weights(old: int, new: int) -> NDArray[np.float32]:
    """(new, old) row-stochastic matrix: the mean over the area of each new pixel, or linear between pixels if finer."""
    if new <= old:
        edges = np.linspace(0, old, new + 1)
        pixel = np.arange(old)
        overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        matrix = overlap.clip(0)
    else:
        position = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
        matrix = (1 - abs(position[:, None] - np.arange(old))).clip(0)
    return (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)


def resample(image: NDArray[Any], rows: int, columns: int, mask: NDArray[np.bool_] | None = None) -> tuple[Any, Any]:
    """(image, mask) of rows x columns pixels; only pixels in the mask contribute, and half of a pixel must be in it."""
    down, across = weights(image.shape[0], rows), weights(image.shape[1], columns).T
    plain = down @ np.asarray(image, np.float32) @ across
    if mask is None:
        return plain, None
    share = down @ mask.astype(np.float32) @ across
    inside = down @ np.where(mask, image, 0).astype(np.float32) @ across
    return np.where(share > 1e-6, inside / np.maximum(share, 1e-6), plain), share > 0.5
