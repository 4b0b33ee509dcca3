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
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..imaging.xray import XrayImage

# Scatter-to-primary ratios tried, and pedestals that are the same everywhere, as parts of the mean transmission.
RATIOS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
LEVELS = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)
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
        share = np.maximum(smooth(weight, sigma), 1e-3)
        scatter: NDArray[np.floating] = np.zeros_like(rest)
        for _ in range(3):  # scatter = ratio * blur(rest - scatter), relaxed so that any ratio converges
            blurred = smooth((rest - scatter) * weight, sigma) / share
            scatter = scatter + (self.ratio * blurred - scatter) / (1 + self.ratio)
        primary = np.maximum(rest - scatter, _LEAST * transmission)
        return replace(xray, pixels=(-np.log(primary)).astype(np.float32))


def fit_scatter(agreement: Callable[[Scatter], float]) -> Scatter:
    """The pedestal with the best agreement: first the ratio, then the level, then the ratio again."""
    ratio = _best(RATIOS, lambda r: agreement(Scatter(r)))
    level = _best(LEVELS, lambda x: agreement(Scatter(ratio, x)))
    if level:
        ratio = _best(RATIOS, lambda r: agreement(Scatter(r, level)))
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
    """A wide blur: three box filters along each axis, mirrored at the borders."""
    side = max(2 * round(sigma) + 1, 3)  # three boxes of this side have a variance of (side^2 - 1) / 4
    result = np.asarray(image, np.float64)
    for axis in (0, 1):
        reach = min(side // 2, image.shape[axis] - 1)
        for _ in range(3):
            pad = [(0, 0), (0, 0)]
            pad[axis] = (reach + 1, reach)
            total = np.cumsum(np.pad(result, pad, mode="symmetric"), axis)
            length = image.shape[axis]
            high = np.take(total, np.arange(2 * reach + 1, 2 * reach + 1 + length), axis)
            low = np.take(total, np.arange(length), axis)
            result = (high - low) / (2 * reach + 1)
    return result.astype(np.float32)
