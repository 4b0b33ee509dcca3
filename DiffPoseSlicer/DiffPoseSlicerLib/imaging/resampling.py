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
    plain = _resampled(image, rows, columns)
    if mask is None:
        return plain, None
    share = _resampled(mask, rows, columns)
    inside = _resampled(np.where(mask, image, 0), rows, columns)
    return np.where(share > 1e-6, inside / np.maximum(share, 1e-6), plain), share > 0.5


def _resampled(image: NDArray[Any], rows: int, columns: int) -> NDArray[np.float32]:
    """The product with both :func:`weights`. Whole blocks are averaged without it: BLAS would start its threads for it,
    whose waiting costs a run of small frames more than the work."""
    values = np.asarray(image, np.float32)
    (old_rows, old_columns) = values.shape
    if old_rows % rows == 0 and old_columns % columns == 0:
        blocks = values.reshape(rows, old_rows // rows, columns, old_columns // columns)
        return np.asarray(blocks.mean((1, 3)), np.float32)
    return np.asarray(weights(old_rows, rows) @ values @ weights(old_columns, columns).T, np.float32)
