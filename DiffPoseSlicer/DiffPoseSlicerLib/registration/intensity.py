"""The X-ray's unknown intensity mapping: undoing scatter and display curves far enough for edges to sit where they are.

Local correlation forgives any smooth linear mapping, and a power law of the transmission is linear in attenuation. What
is left is scatter: it adds a smooth pedestal to the transmission, flattens dense regions more than thin ones and so shifts
the flanks of the outline, which the registration takes for a change of depth. Taking off a share of the blurred
transmission restores the primary image well enough when the share fits, and the share that fits is the one with the best
correlation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..imaging.xray import XrayImage

# Scatter-to-primary ratios tried, for each shape of the pedestal.
RATIOS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)
# Width of the blur that makes the pedestal, as a part of the image's longer side; infinite: the same everywhere.
WIDTHS = (1 / 8, np.inf)
# The primary image is never taken below this part of the transmission.
_LEAST = 0.05


@dataclass(frozen=True)
class Scatter:
    """A pedestal under the transmission: scatter-to-primary ratio and width of its blur."""

    ratio: float = 0.0
    width: float = WIDTHS[0]

    def removed(self, xray: XrayImage) -> XrayImage:
        """The X-ray without the pedestal; attenuation in, attenuation out."""
        if self.ratio == 0:
            return xray
        transmission = np.exp(-xray.pixels)
        weight = np.ones_like(transmission) if xray.mask is None else xray.mask.astype(np.float32)
        if np.isfinite(self.width):
            sigma = self.width * max(transmission.shape)
            pedestal = smooth(transmission * weight, sigma) / np.maximum(smooth(weight, sigma), 1e-3)
        else:
            pedestal = float((transmission * weight).sum() / max(weight.sum(), 1.0))
        primary = np.maximum(transmission - self.ratio / (1 + self.ratio) * pedestal, _LEAST * transmission)
        return replace(xray, pixels=(-np.log(primary)).astype(np.float32))


def fit_scatter(agreement: Callable[[Scatter], float]) -> Scatter:
    """The pedestal with the best agreement: a grid, and a parabola through the best ratio and its neighbours."""
    tried = {(width, ratio): agreement(Scatter(ratio, width)) for width in WIDTHS for ratio in RATIOS}
    width, ratio = max(tried, key=lambda key: tried[key])
    row = RATIOS.index(ratio)
    if 0 < row < len(RATIOS) - 1:
        x = np.array(RATIOS[row - 1 : row + 2])
        bend, slope, _ = np.polyfit(x, [tried[width, r] for r in x], 2)
        if bend < 0:
            ratio = float(np.clip(-slope / (2 * bend), x[0], x[2]))
    return Scatter(ratio, width)


def smooth(image: NDArray, sigma: float) -> NDArray[np.float32]:
    """A wide blur: three box filters along each axis, mirrored at the borders."""
    side = max(int(round(sigma * 2 / 2)) * 2 + 1, 3)  # three boxes of this side have a variance of (side^2 - 1) / 4
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
