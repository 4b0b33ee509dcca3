"""The X-ray's unknown intensity mapping: undoing scatter and display curves far enough for edges to sit where they are.

Local correlation forgives any smooth linear mapping, and a power law of the transmission is linear in attenuation. What
is left is scatter: it adds a smooth pedestal to the transmission and flattens dense regions more than thin ones. That
shifts the flanks of the outline, which the registration takes for a change of depth. Taking off a share of the blurred
transmission restores the primary image well enough when the share fits, and the share that fits is the one with the
best correlation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..imaging.xray import XrayImage

# Scatter-to-primary ratios tried, and pedestals that are the same everywhere, as parts of the mean transmission.
RATIOS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
LEVELS = (-1.5, -1.0, -0.6, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)
# Width of the blur that makes scatter of the primary image, as a part of the image's longer side.
_WIDTH = 1 / 8
# The primary image is never taken below this part of the transmission.
_LEAST = 0.04


@dataclass(frozen=True)
class Scatter:
    """A pedestal under the transmission.

    Attributes:
        ratio: of scatter, the widely blurred primary image, to the primary image itself.
        level: of a part that is the same everywhere (glare, an offset of the display), to the mean transmission.
    """

    ratio: float = 0.0
    level: float = 0.0

    def removed(self, xray: XrayImage) -> XrayImage:
        """The X-ray without the pedestal; attenuation in, attenuation out."""
        if self.ratio == 0 and self.level == 0:
            return xray
        transmission = np.exp(-xray.pixels)
        weight = np.ones_like(transmission) if xray.mask is None else xray.mask.astype(np.float32)
        mean = float((transmission * weight).sum() / max(weight.sum(), 1.0))
        rest = transmission - np.float32(self.level * mean)
        sigma = _WIDTH * max(transmission.shape)
        scatter: NDArray[np.floating] = np.zeros_like(rest)
        for _ in range(3):  # scatter = ratio * blur(rest - scatter), relaxed so that any ratio converges
            blurred = smooth(np.maximum(rest - scatter, 0), sigma)
            scatter = scatter + (self.ratio * blurred - scatter) / (1 + self.ratio)
        primary = np.maximum(rest - scatter, _LEAST * transmission)
        return replace(xray, pixels=(-np.log(primary)).astype(np.float32))

    @staticmethod
    def amplification(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
        """What taking off a pedestal does to the noise of each pixel: the transmission over what is left of it.

        Pixels held at the least primary image follow the transmission and keep their noise.
        """
        factor = np.exp(after - before)
        return np.where(factor < np.float32(0.999 / _LEAST), factor, np.float32(1))


def fit_scatter(agreement: Callable[[Scatter], float], before: Scatter | None = None) -> Scatter:
    """The pedestal with the best agreement: first the ratio, then the level, then the ratio again.

    Args:
        agreement: how well the X-ray without a pedestal agrees with what is rendered.
        before: an estimate at a pose nearby: only its surroundings are searched.
    """
    ratios: tuple[float, ...] = RATIOS
    levels: tuple[float, ...] = LEVELS
    if before is not None:
        ratios = tuple(
            max(before.ratio * f + d, 0.0) for f, d in ((0.5, -0.05), (0.8, -0.02), (1, 0), (1.3, 0.04), (2, 0.1))
        )
        step = max(0.06, 0.25 * abs(before.level))
        levels = tuple(before.level + d for d in (-step, 0.0, step))
    level = before.level if before else 0.0
    ratio = _best(ratios, lambda r: agreement(Scatter(r, level)))
    level = _best(levels, lambda x: agreement(Scatter(ratio, x)))
    if before is None and level:
        near = (0.6 * ratio, 0.8 * ratio, ratio, 1.25 * ratio + 0.05, 1.6 * ratio + 0.1)
        ratio = _best(near, lambda r: agreement(Scatter(r, level)))
    return Scatter(ratio, level)


def _best(values: tuple[float, ...], agreement: Callable[[float], float]) -> float:
    """The value with the best agreement, between the grid's points by a parabola through the best three."""
    tried = [agreement(value) for value in values]
    row = int(np.argmax(tried))
    if not 0 < row < len(values) - 1:
        return values[row]
    x = np.array(values[row - 1 : row + 2])
    bend, slope, _ = np.polyfit(x, tried[row - 1 : row + 2], 2)
    return float(np.clip(-slope / (2 * bend), x[0], x[2])) if bend < 0 else values[row]


def smooth(image: NDArray, sigma: float) -> NDArray[np.float32]:
    """A wide Gaussian blur (sigma in pixels), mirrored at the borders.

    Averages over cells half a sigma wide are spread back by a Gaussian, as products with thin matrices: these stay
    below the size at which BLAS starts threads, whose waiting costs more than the product.
    """
    (gather_v, spread_v), (gather_u, spread_u) = (blur_matrices(length, float(sigma)) for length in image.shape)
    cells = gather_v @ np.asarray(image, np.float32) @ gather_u.T
    return spread_v @ cells @ spread_u.T


@lru_cache(maxsize=32)
def blur_matrices(length: int, sigma: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gather (cells, length) and spread (length, cells) of a blur along one axis."""
    cells = int(np.clip(np.ceil(2 * length / sigma), 2, length))
    pixels = (np.arange(length) + 0.5) / length * cells
    gather = (np.floor(pixels) == np.arange(cells)[:, None]).astype(float)
    gather /= gather.sum(1, keepdims=True)
    width = np.sqrt(max((sigma * cells / length) ** 2 - 1 / 12, 0.1))
    spread = np.zeros((length, cells))
    for turn in (-1, 0, 1):
        for mirrored in (False, True):
            centres = np.arange(cells) + 0.5
            centres = (2 * turn * cells - centres) if mirrored else (2 * turn * cells + centres)
            spread += np.exp(-0.5 * ((pixels[:, None] - centres) / width) ** 2)
    spread /= spread.sum(1, keepdims=True)
    return gather.astype(np.float32), spread.astype(np.float32)
