"""Image similarities of the DiffPose family, each with its derivative by the rendered image. 1 is the best.

Global, local (all overlapping windows) and gradient normalised cross-correlation. Written out by hand, so that neither
autograd nor torch is needed: a score's gradient times the renderer's Jacobian is its gradient by the pose.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float64]
Score = Callable[[Image, Image], tuple[float, Image]]

_EPS = 1e-5


def ncc(fixed: Image, moving: Image) -> tuple[float, Image]:
    """Normalised cross-correlation of all values, and its derivative by `moving`; any shape."""
    a, b = fixed - fixed.mean(), moving - moving.mean()
    va, vb = (a * a).mean() + _EPS, (b * b).mean() + _EPS
    scale = np.sqrt(va * vb)
    value = (a * b).mean() / scale
    return float(value), (a / scale - value * b / vb) / a.size


def local_ncc(fixed: Image, moving: Image, window: int = 13) -> tuple[float, Image]:
    """Mean normalised cross-correlation over all windows of `window` pixels that lie in the images [row, column]."""
    window = min(window, *fixed.shape)
    n = float(window * window)
    a, b = fixed - fixed.mean(), moving - moving.mean()  # for the digits of what follows
    ma, mb = _sums(a, window) / n, _sums(b, window) / n
    va = np.maximum(_sums(a * a, window) / n - ma * ma, 0) + _EPS
    vb = np.maximum(_sums(b * b, window) / n - mb * mb, 0) + _EPS
    scale = np.sqrt(va * vb)
    values = (_sums(a * b, window) / n - ma * mb) / scale
    # d value / d b_i = ((a_i - ma) / scale - value (b_i - mb) / vb) / n, summed over the windows that hold pixel i.
    share, part = 1 / scale, values / vb
    spread = lambda image: _spread(image, window, fixed.shape)  # noqa: E731
    gradient = a * spread(share) - spread(ma * share) - b * spread(part) + spread(mb * part)
    return float(values.mean()), gradient / (n * values.size)


def multiscale_ncc(fixed: Image, moving: Image, window: int = 13) -> tuple[float, Image]:
    """Half global, half local correlation: DiffPose's score at test time."""
    (whole, by_whole), (local, by_local) = ncc(fixed, moving), local_ncc(fixed, moving, window)
    return (whole + local) / 2, (by_whole + by_local) / 2


def gradient_ncc(fixed: Image, moving: Image) -> tuple[float, Image]:
    """Mean of the correlations of the images' derivatives along rows and columns (central differences)."""
    score, gradient = 0.0, np.zeros_like(moving)
    for axis in (0, 1):
        value, by_slope = ncc(_slope(fixed, axis), _slope(moving, axis))
        score += value / 2
        gradient += _slope_adjoint(by_slope, axis, moving.shape) / 2
    return score, gradient


SCORES: dict[str, Score] = {
    "ncc": ncc,
    "local": local_ncc,
    "multiscale": multiscale_ncc,
    "gradient": gradient_ncc,
}


def _sums(image: Image, window: int) -> Image:
    """Sums over all windows that lie in the image."""
    for axis in (0, 1):
        total = np.concatenate([np.zeros_like(image.take([0], axis)), np.cumsum(image, axis)], axis)
        count = image.shape[axis] - window + 1
        image = total.take(np.arange(window, window + count), axis) - total.take(np.arange(count), axis)
    return image


def _spread(windows: Image, window: int, shape: tuple[int, ...]) -> Image:
    """For each pixel the sum over the windows that hold it: the adjoint of :func:`_sums`."""
    return _sums(np.pad(windows, window - 1), window).reshape(shape)


def _slope(image: Image, axis: int) -> Image:
    count = image.shape[axis]
    return image.take(np.arange(2, count), axis) - image.take(np.arange(count - 2), axis)


def _slope_adjoint(slope: Image, axis: int, shape: tuple[int, ...]) -> Image:
    result = np.zeros(shape)
    upper = [slice(None)] * len(shape)
    lower = [slice(None)] * len(shape)
    upper[axis], lower[axis] = slice(2, None), slice(None, -2)
    result[tuple(upper)] += slope
    result[tuple(lower)] -= slope
    return result
