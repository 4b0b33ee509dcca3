"""Images brought to another number of pixels without aliasing: outer edges stay where they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def weights(old: int, new: int) -> NDArray[np.float32]:
    """(new, old) row-stochastic matrix.

    A whole number of pixels is averaged; otherwise the line through the pixels is, over the new pixel's width, which
    keeps ramps in place where a sum of whole and cut pixels would not. Finer: linear between pixels.
    """
    pixel = np.arange(old)
    edges = np.linspace(0, old, new + 1)[:, None] - 0.5  # of the new pixels, in old ones
    if old % new == 0:
        matrix = (np.minimum(edges[1:], pixel + 0.5) - np.maximum(edges[:-1], pixel - 0.5)).clip(0)
    elif new < old:
        offset = (edges - pixel).clip(-1, 1)
        integral = np.where(offset < 0, (offset + 1) ** 2 / 2, 1 - (1 - offset) ** 2 / 2)  # of the hat function
        matrix = integral[1:] - integral[:-1]
    else:
        position = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
        matrix = (1 - abs(position[:, None] - pixel)).clip(0)
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
