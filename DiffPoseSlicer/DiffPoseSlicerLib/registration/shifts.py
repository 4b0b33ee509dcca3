"""Where pieces of an X-ray would rather lie: each is moved over the rendered image until it agrees best.

At a right pose no piece gains by moving. Another patient, a bent one, or a pose one vertebra off show as pieces that
want to go different ways.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..geometry.se3 import Array
from .similarity import Patches

# Pieces of this many pixels a side are moved by up to so many, on half the resolution.
_SIDE, _REACH = 14, 4
_TINY = 1e-12


def local_shifts(rendered: NDArray, xray: NDArray, weight: NDArray) -> tuple[float, float]:
    """How far the pieces of an X-ray want to move, and what that gains.

    Args:
        rendered, xray: [row, column], attenuation.
        weight: [row, column] in [0, 1], pixels that count.

    Returns:
        Root mean square of the shifts in pixels, and the mean gain in correlation, both weighted by contrast; 0 for an
        image too small to move anything in.
    """
    w = _halved(weight) + 1e-6
    # Pixels that do not count must not be seen through the averages.
    inside = weight > 0.5
    a = _halved(rendered)
    f = _halved(np.where(inside, xray, xray[inside].mean() if inside.any() else 0))
    if min(a.shape) < 2 * _REACH + 4:
        return 0.0, 0.0
    patches = Patches.tile((a.shape[0] - 2 * _REACH, a.shape[1] - 2 * _REACH), _SIDE)
    u, v = (patches.pixels.astype(int) + _REACH).T
    w = w[v, u].reshape(patches.count, -1)
    total = w.sum(-1)
    piece = f[v, u].reshape(w.shape)
    piece = piece - ((w * piece).sum(-1) / total)[:, None]
    power = (w * piece * piece).sum(-1)
    piece = w * piece / np.sqrt(power + _TINY)[:, None]

    size = 2 * _REACH + 1
    scores = np.zeros((size, size, patches.count))
    for dv in range(size):
        for du in range(size):
            under = a[v + dv - _REACH, u + du - _REACH].reshape(w.shape)
            mean = (w * under).sum(-1) / total
            variance = (w * under * under).sum(-1) - total * mean * mean
            scores[dv, du] = (piece * under).sum(-1) / np.sqrt(np.maximum(variance, _TINY) + 1e-6)
    each = np.arange(patches.count)
    best = scores.reshape(-1, patches.count).argmax(0)
    top = scores.reshape(-1, patches.count)[best, each]
    row, column = best // size, best % size

    def at(rows: Array, columns: Array) -> Array:
        return scores[np.clip(rows, 0, size - 1), np.clip(columns, 0, size - 1), each]

    down = row - _REACH + _peak(at(row - 1, column), top, at(row + 1, column))
    right = column - _REACH + _peak(at(row, column - 1), top, at(row, column + 1))
    contrast = np.sqrt(power / total)
    share = np.minimum(contrast, 0.5 * np.sqrt(power.sum() / total.sum()))
    share = share * np.minimum(total / w.shape[1] / 0.3, 1) * np.maximum(top, 0) + 1e-9
    share = share / share.sum()
    gain = top - scores[_REACH, _REACH]
    return float(2 * np.sqrt((share * (down**2 + right**2)).sum())), float((share * gain).sum())


def _halved(image: NDArray) -> NDArray:
    """Means of 2 x 2 pixels."""
    rows, columns = (n // 2 for n in image.shape)
    return image[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean((1, 3))


def _peak(before: Array, at: Array, after: Array) -> Array:
    """Where between three values the parabola through them peaks, -0.5 to 0.5."""
    bend = np.minimum(before - 2 * at + after, -1e-9)
    return np.clip(0.5 * (before - after) / bend, -0.5, 0.5)
